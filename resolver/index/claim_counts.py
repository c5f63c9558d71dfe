"""How many claims each location has in each part of the index.

A sweep has to find the claims of its location that the listing lacks. To read all buckets for each
location would cost locations x buckets. Instead one read of all buckets counts the claims of all
locations, and every sweep that begins soon uses it:

- where it counts no claim of the location, nothing can be missing, and nothing is read;
- where the location claims as many of the listed images as were counted, nothing is missing;
- elsewhere the buckets are read.

The index goes on changing after it was counted. A claim that others have made since and that is
not listed may so be found by the next sweep only. Listed images are always compared with what is
stored now.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import lru_cache

from resolver.index.buckets import Buckets
from resolver.index.claims import Claims, StoredClaim
from resolver.index.codec import lookup_owners, summarize
from resolver.index.unordered_claims import MAX_MEMORY_BYTES, UnorderedClaims

MAX_COUNTS = 1 << 22
"""Counts that are kept, of 4 bytes each. Where locations x buckets are more, a count is for
several neighbouring buckets."""

MAX_SPAN_BITS = 20
"""There are at most so many spans, as a power of two."""

MAX_COUNT_AGE_SECONDS = 300.0
"""How old counts may be when a sweep begins that nobody has requested."""

_COUNT = "I"
_COUNT_BYTES = array(_COUNT).itemsize
_NO_COUNTS = array(_COUNT)


class ClaimCounts:
    """Claims by location and *span*: a power of two of neighbouring buckets. In the first half of
    the buckets, their images follow each other in UUID order."""

    def __init__(self, buckets: Buckets, identity: str = "") -> None:
        """``identity``: of the index that they are counted in."""
        self.buckets = buckets
        self.identity = identity
        self.begun = time.monotonic()
        """When counting began, on `time.monotonic`."""
        self.shift = max(0, buckets.bits - MAX_SPAN_BITS)
        """The span of a bucket is its number shifted right by this."""
        self.images = self._zeros()
        """Images in each span."""
        self._claims: dict[int, array[int]] = {}

    @property
    def count(self) -> int:
        """Spans, empty ones included."""
        return self.buckets.count >> self.shift

    @property
    def half(self) -> int:
        """Spans of the first half of the buckets."""
        return self.buckets.half >> self.shift

    def of(self, number: int) -> array[int]:
        """A location's claims in each span; empty if it has none."""
        return self._claims.get(number, _NO_COUNTS)

    def add(self, bucket: int, values: Iterable[bytes]) -> None:
        """Counts the images of a bucket, given as the bytes of their owners."""
        images = 0
        for value, repeats in Counter(values).items():
            images += repeats
            for number in _numbers(summarize(value)):
                claims = self._claims.get(number)
                if claims is None:
                    claims = self._begin(number)
                claims[bucket >> self.shift] += repeats
        self.images[bucket >> self.shift] += images

    def _begin(self, number: int) -> array[int]:
        while self.shift < self.buckets.bits and (len(self._claims) + 2) * self.count > MAX_COUNTS:
            self.shift += 1
            self.images = _in_pairs(self.images)
            self._claims = {known: _in_pairs(counts) for known, counts in self._claims.items()}
        claims = self._claims[number] = self._zeros()
        return claims

    def _zeros(self) -> array[int]:
        return array(_COUNT, bytes(_COUNT_BYTES * self.count))


def _in_pairs(counts: array[int]) -> array[int]:
    return array(_COUNT, map(int.__add__, counts[::2], counts[1::2]))


@lru_cache(maxsize=4096)
def _numbers(value: bytes) -> tuple[int, ...]:
    return tuple(owner.number for owner in lookup_owners(value) if owner.number > 0)


class LocationSpans:
    """The claims of one location, for a walk along its listing. The buckets are those that the
    counts were made of, also while the index is rebuilt."""

    def __init__(self, claims: Claims, counts: ClaimCounts, number: int) -> None:
        self._claims = claims
        self._counts = counts
        self._number = number
        self._of_location = counts.of(number)
        self.count = counts.half
        """Spans in UUID order, empty ones included."""
        self.total = sum(self._of_location)
        """Claims of the location when they were counted, those that are not in order included."""
        self._id_shift = counts.buckets.shift + counts.shift
        self.is_ordered = counts.buckets.is_ordered
        """Whether the claim on an image lies in these spans, or in `unordered`."""
        self._recounted: set[int] = set()
        """Spans whose buckets are read, whatever was counted."""

    def recount(self, ids: Iterable[bytes]) -> None:
        """Has `compare` read the buckets of these images: they are claimed since the count, and
        would be taken for claims that were counted."""
        self._recounted.update(self._spans_of(ids))

    def span(self, image_id: bytes) -> int:
        """The span that an image belongs to in UUID order, from 0."""
        return int.from_bytes(image_id[:4], "big") >> self._id_shift

    def _spans_of(self, ids: Iterable[bytes]) -> list[int]:
        """The `span` of each id."""
        shift = self._id_shift
        return [int.from_bytes(image_id[:4], "big") >> shift for image_id in ids]

    def begin_of(self, span: int) -> bytes:
        """What sorts before all ids of this span and of later ones, and after those of earlier
        ones."""
        return (span << self._id_shift).to_bytes(4, "big")

    def unordered(self, max_memory_bytes: int = MAX_MEMORY_BYTES) -> UnorderedClaims:
        """The location's other claims. ``max_memory_bytes``: of the ids that are listed."""
        counts = self._counts
        return UnorderedClaims(
            self._claims,
            counts.buckets,
            self._number,
            self._of_location[self.count :],
            counts.shift,
            max_memory_bytes,
        )

    async def compare(
        self, first: int, end: int, listed: Iterable[bytes]
    ) -> AsyncIterator[tuple[int, dict[bytes, StoredClaim]]]:
        """(span, {image id: claim}) of the location in the spans from ``first`` to before ``end``,
        as far as a sweep needs them that has listed just these images there: claims of images
        listed, where it has any in the span, and all that are not listed. All images are in UUID
        order in the index. Claims of several spans that are all listed come together, with the
        number of one of them.

        Raises:
            IndexUnavailable: Redis does not answer, or a bucket has other contents than claims.
        """
        counted = self._of_location
        if not counted:
            return
        ids = list(listed)
        spans = self._spans_of(ids)
        images = self._counts.images
        # A bucket is read as fast as half of its images are looked up.
        to_look_up = {
            span
            for span, count in Counter(spans).items()
            if counted[span] and 2 * count < images[span]
        }
        stored = await self._claims.stored(
            self._number,
            [image_id for image_id, span in zip(ids, spans, strict=True) if span in to_look_up],
            buckets=self._counts.buckets,
        )
        found = Counter(self._spans_of(stored))
        to_read = [
            span
            for span, claims in enumerate(counted[first:end], first)
            # It was not looked up, or some are not listed.
            if claims > found.get(span, 0) or span in self._recounted
        ]
        if not found.keys().isdisjoint(to_read):
            again = set(to_read)
            stored = {i: claim for i, claim in stored.items() if self.span(i) not in again}
        if stored:
            yield first, stored
        buckets, shift = self._counts.buckets, self._counts.shift
        async for bucket, claims in self._claims.of_location(
            self._number, self._buckets_of(to_read), buckets=buckets
        ):
            yield bucket >> shift, claims

    def _buckets_of(self, spans: Iterable[int]) -> Iterator[int]:
        shift = self._counts.shift
        for span in spans:
            yield from range(span << shift, (span + 1) << shift)


class SharedCounts:
    """Counts that the sweeps of this process share."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._counts: ClaimCounts | None = None
        self._lock = asyncio.Lock()

    async def spans(self, number: int, since: float) -> LocationSpans:
        """The spans of a location, with counts that were begun at ``since`` (`time.monotonic`) or
        later. Callers that wait for counts at the same time share them.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        async with self._lock:
            counts = self._counts
            if counts is None or counts.begun < since or not self._are_current(counts):
                counts = self._counts = await self._count()
        return LocationSpans(self._claims, counts, number)

    def _are_current(self, counts: ClaimCounts) -> bool:
        layout = self._claims.layout
        return counts.buckets is layout.current and counts.identity == layout.identity

    async def _count(self) -> ClaimCounts:
        layout = self._claims.layout
        while True:
            counts = ClaimCounts(layout.current, layout.identity)
            async for bucket, values in self._claims.read_values(counts.buckets):
                counts.add(bucket, values)
            if self._are_current(counts):
                return counts
