"""What notifications say, written to the index.

They come at most once, perhaps again, and perhaps in another order than they were sent in. So each
deletion is remembered with Glance's own time, and that an image is there is believed only if it was
sent later.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from resolver.glance import Notice
from resolver.index import Index

REMEMBERED = 50_000
"""Images whose deletion is remembered: those of minutes, where notifications crossed."""


class Latest:
    """When images left that were lately heard to have been deleted, by Glance's own time."""

    def __init__(self) -> None:
        self._left: dict[bytes, float] = {}

    def has_left(self, raw: bytes) -> bool:
        """Whether the latest that was heard of an image is that it was deleted."""
        return raw in self._left

    def is_news(self, notice: Notice) -> bool:
        """Whether it says what nothing later has said otherwise.

        A deletion always does: another node's clock may be behind, and what is released wrongly is
        found again by asking, while what is kept wrongly stays until a sweep. An image that was
        deleted is there again only by what is later than that.
        """
        left = self._left.get(notice.raw)
        if left is not None and not notice.gone and notice.stamp and notice.stamp <= left:
            return False
        self._left.pop(notice.raw, None)  # to the end, or for good
        if notice.gone:
            self._left[notice.raw] = max(notice.stamp, left or 0.0)
            if len(self._left) > REMEMBERED:
                del self._left[next(iter(self._left))]
        return True


async def apply(index: Index, number: int, latest: Latest, notices: Iterable[Notice]) -> int:
    """Writes what notifications of location ``number`` say, in their order, to the index; returns
    how many were news. Only this location's claims are touched.

    Raises:
        IndexUnavailable: Redis failed: all of them must be applied again.
    """
    news = 0
    there: dict[bytes, int] = {}
    gone: set[bytes] = set()
    again: set[bytes] = set()
    oldest = now = time.time()
    for notice in notices:
        left = latest.has_left(notice.raw)
        if not latest.is_news(notice):
            continue
        news += 1
        if left:
            again.add(notice.raw)
        else:
            oldest = min(oldest, notice.stamp or now)
        # Of several about one image the last one counts.
        there.pop(notice.raw, None)
        gone.discard(notice.raw)
        if notice.gone:
            gone.add(notice.raw)
        else:
            there[notice.raw] = notice.case
    # What notifications themselves said had left, they say is there again. Of the rest something
    # else may have seen that it left since this was sent.
    back = {raw: case for raw, case in there.items() if raw in again}
    seen = {raw: case for raw, case in there.items() if raw not in again}
    if back:
        await index.claims.claim(number, back)
    if seen:
        await index.sightings.saw(number, seen, time.monotonic() - (now - oldest))
    if gone:
        await index.sightings.lost(number, gone)
    return news
