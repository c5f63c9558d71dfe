"""What changed at a Glance server since a moment of the server's own clock.

v2 lists what was created or updated (``updated_at=gte:``), but never what was deleted. v1, where it
is served, lists deleted images too (``changes-since``). v2 has whole seconds where the database has
microseconds, clocks of nodes differ, and a change gets its time before it becomes visible.
Therefore each read must begin some time before the last one ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from resolver.errors import LocationUnavailable
from resolver.glance.glance_server import GlanceServer
from resolver.glance.listing import V1_LISTING, ListingPass, v2_passes
from resolver.glance.listing_filters import knows_filter
from resolver.image_facts import ImageFacts
from resolver.models import api_versions

_UTC_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z?$")
"""As Glance writes times. Those of v1 have no zone, and are UTC too."""


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of changes."""

    present: Mapping[bytes, int] = field(default_factory=dict)
    """Images that exist: image id to letter case (see `resolver.models.letter_case_of`)."""
    deleted: frozenset[bytes] = frozenset()
    requested_at: float = 0.0
    """When the page was requested, on `time.monotonic`."""
    facts: Mapping[bytes, ImageFacts] = field(default_factory=dict)
    """What is shown of the images that exist besides."""


async def server_time(server: GlanceServer) -> float:
    """The server's clock, in seconds since 1970; ours where the server sends no ``Date``.

    Raises:
        LocationUnavailable: the server did not answer.
    """
    date = (await server.version_document()).date
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
    passes = []
    if v1:
        passes.append(ListingPass("/v1/images/detail", {**V1_LISTING, "changes-since": moment}))
    if server.uses_v2(versions):
        passes += await v2_passes(server, **_since(moment))
    for listing_pass in passes:
        async for changes in _read_changes(server, listing_pass, moment):
            yield changes


async def ensure_changes_can_be_read(server: GlanceServer, versions: tuple[str, ...]) -> None:
    """Raises LocationUnavailable where `changed_since` would always find nothing: a server that
    does not know the filter ``updated_at`` may take it for a property of images."""
    if not server.uses_v2(versions) or api_versions(versions)[0]:
        return
    if not await knows_filter(server, _since("1970-01-01T00:00:00Z")):
        raise LocationUnavailable(
            "it does not know the filter `updated_at`, so polls cannot see what changed: only "
            "sweeps and notifications do",
            code="no-changes",
        )


def _since(moment: str) -> dict[str, str]:
    return {"updated_at": f"gte:{moment}"}


async def _read_changes(
    server: GlanceServer, listing_pass: ListingPass, moment: str
) -> AsyncIterator[Changes]:
    """The pages of one pass, in any order."""
    async for rows in listing_pass.pages(server):
        present, facts, deleted = {}, {}, set()
        for image_id, letter_case, _, row in rows.images:
            _check_is_changed(row, moment)
            if row.get("deleted") is True:
                deleted.add(image_id)
            else:
                present[image_id] = letter_case
                facts[image_id] = ImageFacts.of(row)
        if present or deleted:
            yield Changes(present, frozenset(deleted), listing_pass.requested_at, facts)


def _check_is_changed(row: Mapping[str, object], moment: str) -> None:
    """Raises LocationUnavailable for an image that did not change since: a server that ignores the
    filter would list everything at each poll."""
    updated = row.get("updated_at")
    if isinstance(updated, str) and _UTC_TIME.match(updated) and updated[:19] < moment[:19]:
        raise LocationUnavailable(
            "it ignores the filter for what changed, so polls would read its whole listing: only "
            "sweeps and notifications see changes",
            code="no-changes",
        )
