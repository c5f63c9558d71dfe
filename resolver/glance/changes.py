"""What changed at a Glance server since a moment of the server's own clock.

v2 lists what was created or updated (``updated_at=gte:``), but never what was deleted. v1, where it
is served, lists deleted images too (``changes-since``). v2 has whole seconds where the database has
microseconds, clocks of nodes differ, and a change gets its time before it becomes visible.
Therefore each read must begin some time before the last one ended.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from resolver.errors import LocationUnavailable
from resolver.glance.glance_server import GlanceServer
from resolver.glance.listing import V1_LISTING, ListingPass, merge_passes, v2_passes
from resolver.models import api_versions


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of changes."""

    present: Mapping[bytes, int] = field(default_factory=dict)
    """Images that exist: image id to letter case (see `resolver.models.letter_case_of`)."""
    deleted: frozenset[bytes] = frozenset()
    requested_at: float = 0.0
    """When the page was requested, on `time.monotonic`."""


async def server_time(server: GlanceServer) -> float:
    """The server's clock, in seconds since 1970; ours where the server sends no ``Date``.

    Raises:
        LocationUnavailable: the server did not answer.
    """
    date = (await server.request("/versions")).headers.get("Date", "")
    try:
        return parsedate_to_datetime(date).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return time.time()


async def changed_since(
    server: GlanceServer, versions: tuple[str, ...], since: float
) -> AsyncIterator[Changes]:
    """What changed at or after ``since`` of the server's clock, page by page.

    Raises:
        LocationUnavailable: a response was not a page of such a listing.
    """
    moment = datetime.fromtimestamp(int(since), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    v1, _ = api_versions(versions)
    if v1:
        async for changes in _v1_changes(server, moment):
            yield changes
    if server.uses_v2(versions):
        passes = await v2_passes(server, updated_at=f"gte:{moment}")
        async for page in merge_passes(server, passes):
            yield Changes(present=page.images, requested_at=page.requested_at)


async def _v1_changes(server: GlanceServer, moment: str) -> AsyncIterator[Changes]:
    listing = ListingPass("/v1/images/detail", {**V1_LISTING, "changes-since": moment})
    used_markers: set[str] = set()
    while True:
        requested_at = time.monotonic()
        rows = await listing.next_rows(server)
        present, deleted = {}, set()
        for image_id, letter_case, _, row in rows.images:
            if row.get("deleted") is True:
                deleted.add(image_id)
            else:
                present[image_id] = letter_case
        if present or deleted:
            yield Changes(present, frozenset(deleted), requested_at)
        if not rows.markers:
            return
        if listing.marker in used_markers:
            raise LocationUnavailable("the listing repeats itself", code="bad-listing")
        used_markers.add(listing.marker)
