"""What changed at a Glance server since a moment of its own clock.

v2 lists what was created or updated (``updated_at=gte:``) and never what was deleted; v1, where it
is served, tells that too (``changes-since``). v2 shows whole seconds where the database keeps
microseconds, nodes differ in their clocks, and a change is stamped before it can be seen: so
whoever reads on must begin somewhat before where he ended.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from resolver.errors import LocationUnavailable
from resolver.glance.glance_server import Server
from resolver.glance.listing import V1, merge, parse_listed, rows_of, v2_passes
from resolver.models import api_versions


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of what changed."""

    there: Mapping[bytes, int] = field(default_factory=dict)
    """Images that are there, with how they are spelt (see `resolver.models.letter_case_of`)."""
    gone: frozenset[bytes] = frozenset()
    asked: float = 0.0
    """When it was asked for, as `time.monotonic` has it."""


async def server_time(server: Server) -> float:
    """The server's clock, in seconds since 1970; ours where it does not tell.

    Raises:
        LocationUnavailable: it did not answer.
    """
    date = (await server.ask("/versions")).headers.get("Date", "")
    try:
        return parsedate_to_datetime(date).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return time.time()


async def changed_since(
    server: Server, versions: tuple[str, ...], since: float
) -> AsyncIterator[Changes]:
    """What changed at or after ``since`` of the server's clock, page by page.

    Raises:
        LocationUnavailable: an answer was no page of such a listing.
    """
    moment = datetime.fromtimestamp(int(since), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    v1, _ = api_versions(versions)
    if v1:
        async for changes in _v1_changes(server, moment):
            yield changes
    if server.uses_v2(versions):
        passes = await v2_passes(server, updated_at=f"gte:{moment}")
        async for page in merge(server, passes):
            yield Changes(there=page.images, asked=page.asked)


async def _v1_changes(server: Server, moment: str) -> AsyncIterator[Changes]:
    marker = ""
    before: set[str] = set()
    while True:
        asked = time.monotonic()
        query = {**V1, "changes-since": moment, **({"marker": marker} if marker else {})}
        reply = await server.ask("/v1/images/detail", query)
        if reply.status != 200:
            raise LocationUnavailable(
                f"listing changes answered {reply.status}", code="bad-listing"
            )
        rows = rows_of(reply.json())
        if not rows:
            return
        there, gone = {}, set()
        for row in rows:
            image_id, letter_case = parse_listed(row["id"])
            if row.get("deleted") is True:
                gone.add(image_id)
            else:
                there[image_id] = letter_case
        yield Changes(there, frozenset(gone), asked)
        marker = rows[-1]["id"]
        if marker in before:
            raise LocationUnavailable("the listing repeats itself", code="bad-listing")
        before.add(marker)
