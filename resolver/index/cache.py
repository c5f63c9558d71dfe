"""Claims kept in this process, for as long as Redis says that they have not changed.

What is kept lies in the same buckets as in Redis, since that is how Redis tells of changes. A read
holds on to the bucket that was kept when it began; a change told meanwhile puts another in its
place. So a read that crosses with a change keeps its answer where nobody looks.
"""

from __future__ import annotations

import time

from resolver.models import Owner


class Kept(dict[bytes, tuple[Owner, ...]]):
    """The owners of some images of one bucket."""

    __slots__ = ("born",)

    def __init__(self, born: float) -> None:
        super().__init__()
        self.born = born
        """When the first of them was read; they all die with it. Monotonic."""


class ClaimCache:
    """Owners by image id: those of ``size`` images at most, none for longer than ``ttl`` seconds.

    Images without owner are not kept: what is not there yet may be there the next moment, in a
    place that Redis cannot tell of.
    """

    def __init__(self, size: int, ttl: float) -> None:
        self.size = size
        self.ttl = ttl
        self.count = 0
        """Images and buckets kept."""
        self._buckets: dict[int, Kept] = {}

    def get(self, bucket: int, raw: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners and since how many seconds they have been known; None: not kept."""
        kept = self._buckets.get(bucket)
        if kept is None or (owners := kept.get(raw)) is None:
            return None
        age = time.monotonic() - kept.born
        if age > self.ttl:
            self.drop(bucket)
            return None
        return owners, age

    def open(self, bucket: int) -> Kept:
        """Where to put what a read that begins now will find in this bucket."""
        kept = self._buckets.get(bucket)
        now = time.monotonic()
        if kept is None or now - kept.born > self.ttl:
            self.drop(bucket)
            kept = self._buckets[bucket] = Kept(now)
            self.count += 1
        return kept

    def put(self, bucket: int, kept: Kept, raw: bytes, owners: tuple[Owner, ...]) -> None:
        """Keeps what was read since `open` gave ``kept``, unless the bucket has changed since."""
        if self._buckets.get(bucket) is not kept:
            return
        if raw not in kept:
            self.count += 1
        kept[raw] = owners
        while self.count > self.size and self._buckets:
            self.drop(next(iter(self._buckets)))  # the oldest

    def drop(self, bucket: int) -> None:
        """The bucket has changed."""
        kept = self._buckets.pop(bucket, None)
        if kept is not None:
            self.count -= len(kept) + 1

    def clear(self) -> None:
        """Anything may have changed."""
        self._buckets.clear()
        self.count = 0
