"""Claims kept in this process, for as long as Redis says that they have not changed.

What is cached lies in the same buckets as in Redis, or a few of them together (see
`Buckets.cache_bucket`), since that is how Redis tells of changes. A read holds on to the bucket that was kept when it
began; a change told meanwhile puts another in its place. So a read that crosses with a change
keeps its answer where nobody looks.

What is not sure any more, because the connection was lost or time has passed, is set aside for when
Redis does not answer. What Redis said has changed is not.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict

from resolver.index.codec import decode_owners
from resolver.models import Owner

Kept = dict[bytes, bytes]
"""The owners of some images of one bucket, as Redis has them. Bytes in a plain dict are nothing
that the garbage collector looks at: a million ids as objects would hold all up for 130 ms."""

DISTINCT = 4096
"""Owners' bytes of which one copy serves all images that have them."""


_SINCE = struct.Struct("<d")
"""When it was read, behind each value that was set aside; bytes too, for the same reason."""


class ClaimCache:
    """Owners by image id: those of ``size`` images at most, none for longer than ``ttl`` seconds,
    or set aside for longer than ``stale_for``.

    Images without owner are not kept: what is not there yet may be there the next moment, in a
    place that Redis cannot tell of.
    """

    def __init__(self, size: int, ttl: float, stale_for: float = 0) -> None:
        self.size = size
        self.ttl = ttl
        self.stale_for = stale_for
        self.count = 0
        """Images and buckets kept."""
        self._buckets: dict[int, Kept] = {}
        self._born: OrderedDict[int, float] = OrderedDict()
        """When the first image of a bucket was read; they all die with it. Monotonic. Ordered so
        that the oldest is found at once: a plain dict looks through all that are gone before it."""
        self._values: dict[bytes, bytes] = {}
        self._suspect_since = float("-inf")
        """What was read until then may have changed."""
        self._aside: OrderedDict[int, Kept] = OrderedDict()
        """What was set aside, by bucket."""

    def get(self, bucket: int, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners and since how many seconds they have been known; None: not kept."""
        kept = self._buckets.get(bucket)
        if kept is None or (value := kept.get(image_id)) is None:
            return None
        born = self._born[bucket]
        age = time.monotonic() - born
        if age > self.ttl or born <= self._suspect_since:
            self._set_aside(bucket)
            return None
        return decode_owners(value), age

    def stale(self, bucket: int, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners when they were read last, and how many seconds ago that was."""
        kept = self._buckets.get(bucket)
        value = kept.get(image_id) if kept is not None else None
        if value is not None:
            born = self._born[bucket]
        else:
            value = self._aside.get(bucket, {}).get(image_id)
            if value is None:
                return None
            (born,) = _SINCE.unpack(value[-_SINCE.size :])
            value = value[: -_SINCE.size]
        age = time.monotonic() - born
        return (decode_owners(value), age) if age <= self.stale_for else None

    def open(self, bucket: int) -> Kept:
        """Where to put what a read that begins now will find in this bucket."""
        kept = self._buckets.get(bucket)
        now = time.monotonic()
        born = self._born.get(bucket, now)
        if kept is None or now - born > self.ttl or born <= self._suspect_since:
            self._set_aside(bucket)
            kept = self._buckets[bucket] = {}
            self._born[bucket] = now
            self.count += 1
            self._evict()
        return kept

    def put(self, bucket: int, kept: Kept, image_id: bytes, value: bytes) -> None:
        """Keeps what was read since `open` gave ``kept``, unless the bucket has changed since."""
        if self._buckets.get(bucket) is not kept:
            return
        if image_id not in kept:
            self.count += 1
        same = self._values.get(value)
        if same is None:
            if len(self._values) < DISTINCT:
                self._values[value] = value
            same = value
        kept[image_id] = same
        self._evict()

    def none(self, bucket: int, image_id: bytes) -> None:
        """The image has no owner now."""
        if self._aside and self._aside.get(bucket, {}).pop(image_id, None) is not None:
            self.count -= 1

    def _evict(self) -> None:
        while self.count > self.size and self._aside:
            self.count -= len(self._aside.popitem(last=False)[1]) + 1  # the oldest
        while self.count > self.size and self._born:
            self._forget(next(iter(self._born)))  # the oldest

    def _forget(self, bucket: int) -> Kept:
        kept = self._buckets.pop(bucket, None)
        if kept is None:
            return {}
        del self._born[bucket]
        self.count -= len(kept) + 1
        return kept

    def _set_aside(self, bucket: int) -> None:
        """What was read of the bucket is not sure any more."""
        born = self._born.get(bucket, 0.0)
        kept = self._forget(bucket)
        if not (kept and self.stale_for):
            return
        since = _SINCE.pack(born)
        same: dict[bytes, bytes] = {}
        aside = self._aside.get(bucket)
        if aside is None:
            aside = self._aside[bucket] = {}
            self.count += 1
        before = len(aside)
        for image_id, value in kept.items():
            aside[image_id] = same.get(value) or same.setdefault(value, value + since)
        self.count += len(aside) - before

    def drop(self, bucket: int) -> None:
        """The bucket has changed."""
        self._forget(bucket)
        if self._aside and (aside := self._aside.pop(bucket, None)) is not None:
            self.count -= len(aside) + 1

    def doubt(self) -> None:
        """Anything may have changed."""
        self._suspect_since = time.monotonic()

    def clear(self) -> None:
        """Nothing of it is true of the index that there is now."""
        self._buckets.clear()
        self._born.clear()
        self._values.clear()
        self._aside.clear()
        self.count = 0
