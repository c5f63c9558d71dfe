"""A look at a location, and what looks in a row make of its health: fast down, slow up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer
from resolver.models import Change, Check, Health

DOWN_AFTER = 3
"""Failed looks in a row after which a location is down."""

UP_AFTER = 3
"""Good looks in a row after which a location that was down is up again."""

PATIENCE = 5.0
"""Seconds that a look may take in all: who takes longer to say that it is well is not."""

VERSIONS_EVERY = 300.0
"""Seconds after which ``/versions`` is read again where ``/healthcheck`` answers for health."""

MAX_REASON = 300
"""Characters of a reason that are kept."""

HISTORY = 10
"""Changes of health that are kept of a location."""


@dataclass(frozen=True, slots=True)
class HealthSample:
    """What one look saw."""

    at: float
    fault: str = ""
    """Why the location is not well; empty when it is."""
    versions: tuple[str, ...] = ()
    """Empty where they were not asked for, or not to be had."""


async def look(server: GlanceServer, before: Check | None) -> HealthSample:
    """Looks at ``/healthcheck`` where there is one, else at ``/versions``; without credentials,
    which say nothing of the server. Never raises for a bad server."""
    now = time.time()
    fresh = (
        before is not None
        and bool(before.versions)
        and not before.failures
        and abs(now - before.versions_at) < VERSIONS_EVERY
    )
    try:
        async with asyncio.timeout(PATIENCE):
            if await server.healthy() and fresh:
                return HealthSample(now)
            return HealthSample(now, versions=await server.versions())
    except TimeoutError:
        return HealthSample(now, f"it did not answer within {PATIENCE:g} s")
    except LocationUnavailable as error:
        return HealthSample(now, error.detail)


def next_status(before: Check | None, seen: HealthSample, doubt: str = "") -> Check:
    """What is known of a location after one more look.

    ``doubt`` is why a failure may be ours and not the location's: it is told and changes nothing.
    """
    known = before or Check(at=seen.at)
    health = known.health
    if seen.fault:
        failures, successes = known.failures + 1, 0
        reason = seen.fault[:MAX_REASON] + (f" ({doubt})" if doubt else "")
        if failures >= DOWN_AFTER and not doubt:
            health = Health.DOWN
    else:
        failures, successes = 0, known.successes + 1
        if health is not Health.DOWN or successes >= UP_AFTER:
            health, reason = Health.UP, ""
        else:
            reason = f"it answers again, {successes} of {UP_AFTER} times in a row"
    changes = known.changes
    if health is not known.health:
        changes = (Change(at=seen.at, health=health, reason=reason), *changes)[:HISTORY]
    return replace(
        known,
        at=seen.at,
        health=health,
        failures=failures,
        # Of one that is up, counting on would tell nothing.
        successes=0 if health is Health.UP else successes,
        reason=reason,
        versions=seen.versions or known.versions,
        versions_at=seen.at if seen.versions else known.versions_at,
        changes=changes,
    )
