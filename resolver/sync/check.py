"""A look at a location's ``/versions``: is it up, and which APIs does it serve?"""

from __future__ import annotations

import time
from dataclasses import replace

from resolver.errors import LocationUnavailable
from resolver.glance import Server
from resolver.models import Check, Health

DOWN_AFTER = 3
"""Failed looks in a row after which a location counts as down."""


async def look(server: Server, before: Check | None) -> Check:
    """What a look now tells, given what was known before. Never raises for a bad server."""
    now = time.time()
    try:
        versions = await server.versions()
    except LocationUnavailable as error:
        known = before or Check(at=now)
        failures = known.failures + 1
        health = known.health if failures < DOWN_AFTER else Health.DOWN
        return replace(known, at=now, health=health, failures=failures, reason=error.detail)
    return Check(at=now, health=Health.UP, versions=versions)
