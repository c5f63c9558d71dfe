"""A walk over every image of the index, in the order of UUIDs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from resolver.index.claims import Claims

TARGET_IMAGES = 4096
"""Images to read in one batch, as far as whole buckets allow."""

MAX_BUCKETS = 4096
"""Buckets to read in one batch, where most of them are empty."""

POSITION_BITS = 32
"""A position in the walk is this many leading bits of an id; buckets are chosen by some of them."""

ImageRows = list[tuple[bytes, bytes]]
"""(image id, owners as Redis stores them), in the order of ids."""


async def walk(claims: Claims) -> AsyncIterator[ImageRows]:
    """Every image with its owners, in batches of some thousands; a batch may be empty.

    The walk continues at its position when the index is rebuilt with other buckets meanwhile. It
    is no snapshot: changes made during the walk may show or not.

    Raises:
        IndexUnavailable: when Redis does not answer.
    """
    position, step = 0, 1
    while position < 1 << POSITION_BITS:
        buckets = claims.buckets
        shift = POSITION_BITS - buckets.bits
        first = position >> shift
        end = min(first + step, buckets.count)
        rows: ImageRows = []
        async for bucket, fields in claims.read(range(first, end), buckets=buckets):
            head = buckets.join(bucket, b"")
            rows += [(head + field, value) for field, value in sorted(fields.items())]
        await claims.layout.refresh()
        if claims.buckets is not buckets:
            continue  # these buckets may have been read while they were being dropped
        if position != first << shift:  # this bucket begins before the position: rebuilt coarser
            start = position.to_bytes(POSITION_BITS // 8, "big")
            rows = [row for row in rows if row[0] >= start]
        yield rows
        position = end << shift
        step = max(1, min(4 * step, MAX_BUCKETS, step * TARGET_IMAGES // max(len(rows), 1)))
