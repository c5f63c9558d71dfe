"""Applies notifications to the index.

Notifications arrive at most once from Glance, perhaps repeatedly from the broker, and perhaps not
in the order in which they were sent. Therefore each deletion is remembered with Glance's own time,
and a notification that the image exists counts only if it was sent later.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from resolver.errors import ShrinkGuardTripped
from resolver.glance import Notice
from resolver.index import Index

MAX_DELETIONS = 50_000
"""Deletions that are remembered. Notifications overtake each other within minutes at most."""


class DeletionLog:
    """When images were deleted, by Glance's own time, according to recent notifications."""

    def __init__(self, max_deletions: int = MAX_DELETIONS) -> None:
        self._max_deletions = max_deletions
        self._deleted_at: dict[bytes, float] = {}
        """Oldest notification first."""

    def __len__(self) -> int:
        return len(self._deleted_at)

    def is_deleted(self, image_id: bytes) -> bool:
        """Whether the latest known notification of an image is its deletion."""
        return image_id in self._deleted_at

    def is_news(self, notice: Notice) -> bool:
        """Whether no later notification contradicts this one; if so, remembers it.

        A deletion always is news, even one that appears to be old: the clock of another node may be
        behind. An image that is released wrongly is found again by a probe, while a claim that is
        wrong stays until the next sweep.
        """
        deleted_at = self._deleted_at.get(notice.image_id)
        if (
            deleted_at is not None
            and not notice.deleted
            and notice.sent_at
            and notice.sent_at <= deleted_at
        ):
            return False
        self._deleted_at.pop(notice.image_id, None)
        if notice.deleted:
            self._deleted_at[notice.image_id] = max(notice.sent_at, deleted_at or 0.0)
            if len(self._deleted_at) > self._max_deletions:
                del self._deleted_at[next(iter(self._deleted_at))]
        return True


async def apply_notices(
    index: Index, number: int, deletions: DeletionLog, notices: Iterable[Notice]
) -> int:
    """Applies notifications of location ``number``, in order, to that location's claims. Returns
    how many were news.

    Raises:
        IndexUnavailable: Redis failed: all of them must be applied again.
    """
    news = 0
    # Of several about one image, the last one counts.
    final: dict[bytes, Notice] = {}
    recreated: set[bytes] = set()
    now = time.time()
    oldest = now
    for notice in notices:
        was_deleted = deletions.is_deleted(notice.image_id)
        if not deletions.is_news(notice):
            continue
        news += 1
        if was_deleted:
            recreated.add(notice.image_id)
        else:
            oldest = min(oldest, notice.sent_at or now)
        final[notice.image_id] = notice
    present = {
        image_id: notice.letter_case for image_id, notice in final.items() if not notice.deleted
    }
    facts = {image_id: notice.facts for image_id, notice in final.items() if not notice.deleted}
    absent = [image_id for image_id, notice in final.items() if notice.deleted]
    # Notifications themselves reported these as deleted, and now report them again.
    claimed_again = {image_id: present[image_id] for image_id in recreated & present.keys()}
    # Whether the others still exist, a poll or a probe may know better by now.
    observed = {
        image_id: letter_case
        for image_id, letter_case in present.items()
        if image_id not in recreated
    }
    if claimed_again:
        await index.claims.claim(number, claimed_again, facts)
    if observed:
        asked = time.monotonic() - (now - oldest)
        await index.observations.record_present(number, observed, asked, facts)
    if absent:
        with contextlib.suppress(ShrinkGuardTripped):  # a sweep decides about them
            await index.observations.record_absent(number, absent)
    return news
