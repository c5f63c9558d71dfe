"""Claims kept in this process, for as long as Redis says that they have not changed.

What is kept lies in the same buckets as in Redis, or a few of them together (`Buckets.shelf`),
since that is how Redis tells of changes. A read holds on to the bucket that was kept when it
began; a change told meanwhile puts another in its place. So a read that crosses with a change
keeps its answer where nobody looks.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from resolver.index.codec import decode_owners
from resolver.models import Owner

Kept = dict[bytes, bytes]
"""The owners of some images of one bucket, as Redis has them. Bytes in a plain dict are nothing
that the garbage collector looks at: a million ids as objects would hold all up for 130 ms."""

DISTINCT = 4096
"""Owners' bytes of which one copy serves all images that have them."""


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
        self._born: OrderedDict[int, float] = OrderedDict()
        """When the first image of a bucket was read; they all die with it. Monotonic. Ordered so
        that the oldest is found at once: a plain dict looks through all that are gone before it."""
        self._values: dict[bytes, bytes] = {}

    def get(self, bucket: int, raw: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners and since how many seconds they have been known; None: not kept."""
        kept = self._buckets.get(bucket)
        if kept is None or (value := kept.get(raw)) is None:
            return None
        age = time.monotonic() - self._born[bucket]
        if age > self.ttl:
            self.drop(bucket)
            return None
        return decode_owners(value), age

    def open(self, bucket: int) -> Kept:
        """Where to put what a read that begins now will find in this bucket."""
        kept = self._buckets.get(bucket)
        now = time.monotonic()
        if kept is None or now - self._born[bucket] > self.ttl:
            self.drop(bucket)
            kept = self._buckets[bucket] = {}
            self._born[bucket] = now
            self.count += 1
            self._make_room()
        return kept

    def put(self, bucket: int, kept: Kept, raw: bytes, value: bytes) -> None:
        """Keeps what was read since `open` gave ``kept``, unless the bucket has changed since."""
        if self._buckets.get(bucket) is not kept:
            return
        if raw not in kept:
            self.count += 1
        same = self._values.get(value)
        if same is None:
            if len(self._values) < DISTINCT:
                self._values[value] = value
            same = value
        kept[raw] = same
        self._make_room()

    def _make_room(self) -> None:
        while self.count > self.size and self._born:
            self.drop(next(iter(self._born)))  # the oldest

    def drop(self, bucket: int) -> None:
        """The bucket has changed."""
        kept = self._buckets.pop(bucket, None)
        if kept is not None:
            del self._born[bucket]
            self.count -= len(kept) + 1

    def clear(self) -> None:
        """Anything may have changed."""
        self._buckets.clear()
        self._born.clear()
        self._values.clear()
        self.count = 0
