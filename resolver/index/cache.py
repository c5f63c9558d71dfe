"""Claims cached in this process, for as long as Redis reports no change of them.

Redis reports changes by key, so claims are cached by bucket: the buckets of Redis, or several
neighbours together (see `Buckets.cache_bucket`). A read fills the bucket object that was in place
when it began. An invalidation puts a new object in its place. So a read that races with an
invalidation writes into a detached object, and its stale result is never served.

Claims that are no longer certain, because the connection was lost or their time to live has passed,
become *stale*: they are served only while Redis does not answer. Claims that Redis reported as
changed are dropped.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from resolver.index.codec import lookup_owners
from resolver.models import Owner

CacheBucket = dict[bytes, bytes]
"""Image id -> owners as Redis stores them. The garbage collector does not follow bytes in a plain
dict; a million ids with objects would stop the process for 130 ms at each full collection."""

MAX_ABSENT = 20_000
"""Images without owners that are cached, some 200 bytes each."""

MAX_SHARED_VALUES = 4096
"""Different values of which one copy serves all images."""

_READ_AT = struct.Struct("<d")
"""The time of reading, appended to each stale value; bytes too, for the garbage collector."""


class ClaimCache:
    """Owners by image id: of at most ``size`` images, current ones for ``ttl`` seconds and stale
    ones for ``stale_for`` seconds.

    Images without owners are cached too, but apart, and not more than `MAX_ABSENT` of them: a
    client that asks for random ids must not evict known images. Redis reports the first change of
    a bucket that does not exist yet, as of any key that was read.
    """

    def __init__(
        self,
        size: int,
        ttl: float,
        stale_for: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size = size
        self.ttl = ttl
        self.stale_for = stale_for
        self.count = 0
        """Images and buckets that are cached, stale ones included."""
        self._clock = clock
        self._buckets: dict[int, CacheBucket] = {}
        self._opened_at: OrderedDict[int, float] = OrderedDict()
        """When the first image of a bucket was read; all of them expire with it. Ordered, so that
        the oldest is found at once: a plain dict would search through the slots of deleted ones."""
        self._shared_values: dict[bytes, bytes] = {}
        self._absent: dict[bytes, CacheBucket] = {}
        """Images without owners, oldest first, each with its bucket object when it was read: the
        entry is valid while that object is the current one."""
        self._suspect_until = float("-inf")
        """What was read until then may have changed."""
        self._stale: OrderedDict[int, CacheBucket] = OrderedDict()
        """Stale values by bucket, with `_READ_AT`."""

    @property
    def bucket_count(self) -> int:
        """Buckets with current claims, empty ones included."""
        return len(self._buckets)

    def get(self, bucket: int, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners (perhaps none) and their age in seconds; None if not cached."""
        images = self._buckets.get(bucket)
        if images is None:
            return None
        value = images.get(image_id)
        if value is None:
            return ((), 0.0) if self._is_absent(bucket, images, image_id) else None
        opened_at = self._opened_at[bucket]
        clock = self._clock  # as a local name it is called faster than as a method
        age = clock() - opened_at
        if age > self.ttl or opened_at <= self._suspect_until:
            self._make_stale(bucket)
            return None
        return lookup_owners(value), age

    def _is_absent(self, bucket: int, images: CacheBucket, image_id: bytes) -> bool:
        """Whether the image is known to have no owner. ``images``: the bucket's current object."""
        read_into = self._absent.get(image_id)
        if read_into is None:
            return False
        if read_into is images and self._is_current(bucket):
            return True
        del self._absent[image_id]
        return False

    def _is_current(self, bucket: int) -> bool:
        opened_at = self._opened_at[bucket]
        return self._clock() - opened_at <= self.ttl and opened_at > self._suspect_until

    def get_stale(self, bucket: int, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners as they were read last and how many seconds ago; None if that is
        unknown or more than ``stale_for`` seconds ago."""
        images = self._buckets.get(bucket)
        value = images.get(image_id) if images is not None else None
        if value is not None:
            read_at = self._opened_at[bucket]
        else:
            value = self._stale.get(bucket, {}).get(image_id)
            if value is None:
                return None
            (read_at,) = _READ_AT.unpack(value[-_READ_AT.size :])
            value = value[: -_READ_AT.size]
        age = self._clock() - read_at
        return (lookup_owners(value), age) if age <= self.stale_for else None

    def open(self, numbers: Iterable[int]) -> list[CacheBucket]:
        """The objects of these buckets that a read beginning now may fill, with `put`."""
        now = self._clock()
        return [self._open(number, now) for number in numbers]

    def _open(self, number: int, now: float) -> CacheBucket:
        images = self._buckets.get(number)
        if images is not None:
            opened_at = self._opened_at[number]
            if now - opened_at <= self.ttl and opened_at > self._suspect_until:
                return images
            self._make_stale(number)
        images = self._buckets[number] = {}
        self._opened_at[number] = now
        self.count += 1
        self._evict()
        return images

    def put(
        self,
        numbers: Iterable[int],
        opened: Iterable[CacheBucket],
        ids: Iterable[bytes],
        values: Iterable[bytes],
    ) -> None:
        """Caches what was read since `open` returned ``opened`` for the buckets ``numbers``: of
        each id its owners, empty where it has none. Not of buckets that were invalidated since."""
        buckets, shared_values = self._buckets, self._shared_values
        for number, images, image_id, value in zip(numbers, opened, ids, values, strict=True):
            if not value:
                self._put_absent(number, images, image_id)
            elif buckets.get(number) is images:
                shared = shared_values.get(value)
                if shared is None:
                    shared = value
                    if len(shared_values) < MAX_SHARED_VALUES:
                        shared_values[value] = value
                self.count += image_id not in images
                images[image_id] = shared
                if self.count > self.size:
                    self._evict()

    def put_stale(self, bucket: int, image_id: bytes, value: bytes) -> None:
        """Keeps what was read while Redis reports no changes: it is served only while Redis does
        not answer, and no longer than ``stale_for``. An empty ``value``: it has no owners."""
        if not value:
            self._drop_stale(bucket, image_id)
        elif self.stale_for and self.size:
            stale = self._stale_bucket(bucket)
            self._stale.move_to_end(bucket)
            self.count += image_id not in stale
            stale[image_id] = value + _READ_AT.pack(self._clock())
            self._evict()

    def _stale_bucket(self, bucket: int) -> CacheBucket:
        stale = self._stale.get(bucket)
        if stale is None:
            stale = self._stale[bucket] = {}
            self.count += 1
        return stale

    def _drop_stale(self, bucket: int, image_id: bytes) -> None:
        if self._stale and self._stale.get(bucket, {}).pop(image_id, None) is not None:
            self.count -= 1

    def _put_absent(self, bucket: int, images: CacheBucket, image_id: bytes) -> None:
        """The image had no owner when it was read since `open` returned ``images``. Nothing about
        it may be served as stale either."""
        if self._buckets.get(bucket) is images:
            self._absent.pop(image_id, None)
            self._absent[image_id] = images
            if len(self._absent) > MAX_ABSENT:
                del self._absent[next(iter(self._absent))]
        self._drop_stale(bucket, image_id)

    def drop_absent(self, ids: Iterable[bytes]) -> None:
        """These images have an owner now."""
        if self._absent:
            for image_id in ids:
                self._absent.pop(image_id, None)

    def drop(self, bucket: int) -> None:
        """The bucket has changed."""
        self._remove(bucket)
        if self._stale and (stale := self._stale.pop(bucket, None)) is not None:
            self.count -= len(stale) + 1

    def mark_suspect(self) -> None:
        """Anything may have changed: all that is cached becomes stale."""
        self._suspect_until = self._clock()

    def clear(self) -> None:
        """Drops everything: it belongs to another index."""
        self._buckets.clear()
        self._opened_at.clear()
        self._shared_values.clear()
        self._stale.clear()
        self._absent.clear()
        self.count = 0

    def _evict(self) -> None:
        while self.count > self.size and self._stale:
            self.count -= len(self._stale.popitem(last=False)[1]) + 1  # the oldest
        while self.count > self.size and self._opened_at:
            self._remove(next(iter(self._opened_at)))  # the oldest

    def _remove(self, bucket: int) -> CacheBucket:
        images = self._buckets.pop(bucket, None)
        if images is None:
            return {}
        del self._opened_at[bucket]
        self.count -= len(images) + 1
        return images

    def _make_stale(self, bucket: int) -> None:
        """What was read of the bucket is no longer certain."""
        opened_at = self._opened_at.get(bucket, 0.0)
        images = self._remove(bucket)
        if not (images and self.stale_for):
            return
        read_at = _READ_AT.pack(opened_at)
        shared: dict[bytes, bytes] = {}
        stale = self._stale_bucket(bucket)
        before = len(stale)
        for image_id, value in images.items():
            stale[image_id] = shared.get(value) or shared.setdefault(value, value + read_at)
        self.count += len(stale) - before
