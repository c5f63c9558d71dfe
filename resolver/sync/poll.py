"""One poll: what changed at a location since the last, against the index.

It costs a few requests however many images there are, so it comes often; a sweep then finds what no
poll can tell. Reading begins `OVERLAP` before where the last one ended, since a change may be seen
later than it is stamped; what was claimed already is claimed again without a write.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from resolver.glance import GlanceServer, changed_since, server_time
from resolver.index import Index
from resolver.models import Poll, Sweep

OVERLAP = 20.0
"""Seconds that are read again: what the clocks of one cloud's nodes, and its longest transaction,
may differ by."""


async def poll(
    index: Index,
    server: GlanceServer,
    versions: tuple[str, ...],
    before: Poll,
    sweep: Sweep,
    hold: Callable[[], Awaitable[None]],
) -> Poll:
    """Reads on from where ``before`` ended, or from where the last whole sweep began. ``hold`` is
    called before anything is written down and raises where the poll is no longer ours.

    Raises:
        LocationUnavailable: the server failed. What was learnt so far stays.
        IndexUnavailable: Redis failed. The same holds.
    """
    number = server.location.number
    there = await server_time(server)
    now = time.time()
    if before.ended is None:
        since = there - (now - sweep.started if sweep.started else 0)
    else:  # the earlier, where its clock was set back; two seconds are what `Date` rounds off
        since = min(before.mark, there - (now - before.ended) + 2)
    images = claimed = released = 0
    async for changes in changed_since(server, versions, since - OVERLAP):
        await hold()
        images += len(changes.present) + len(changes.deleted)
        claimed += await index.observations.record_present(
            number, changes.present, changes.requested_at
        )
        if changes.deleted:
            kept = await index.records.pinned_claims(number)
            released += await index.observations.record_absent(number, changes.deleted - kept)
    return Poll(ended=time.time(), mark=there, images=images, claimed=claimed, released=released)
