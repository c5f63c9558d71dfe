"""The audit log: the last changes that operators made.

A change of a location is logged by the script that makes it, so neither exists without the other.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from resolver.index.keys import Keys
from resolver.index.record_codec import MAX_NUMBER, MAX_RECORD_BYTES, MIN_NUMBER
from resolver.index.redis.client import RedisClient
from resolver.index.redis.redis_errors import DECODE_ERRORS
from resolver.index.redis.replies import parses_reply
from resolver.index.redis.scripts import load

RECORD_ENTRY = load("record_audit_entry", "once", "audit")

AUDIT_MAX_ENTRIES = 10_000
"""Entries that are kept; ``audit.lua`` trims the list to as many."""

MAX_DETAIL_CHARACTERS = 1000

MAX_ENTRY_BYTES = 3 * MAX_RECORD_BYTES
"""Longest entry that is parsed: two records, and what else there is to say."""

READ_BATCH_ENTRIES = 1000
"""Entries read with one command."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change."""

    at: float
    """Unix time."""
    by: str
    """Name of the admin token; empty for what a process did at its start."""
    what: str
    location: str
    """Empty for what concerns the whole index."""
    before: Mapping[str, Any] | None
    """The location's fields; None where there was none, or none was changed."""
    after: Mapping[str, Any] | None
    detail: str = ""
    """What else there is to say; entries of format 1 have none."""


REQUIRED_FIELDS = tuple(field.name for field in fields(AuditEntry) if field.name != "detail")


def entry_head(by: str, what: str, location: str, detail: str = "") -> str:
    """The JSON of a new entry without its end: the scripts add ``before`` and ``after``."""
    members = {"at": round(time.time(), 3), "by": by, "what": what, "location": location}
    if detail:
        members["detail"] = detail[:MAX_DETAIL_CHARACTERS]
    return json.dumps(members, separators=(",", ":"))[:-1]


def operation_id() -> str:
    """Names one write, so that a script can recognize it if it is sent again."""
    return secrets.token_hex(8)


class Audit:
    """The log of one index."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def record(self, by: str, what: str, location: str = "", detail: str = "") -> None:
        """Logs an operation that changed no location's fields.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        keys = [self._keys.audit, self._keys.result(operation_id())]
        await self._client.run(RECORD_ENTRY, keys, [entry_head(by, what, location, detail)])

    async def last(self, count: int, location: str = "") -> list[AuditEntry]:
        """At most ``count`` entries, the newest first; those of one location if one is named.

        Raises:
            IndexUnavailable: Redis does not answer, or has no such log there.
        """
        found: list[AuditEntry] = []
        for start in range(0, AUDIT_MAX_ENTRIES, READ_BATCH_ENTRIES):
            texts = await self._client.command(
                "LRANGE", self._keys.audit, start, start + READ_BATCH_ENTRIES - 1
            )
            entries = _parse_entries(texts)
            found += (entry for entry in entries if location in ("", entry.location))
            if len(found) >= count or len(texts) < READ_BATCH_ENTRIES:
                break
        return found[:count]


@parses_reply
def _parse_entries(texts: Any) -> list[AuditEntry]:
    return [entry for entry in map(_parse_entry, texts) if entry is not None]


def _parse_entry(text: bytes) -> AuditEntry | None:
    """None for an entry that this version cannot read. Fields that it does not know are ignored:
    entries are never written again."""
    if len(text) > MAX_ENTRY_BYTES:
        return None
    try:
        members = json.loads(text)
        known = {name: members[name] for name in REQUIRED_FIELDS}
        entry = AuditEntry(**known, detail=members.get("detail", ""))
    except (*DECODE_ERRORS, RecursionError):
        return None
    texts = (entry.by, entry.what, entry.location, entry.detail)
    sides = (entry.before, entry.after)
    is_valid = (
        isinstance(entry.at, int | float)
        and MIN_NUMBER <= entry.at <= MAX_NUMBER
        and all(isinstance(value, str) for value in texts)
        and all(side is None or isinstance(side, dict) for side in sides)
    )
    return entry if is_valid else None
