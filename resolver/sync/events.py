"""What notifications say, written to the index.

They come at most once, perhaps again, and perhaps in another order than they were sent in. So each
image's latest is remembered by Glance's own time, and what is there is believed only if it is later
than what is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from resolver.glance import Notice
from resolver.index import Index

REMEMBERED = 50_000
"""Images of which the latest notification is remembered: those of minutes, where they crossed."""


class Latest:
    """The latest notification of each image lately heard of."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, bool]] = {}

    def has_left(self, raw: bytes) -> bool:
        """Whether the latest that was heard of an image is that it was deleted."""
        return self._known.get(raw, (0.0, False))[1]

    def is_news(self, notice: Notice) -> bool:
        """Whether it says what nothing later has said otherwise.

        A deletion always does: another node's clock may be behind, and what is released wrongly is
        found again by asking, while what is kept wrongly stays until a sweep. An image that was
        deleted is there again only by what is later than that.
        """
        stamp, gone = self._known.get(notice.raw, (0.0, False))
        if gone and not notice.gone and notice.stamp and notice.stamp <= stamp:
            return False
        self._known.pop(notice.raw, None)  # to the end
        self._known[notice.raw] = (max(notice.stamp, stamp), notice.gone)
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
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
