"""Choosing among an image's owners: pure functions of the owners, the client and the image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from resolver.models import Health, Owner, State
from resolver.registry import LocationView

_STATES = {State.ACTIVE: 0, State.DRAINING: 1, State.MAINTENANCE: 2}
_HEALTH = {Health.UP: 0, Health.UNKNOWN: 1, Health.DOWN: 2}


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client asked for beside the image."""

    region: str = ""
    exclude: frozenset[str] = frozenset()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """An owner that is in the table."""

    view: LocationView
    owner: Owner


def share(view: LocationView, image_id: bytes) -> float:
    """This location's draw for this image; the highest wins.

    Weighted rendezvous hashing: each location draws by itself, so the choice is stable, weights
    are proportions, and one that comes or goes moves only its own share (Schindelhauer and
    Schomaker, 2005).
    """
    weight = view.location.weight
    if weight <= 0:
        return 0.0
    digest = blake2b(image_id, digest_size=8, key=view.name.encode()).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -weight / math.log(uniform)


def left_out(candidate: Candidate, preferences: Preferences) -> str:
    """Why an owner may not be offered at all; empty when it may."""
    location = candidate.view.location
    if location.name in preferences.exclude:
        return "excluded by the request"
    if location.state is State.MAINTENANCE:
        return f"in maintenance{f': {location.reason}' if location.reason else ''}"
    return ""


def rank_key(
    candidate: Candidate, preferences: Preferences, home: str
) -> tuple[int, bool, bool, int, int]:
    """What orders owners before the draw does; the same for every image."""
    view = candidate.view
    location = view.location
    return (
        _STATES[location.state],
        bool(preferences.region) and location.region != preferences.region,
        bool(home) and location.region != home,
        _HEALTH[view.health],
        location.priority,
    )


def has_ties(candidates: Iterable[Candidate], preferences: Preferences, home: str = "") -> bool:
    """Whether the order of these owners depends on the image, since some stand equal."""
    standings = [rank_key(c, preferences, home) for c in candidates if not left_out(c, preferences)]
    return len(set(standings)) < len(standings)


def rank(
    candidates: Iterable[Candidate], image_id: bytes, preferences: Preferences, home: str = ""
) -> list[Candidate]:
    """The owners that may be offered, best first.

    The order: state, the asked region, the home region, health, priority, then the weighted draw.
    """
    offered = [c for c in candidates if not left_out(c, preferences)]
    if len(offered) < 2:
        return offered
    # By name last: those without weight all draw 0, and owners come in no order of their own.
    return sorted(
        offered,
        key=lambda c: (rank_key(c, preferences, home), -share(c.view, image_id), c.view.name),
    )


def reasons(candidate: Candidate, preferences: Preferences, home: str) -> list[str]:
    """Why an offered owner stands where it stands, for people."""
    view = candidate.view
    location = view.location
    said = [f"state {location.state}"]
    if preferences.region:
        said.append(
            f"{'in' if location.region == preferences.region else 'not in'} region {preferences.region}"
        )
    if home:
        said.append(f"{'in' if location.region == home else 'not in'} the home region {home}")
    said += [f"health {view.health}", f"priority {location.priority}", f"weight {location.weight}"]
    return said
