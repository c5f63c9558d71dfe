"""Who changed what: the last changes that operators made, kept beside the registry.

A change of a location is written by the script that makes it, so that neither is without the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resolver.index.keys import Keys
from resolver.index.redis.redis_errors import translate_decode_errors
from resolver.index.scripts import load

if TYPE_CHECKING:
    from resolver.index.redis.client import RedisClient

NOTE = load("note", "audit")

AUDIT_MAX_ENTRIES = 10_000
"""Entries that are kept: the same number as in ``audit.lua``."""

BATCH = 1000
"""Entries read in one go."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change."""

    at: float
    by: str
    """The name of the admin token; empty for what a process did by itself at its start."""
    what: str
    location: str
    """Empty for what concerns the whole index."""
    before: Mapping[str, Any] | None
    """The location's fields; None where there was none, or none was changed."""
    after: Mapping[str, Any] | None


def opening(by: str, what: str, location: str) -> str:
    """An entry of now, without its end, which the scripts write."""
    fields = {"at": round(time.time(), 3), "by": by, "what": what, "location": location}
    return json.dumps(fields, separators=(",", ":"))[:-1]


class Audit:
    """The log of one index."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._key = keys.audit

    async def record(self, by: str, what: str, location: str = "") -> None:
        """Keeps that something was done that changed no location's fields."""
        await self._client.run(NOTE, [self._key], [opening(by, what, location)])

    @translate_decode_errors()
    async def last(self, count: int, location: str = "") -> list[AuditEntry]:
        """The last entries, the newest first; those about one location if one is named.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        found: list[AuditEntry] = []
        for start in range(0, AUDIT_MAX_ENTRIES, BATCH):
            batch = await self._client.command("LRANGE", self._key, start, start + BATCH - 1)
            entries = (AuditEntry(**json.loads(text)) for text in batch)
            found += (one for one in entries if location in ("", one.location))
            if len(found) >= count or len(batch) < BATCH:
                break
        return found[:count]
