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


class DeletionLog:
    """When images left that were lately heard to have been deleted, by Glance's own time."""

    def __init__(self) -> None:
        self._left: dict[bytes, float] = {}

    def has_left(self, image_id: bytes) -> bool:
        """Whether the latest that was heard of an image is that it was deleted."""
        return image_id in self._left

    def is_news(self, notice: Notice) -> bool:
        """Whether it says what nothing later has said otherwise.

        A deletion always does: another node's clock may be behind, and what is released wrongly is
        found again by asking, while what is kept wrongly stays until a sweep. An image that was
        deleted is there again only by what is later than that.
        """
        left = self._left.get(notice.image_id)
        if left is not None and not notice.deleted and notice.sent_at and notice.sent_at <= left:
            return False
        self._left.pop(notice.image_id, None)  # to the end, or for good
        if notice.deleted:
            self._left[notice.image_id] = max(notice.sent_at, left or 0.0)
            if len(self._left) > REMEMBERED:
                del self._left[next(iter(self._left))]
        return True


async def apply(index: Index, number: int, latest: DeletionLog, notices: Iterable[Notice]) -> int:
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
        left = latest.has_left(notice.image_id)
        if not latest.is_news(notice):
            continue
        news += 1
        if left:
            again.add(notice.image_id)
        else:
            oldest = min(oldest, notice.sent_at or now)
        # Of several about one image the last one counts.
        there.pop(notice.image_id, None)
        gone.discard(notice.image_id)
        if notice.deleted:
            gone.add(notice.image_id)
        else:
            there[notice.image_id] = notice.letter_case
    # What notifications themselves said had left, they say is there again. Of the rest something
    # else may have seen that it left since this was sent.
    back = {image_id: letter_case for image_id, letter_case in there.items() if image_id in again}
    seen = {
        image_id: letter_case for image_id, letter_case in there.items() if image_id not in again
    }
    if back:
        await index.claims.claim(number, back)
    if seen:
        await index.observations.record_present(number, seen, time.monotonic() - (now - oldest))
    if gone:
        await index.observations.record_absent(number, gone)
    return news
