"""A walk over every image of the index: random ids in UUID order, then all others as they are
spread."""

from __future__ import annotations

from collections.abc import AsyncIterator

from resolver.index.claims import Claims
from resolver.index.spreading import is_random, spread

TARGET_IMAGES = 2048
"""Images to read in one batch, as far as whole buckets allow. An export whose client does not read
holds two batches, of some 0.2 kB an image."""

MAX_BUCKETS = 4096
"""Buckets to read in one batch, where most of them are empty."""

POSITION_BITS = 32
"""A position in the walk is this many leading bits of an id; buckets are chosen by some of them. In
the second half of the buckets it is so many more."""

END = 1 << POSITION_BITS
"""The position where the second half begins, if there is one."""

ImageRows = list[tuple[bytes, bytes]]
"""(image id, owners as Redis stores them)."""


async def walk(claims: Claims) -> AsyncIterator[ImageRows]:
    """Every image with its owners, in batches of some thousands; a batch may be empty.

    The walk continues at its position when the index is rebuilt with other buckets meanwhile. It
    is not a snapshot: changes made during the walk may show or not.

    Raises:
        IndexUnavailable: when Redis does not answer.
    """
    position, step = 0, 1
    seen_until = 0  # positions before this one were walked while all ids lay in the first half
    was_spread = claims.buckets.spreads
    while position < END << claims.buckets.spreads:
        buckets = claims.buckets
        if buckets.spreads and not was_spread:
            was_spread, seen_until = True, position
        shift = POSITION_BITS - buckets.bits
        first = position >> shift
        end = min(first + step, buckets.half if first < buckets.half else buckets.count)
        rows: ImageRows = []
        async for bucket, fields in claims.read(range(first, end), buckets=buckets):
            rows += [
                (buckets.join(bucket, field), value) for field, value in sorted(fields.items())
            ]
        await claims.layout.refresh()
        if claims.buckets is not buckets:
            continue  # these buckets may have been read while they were being dropped
        if position != first << shift:  # this bucket begins before the position: rebuilt coarser
            start = position % END
            rows = [row for row in rows if _position(buckets.stored_form(row[0])) >= start]
        if seen_until and first >= buckets.half:
            rows = [row for row in rows if _position(row[0]) >= seen_until]
        yield rows
        position = end << shift
        step = max(1, min(4 * step, MAX_BUCKETS, step * TARGET_IMAGES // max(len(rows), 1)))


def walk_key(image_id: bytes) -> tuple[bool, bytes]:
    """What `walk` orders images by, where ids that are not random are spread."""
    is_ordered = is_random(image_id)
    return not is_ordered, image_id if is_ordered else spread(image_id)


def _position(image_id: bytes) -> int:
    return int.from_bytes(image_id[: POSITION_BITS // 8], "big")
