"""One poll of a location: applies what changed there since the last poll to the index.

A poll costs a few requests, however many images there are, so polls are frequent. Deletions that
v2 does not list are found by the next sweep. Reading begins some time before the end of the last
poll, since a change becomes visible later than its time; a claim that exists already costs no
write.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable

from resolver.errors import LocationUnavailable, ShrinkGuardTripped
from resolver.glance import (
    GlanceServer,
    ScopeCache,
    changed_since,
    credential_since,
    ensure_changes_can_be_read,
    server_time,
)
from resolver.index import Index
from resolver.models import QUICK_POLL_SECONDS, Poll, Sweep
from resolver.sync.timings import DEFAULT_TIMINGS

DATE_PRECISION_SECONDS = 2
"""What a ``Date`` header may be off by, since it has whole seconds."""


async def poll(
    index: Index,
    server: GlanceServer,
    versions: tuple[str, ...],
    scopes: ScopeCache,
    before: Poll,
    sweep: Sweep,
    ensure_held: Callable[[], Awaitable[None]],
    overlap_seconds: float = DEFAULT_TIMINGS.poll_overlap,
) -> Poll:
    """Reads from where ``before`` ended or, for the first poll, from where the last complete sweep
    began. ``ensure_held`` is called before each write and raises where another process has taken
    the poll over.

    Raises:
        LocationUnavailable: the server failed. The changes read so far have been applied.
        IndexUnavailable: Redis failed. The same holds.
    """
    number = server.location.number
    server_now = await server_time(server)
    now = time.time()
    if before.ended is None:
        since = server_now - (now - sweep.started if sweep.started else 0)
    else:
        # The second is earlier where the server's clock has been set back.
        since = min(before.mark, server_now - (now - before.ended) + DATE_PRECISION_SECONDS)
    if before.ended is None or before.error:
        await ensure_changes_can_be_read(server, versions)
    images = claimed = released = 0
    credential = await server.credential()
    async for changes in changed_since(server, versions, since - overlap_seconds):
        await ensure_held()
        images += len(changes.present) + len(changes.deleted)
        claimed += await index.observations.record_present(
            number, changes.present, changes.requested_at, changes.facts
        )
        if changes.deleted:
            pinned = await index.records.pinned_claims(number)
            with contextlib.suppress(ShrinkGuardTripped):  # a sweep decides about them
                gone = changes.deleted - pinned
                released += await index.observations.record_absent(number, gone)
    if sweep.sees_all:
        scope = await scopes.check(server, versions, was_proven=sweep.sees_all_proven)
        await credential_since(server, versions, scope, credential)
        if not scope.sees_all:
            raise LocationUnavailable(
                "its credential no longer sees every image, so a poll may have missed changes",
                code="unauthorized",
            )
    ended = time.time()
    return Poll(
        ended=ended,
        began=None if 0 <= ended - now <= QUICK_POLL_SECONDS else now,
        mark=server_now,
        images=images,
        claimed=claimed,
        released=released,
    )
