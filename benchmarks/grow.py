"""An index that begins with few buckets and grows: bytes an image and claims a second on the way.

``python -m benchmarks.grow`` takes three minutes, ``--small`` stops at 100,000 images.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from benchmarks.common import (
    batches,
    make_table,
    out,
    parse_arguments,
    print_verdict,
    progress_bar,
    sorted_ids,
)
from benchmarks.index_memory import IDS_PER_CLAIM, facts_of
from benchmarks.machine import describe_machine, own_cpu_seconds, pin_to_core
from benchmarks.redis_server import RedisServer
from resolver.index import Index, open_index

AIMS = {10_000: 30.0, 100_000: 26.0, 1_000_000: 24.0}
"""Bytes an image at most, above what an index of one image takes."""

RATE_IMAGES, RATE_AIM = 100_000, 2 * 90_307
"""At so many images, claims a second: twice what the index did before it grew (2026-11-23)."""

FIXED_BITS = 16
"""Of the index that does not grow, for comparison: the default before indexes grew."""


class Grown(NamedTuple):
    """An index that was filled."""

    bits: int
    """In the end."""
    image_bytes: float
    claims_per_second: float
    claims_per_cpu_second: float
    """Of this process and Redis together, what growing takes included."""


async def grow(index: Index) -> None:
    """As an indexer does every two seconds."""
    if await index.sizing.grow_if_needed():
        bits = await index.rebuild.requested()
        assert bits is not None
        await index.rebuild.run(bits, _no_report, drop_after=0)


async def _no_report() -> None:
    pass


async def measure(count: int, bits: int | None) -> Grown:
    """Fills an index with so many images. ``bits``: it does not grow."""
    ids = sorted_ids(count)
    with RedisServer() as redis:
        async with open_index(redis.url, bits=bits) as index:
            await index.claims.claim(1, [bytes(16)])
            await grow(index)
        before = redis.memory()["used_memory"]
        async with open_index(redis.url, bits=bits) as index:
            seconds = 0.0
            cpu = own_cpu_seconds() + redis.cpu_seconds()
            for batch in batches(ids, IDS_PER_CLAIM):
                facts = facts_of(batch)
                begun = time.perf_counter()
                await index.claims.claim(1, batch, facts)
                seconds += time.perf_counter() - begun
                await grow(index)
            cpu = own_cpu_seconds() + redis.cpu_seconds() - cpu
            reached = index.bits
        used = (redis.memory()["used_memory"] - before) / count
    return Grown(reached, used, count / seconds, count / cpu)


async def main() -> None:
    options = parse_arguments(__doc__)
    pin_to_core(1)
    out.print(f"benchmarks.grow: {describe_machine()}")
    counts = [count for count in AIMS if not options.small or count <= 100_000]
    rows = make_table(
        "An index that grows, and one that does not",
        *("images", "bits", "bytes an image", "aim", "claims/s", "claims/CPU s"),
        *(f"with {FIXED_BITS} bits: bytes", "claims/s", "claims/CPU s"),
    )
    results: dict[int, tuple[Grown, Grown]] = {}
    with progress_bar(2 * len(counts)) as step:
        for count in counts:
            step(f"{count:,} images, growing")
            grown = await measure(count, None)
            step(f"{count:,} images, {FIXED_BITS} bits")
            fixed = await measure(count, FIXED_BITS)
            results[count] = grown, fixed
            cells = [
                f"{value:{form}}"
                for index in (grown, fixed)
                for value, form in zip(index[1:], (".1f", ",.0f", ",.0f"), strict=True)
            ]
            cells.insert(1, f"{AIMS[count]:g}")
            rows.add_row(f"{count:,}", str(grown.bits), *cells)
    out.print(rows)
    for count, (grown, _) in results.items():
        text = f"{count:,} images: {grown.image_bytes:.1f} bytes an image"
        print_verdict(text, f"{AIMS[count]:g}", met=grown.image_bytes <= AIMS[count])
    rate = results[RATE_IMAGES][0].claims_per_second
    text = f"{RATE_IMAGES:,} images: {rate:,.0f} claims a second"
    print_verdict(text, f"{RATE_AIM:,}", met=rate >= RATE_AIM)


if __name__ == "__main__":
    asyncio.run(main())
