"""Health of a location: one check of it, and what checks in a row mean. Quick to mark a location
down, slow to mark it up again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer
from resolver.models import Change, Check, Health
from resolver.sync.timings import DEFAULT_TIMINGS

DOWN_AFTER_FAILURES = 3
"""Failed checks in a row after which a location is down."""

UP_AFTER_SUCCESSES = 3
"""Successful checks in a row after which a location that was down is up."""

VERSIONS_INTERVAL_SECONDS = 300.0
"""How often ``/versions`` is read where ``/healthcheck`` reports health."""

MAX_REASON_CHARACTERS = 300

MAX_CHANGES = 10
"""Changes of health that a location's status lists."""


@dataclass(frozen=True, slots=True)
class HealthSample:
    """The result of one health check."""

    at: float
    """In seconds since 1970."""
    failure: str = ""
    """Why the location is not well; empty when it is."""
    versions: tuple[str, ...] = ()
    """Empty where they were not read."""


async def probe_health(
    server: GlanceServer,
    before: Check | None,
    timeout_seconds: float = DEFAULT_TIMINGS.health_check_timeout,
) -> HealthSample:
    """Checks ``/healthcheck`` where the server has it, else ``/versions``. It sends no credentials,
    since a bad credential says nothing about the server. Never raises for a bad server."""
    now = time.time()
    versions_are_fresh = (
        before is not None
        and bool(before.versions)
        and not before.failures
        and abs(now - before.versions_at) < VERSIONS_INTERVAL_SECONDS
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            if await server.healthy() and versions_are_fresh:
                return HealthSample(now)
            return HealthSample(now, versions=await server.versions())
    except TimeoutError:
        return HealthSample(now, f"it did not answer within {timeout_seconds:g} s")
    except LocationUnavailable as error:
        # A server that has too many requests answers them.
        is_well = error.problem_code == "rate-limited"
        return HealthSample(now, "" if is_well else error.detail)


def next_status(before: Check | None, sample: HealthSample, doubt: str = "") -> Check:
    """The status of a location after one more check.

    ``doubt`` is why a failure may be ours and not the location's. It is shown with the failure, and
    does not mark the location down.
    """
    known = before or Check(at=sample.at)
    health = known.health
    if sample.failure:
        failures, successes = known.failures + 1, 0
        reason = sample.failure[:MAX_REASON_CHARACTERS] + (f" ({doubt})" if doubt else "")
        if failures >= DOWN_AFTER_FAILURES and not doubt:
            health = Health.DOWN
    else:
        failures, successes = 0, known.successes + 1
        if health is not Health.DOWN or successes >= UP_AFTER_SUCCESSES:
            health, reason = Health.UP, ""
        else:
            reason = f"it answers again, {successes} of {UP_AFTER_SUCCESSES} times in a row"
    changes = known.changes
    if health is not known.health:
        change = Change(at=sample.at, health=health, reason=reason)
        changes = (change, *changes)[:MAX_CHANGES]
    return replace(
        known,
        at=sample.at,
        health=health,
        failures=failures,
        # Successes only count while the location is down.
        successes=0 if health is Health.UP else successes,
        reason=reason,
        versions=sample.versions or known.versions,
        versions_at=sample.at if sample.versions else known.versions_at,
        changes=changes,
    )
