"""Ranking an image's owners: pure functions of the owners, the client's preferences and the image.

This is the only ranking. Redirects, JSON answers and requests that any location can answer
(schemas) all use `rank_key`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address

from resolver.image_facts import STATUS_ORDER, Content, ImageStatus
from resolver.models import Health, Owner, State, format_id
from resolver.registry import LocationView, Table

STATE_ORDER = {State.ACTIVE: 0, State.DRAINING: 1, State.MAINTENANCE: 2}
HEALTH_ORDER = {Health.UP: 0, Health.UNKNOWN: 1, Health.DOWN: 2}

RankKey = tuple[bool, int, bool, bool, bool, int, int]
"""http for a client that uses https, state, not in the asked region, not in that of the client's
network, not in the home region, health, priority. Lower is better."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client asks for besides the image."""

    region: str = ""
    """Owners in this region come first; empty for no preference."""
    exclude: frozenset[str] = frozenset()
    """Names of locations that must not be offered."""
    fresh: bool = False
    """The owners themselves must be asked; caches do not count."""
    client: IPv4Address | IPv6Address | None = None
    """The client's address, where it may choose the region."""
    https: bool = False
    """Whether the client uses https, so that it is not sent to http if it need not be."""
    network_region: str = ""
    """The region near the client, by a table of locations; see `for_table`."""

    def for_table(self, table: Table) -> Preferences:
        """The same with the region near the client, as the locations of this table name it."""
        region = table.network_regions.region_of(self.client) if self.client else ""
        return self if region == self.network_region else replace(self, network_region=region)

    @property
    def trust_index(self) -> bool:
        """Whether claims are believed without asking their owners."""
        return not (self.fresh or self.exclude)


DEFAULT_PREFERENCES = Preferences()


@dataclass(frozen=True, slots=True)
class ImageOwner:
    """A registered location that has an image, and what is known of the image there."""

    view: LocationView
    letter_case: int = 0
    """Upper-case digits of the id there; see `resolver.models.letter_case_of`."""
    status: ImageStatus | None = None
    content: Content | None = None

    @property
    def is_usable(self) -> bool:
        """Whether the image's bytes can be downloaded there, as far as is known."""
        return STATUS_ORDER[self.status] == 0

    def is_duplicate_of(self, other: ImageOwner) -> bool:
        """Whether a client may take the image from here instead: its bytes can be downloaded, and
        are known to be the same. (Of the first owner they are known only from the sweep on that
        follows the second one's claim.)"""
        return self.is_usable and self.has_bytes_of(other)

    def has_bytes_of(self, other: ImageOwner) -> bool:
        """Whether the image's bytes here and there are known to be the same."""
        return bool(self.content and other.content and self.content.same_as(other.content))

    def spell(self, image_id: bytes, text: str) -> str:
        """The image's id as this location spells it, by which its database finds it. ``text``: the
        id as Glance writes it, or what stands in its place."""
        return format_id(image_id, self.letter_case) if self.letter_case else text

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def number(self) -> int:
        return self.view.location.number


def rendezvous_score(view: LocationView, image_id: bytes) -> float:
    """A location's score for an image. The highest score among equally ranked owners wins.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): every location scores by
    itself. The choice is stable for an image, weights are shares, and a location that is added or
    removed moves only its own share of the images.
    """
    weight = view.location.weight
    if weight <= 0:
        return 0.0
    digest = blake2b(image_id, digest_size=8, key=view.name.encode()).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -weight / math.log(uniform)


def exclusion_reason(view: LocationView, preferences: Preferences) -> str:
    """Why a location must not be offered at all; empty when it may be offered."""
    location = view.location
    if location.name in preferences.exclude:
        return "excluded by the request"
    if view.refused:
        return f"refused: {view.refused}"
    if location.state is State.MAINTENANCE:
        return f"in maintenance{f': {location.reason}' if location.reason else ''}"
    return ""


def owners_of(table: Table, claims: Iterable[Owner]) -> list[ImageOwner]:
    """The claims whose locations are registered."""
    by_number = table.by_number
    return [
        ImageOwner(by_number[claim.number], claim.letter_case, claim.status, claim.content)
        for claim in claims
        if claim.number in by_number
    ]


def rank_key(view: LocationView, preferences: Preferences, home_region: str) -> RankKey:
    """What orders locations before `rendezvous_score` does. It is the same for every image."""
    location = view.location
    return (
        preferences.https and not view.has_https,
        STATE_ORDER[location.state],
        bool(preferences.region) and location.region != preferences.region,
        bool(preferences.network_region) and location.region != preferences.network_region,
        bool(home_region) and location.region != home_region,
        HEALTH_ORDER[view.health],
        location.priority,
    )


def has_ties(owners: Iterable[ImageOwner], preferences: Preferences, home_region: str = "") -> bool:
    """Whether some of these owners rank equally, so that their order depends on the image."""
    keys = [
        (STATUS_ORDER[owner.status], *rank_key(owner.view, preferences, home_region))
        for owner in owners
        if not exclusion_reason(owner.view, preferences)
    ]
    return len(set(keys)) < len(keys)


def rank(
    owners: Iterable[ImageOwner],
    image_id: bytes,
    preferences: Preferences,
    home_region: str = "",
) -> list[ImageOwner]:
    """The owners that may be offered, best first.

    Order: the image's status there, https for a client that uses it, state, asked region, region
    of the client's network, home region, health, priority, then the weighted choice.
    """
    offered = [owner for owner in owners if not exclusion_reason(owner.view, preferences)]
    if len(offered) < 2:
        return offered
    # The name comes last: locations of weight 0 all score 0, and claims have no order.
    return sorted(
        offered,
        key=lambda owner: (
            STATUS_ORDER[owner.status],
            rank_key(owner.view, preferences, home_region),
            -rendezvous_score(owner.view, image_id),
            owner.name,
        ),
    )


def best_view(
    views: Iterable[LocationView], preferences: Preferences, home_region: str
) -> LocationView | None:
    """The best location for a request that is about no image; None where none may be offered."""
    offered = [view for view in views if not exclusion_reason(view, preferences)]
    return min(
        offered,
        key=lambda view: (rank_key(view, preferences, home_region), view.name),
        default=None,
    )


def rank_reasons(owner: ImageOwner, preferences: Preferences, home_region: str) -> list[str]:
    """Why an owner ranks where it does, as text for people."""
    view, location = owner.view, owner.view.location
    reasons = [f"image {owner.status or 'of a status that is not known'}"]
    if preferences.https:
        reasons.append(f"{'https' if view.has_https else 'http'}, as the client uses https")
    reasons.append(f"state {location.state}")
    if preferences.region:
        where = "in" if location.region == preferences.region else "not in"
        reasons.append(f"{where} region {preferences.region}")
    if preferences.network_region:
        where = "in" if location.region == preferences.network_region else "not in"
        reasons.append(f"{where} the region of the client's network {preferences.network_region}")
    if home_region:
        where = "in" if location.region == home_region else "not in"
        reasons.append(f"{where} the home region {home_region}")
    return [
        *reasons,
        f"health {view.health}",
        f"priority {location.priority}",
        f"weight {location.weight}",
    ]
