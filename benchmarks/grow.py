"""An index that begins with few buckets and grows: bytes an image and claims a second on the way.

``python -m benchmarks.grow`` takes three minutes, ``--small`` stops at 100,000 images.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.common import batches, make_table, out, parse_arguments, progress_bar, sorted_ids
from benchmarks.index_memory import IDS_PER_CLAIM, facts_of
from benchmarks.machine import describe_machine, pin_to_core
from benchmarks.redis_server import RedisServer
from resolver.index import Index, open_index

AIMS = {10_000: 30.0, 100_000: 26.0, 1_000_000: 24.0}
"""Bytes an image at most, above what an index of one image takes."""

FIXED_BITS = 16
"""Of the index that does not grow, for comparison: the default before indexes grew."""


async def grow(index: Index) -> None:
    """As an indexer does every two seconds."""
    if await index.sizing.grow_if_needed():
        bits = await index.rebuild.requested()
        assert bits is not None
        await index.rebuild.run(bits, _no_report, drop_after=0)


async def _no_report() -> None:
    pass


async def measure(count: int, bits: int | None) -> list[str]:
    """Bits in the end, bytes an image, and claims a second, of an index of so many images."""
    ids = sorted_ids(count)
    with RedisServer() as redis:
        async with open_index(redis.url, bits=bits) as index:
            await index.claims.claim(1, [bytes(16)])
            await grow(index)
        before = redis.memory()["used_memory"]
        async with open_index(redis.url, bits=bits) as index:
            seconds = 0.0
            for batch in batches(ids, IDS_PER_CLAIM):
                facts = facts_of(batch)
                begun = time.perf_counter()
                await index.claims.claim(1, batch, facts)
                seconds += time.perf_counter() - begun
                await grow(index)
            reached = index.bits
        used = (redis.memory()["used_memory"] - before) / count
    return [str(reached), f"{used:.1f}", f"{count / seconds:,.0f}"]


async def main() -> None:
    options = parse_arguments(__doc__)
    pin_to_core(1)
    out.print(f"benchmarks.grow: {describe_machine()}")
    counts = [count for count in AIMS if not options.small or count <= 100_000]
    rows = make_table(
        "An index that grows, and one that does not",
        *("images", "bits", "bytes an image", "aim", "claims/s"),
        *(f"with {FIXED_BITS} bits: bytes", "claims/s"),
    )
    with progress_bar(2 * len(counts)) as step:
        for count in counts:
            step(f"{count:,} images, growing")
            grown = await measure(count, None)
            step(f"{count:,} images, {FIXED_BITS} bits")
            fixed = await measure(count, FIXED_BITS)
            bits, used, rate = grown
            rows.add_row(f"{count:,}", bits, used, f"{AIMS[count]:g}", rate, *fixed[1:])
    out.print(rows)


if __name__ == "__main__":
    asyncio.run(main())
