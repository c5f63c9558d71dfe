"""The index compared with other ways to store "who has this image" in Redis: size and speed.

``python -m benchmarks.index`` takes some eight minutes and 2 GB, ``--small`` half a minute.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from benchmarks import index_memory, index_versions
from benchmarks.common import (
    Measurements,
    Step,
    batches,
    make_table,
    out,
    parse_arguments,
    progress_bar,
    rotated,
    sorted_ids,
)
from benchmarks.contenders import (
    HiredisSocket,
    RedisPyPipeline,
    bucket_gets,
    bucket_sets,
    string_gets,
    string_sets,
)
from benchmarks.index_memory import IDS_PER_CLAIM
from benchmarks.machine import describe_machine, own_cpu_seconds, pin_to_core
from benchmarks.redis_server import RedisServer
from benchmarks.slowest_command import measure_slowest
from resolver.index import open_index

Batches = Sequence[Sequence[bytes]]
Work = Callable[[Sequence[bytes]], Awaitable[object]]

PARTS = ("claims", "lookups", "versions", "slowest", "size", "density")

OPERATIONS = 200_000
"""Claims of one contender in one repeat, and different lookups."""

SLOWEST_IMAGES, SLOWEST_REPEATS = 500_000, 5
LOOKUP_BATCHES = (1, 100, 1000)
"""Ids in one lookup."""

LOOKUP_SECONDS = 0.6
"""For one contender in one repeat."""

LOOKUP_IMAGES = 1_000_000

CLAIM_NEW, CLAIM_KNOWN = "claim, new", "claim, nothing new"
CLAIM_SECOND, CLAIM_MIXED = "claim, second owner", "claim, every other image new"
HSET_REDIS_PY, HSET_HIREDIS = "HSET, redis-py pipeline", "HSET, packed, hiredis"
LOOKUP, HGET_REDIS_PY = "lookup", "HGET, redis-py pipeline"
GET_REDIS_PY, HGET_HIREDIS = "GET of string keys, redis-py pipeline", "HGET, packed, hiredis"


class SpeedComparison:
    """Operations a second, and the processor time that client and Redis spent on each."""

    def __init__(self, redis: RedisServer) -> None:
        self.rates = Measurements()
        self.client_micros, self.redis_micros = Measurements(), Measurements()
        self._redis = redis

    async def run(self, name: str, work: Work, todo: Batches, seconds: float = 1e9) -> None:
        """Works on batch after batch until all are done or the time is over."""
        redis_before, client_before = self._redis.cpu_seconds(), own_cpu_seconds()
        started = time.perf_counter()
        done = 0
        for batch in todo:
            await work(batch)
            done += len(batch)
            if time.perf_counter() - started > seconds:
                break
        self.rates.add(name, done / (time.perf_counter() - started))
        self.client_micros.add(name, (own_cpu_seconds() - client_before) / done * 1e6)
        self.redis_micros.add(name, (self._redis.cpu_seconds() - redis_before) / done * 1e6)

    def print(self, title: str, operations: str, ours: str) -> None:
        columns = ("", f"{operations}/s (least - most)", "ours to it", "client µs", "Redis µs")
        rows = make_table(title, *columns)
        for name in self.rates.names():
            rows.add_row(
                name,
                self.rates.format(name),
                f"{self.rates.ratio(ours, name):.2f}",
                f"{self.client_micros.median(name):.1f}",
                f"{self.redis_micros.median(name):.1f}",
            )
        out.print(rows)


async def compare_claims(count: int, ids: Sequence[bytes], repeats: int, step: Step) -> None:
    """Claims a second, as in the first sweep of ``count`` images.

    A repeat claims the beginning of the listing of all images, so that buckets are as full as they
    would be.
    """
    todo = batches(ids[:OPERATIONS], IDS_PER_CLAIM)
    facts = index_memory.facts_of(ids[:OPERATIONS])
    with RedisServer() as redis, HiredisSocket(redis.port) as hiredis:
        speed = SpeedComparison(redis)
        async with RedisPyPipeline(redis.url) as redis_py:

            async def claim() -> None:
                async with open_index(redis.url, bits=16) as index:

                    async def claim_all(name: str, number: int) -> None:
                        await speed.run(
                            name, lambda batch: index.claims.claim(number, batch, facts), todo
                        )

                    await index.claims.lookup([bytes(16)])  # opens the connections
                    await claim_all(CLAIM_NEW, 1)
                    await claim_all(CLAIM_KNOWN, 1)
                    await claim_all(CLAIM_SECOND, 2)
                    await index.claims.release(1, ids[1:OPERATIONS:2])
                    await index.claims.release(2, ids[:OPERATIONS])
                    await claim_all(CLAIM_MIXED, 1)

            async def set_by_redis_py() -> None:
                await speed.run(HSET_REDIS_PY, lambda batch: redis_py.run(bucket_sets(batch)), todo)

            async def set_by_hiredis() -> None:
                await speed.run(HSET_HIREDIS, lambda batch: hiredis.run(bucket_sets(batch)), todo)

            for repeat in range(repeats):
                for contender in rotated((claim, set_by_redis_py, set_by_hiredis), repeat):
                    step(f"claims: {count:,} images, repeat {repeat + 1}")
                    redis.flush()
                    await contender()
    title = f"Claims a second, pages of {IDS_PER_CLAIM:,} sorted ids, {count:,} images"
    speed.print(title, "claims", CLAIM_NEW)


async def compare_lookups(ids: list[bytes], repeats: int, step: Step) -> None:
    """Lookups a second of ids in random order."""
    step(f"lookups: filling {len(ids):,} images")
    requested = random.Random(3).choices(ids, k=OPERATIONS)
    with RedisServer() as redis, HiredisSocket(redis.port) as hiredis:
        await index_memory.claim_all(redis.url, 1, ids)
        for batch in batches(ids, IDS_PER_CLAIM):
            await hiredis.run(string_sets(batch))
        async with RedisPyPipeline(redis.url) as redis_py, open_index(redis.url) as index:
            contenders: dict[str, Work] = {
                LOOKUP: index.claims.lookup,
                HGET_REDIS_PY: lambda batch: redis_py.run(bucket_gets(batch)),
                GET_REDIS_PY: lambda batch: redis_py.run(string_gets(batch)),
                HGET_HIREDIS: lambda batch: hiredis.run(bucket_gets(batch)),
            }
            for size in LOOKUP_BATCHES:
                speed = SpeedComparison(redis)
                todo = batches(requested, size)
                for repeat in range(repeats):
                    step(f"lookups: {size} at a time, repeat {repeat + 1}")
                    for name, work in rotated(list(contenders.items()), repeat):
                        await work(todo[0])
                        await speed.run(name, work, todo, LOOKUP_SECONDS)
                title = f"Lookups a second, {size:,} ids at a time, {len(ids):,} images"
                speed.print(title, "lookups", LOOKUP)


async def main() -> None:
    options = parse_arguments(__doc__, ("--rounds", 0, "repeats of each comparison"), parts=PARTS)
    small, parts = options.small, options.parts
    repeats = options.rounds or (3 if small else 7)
    counts = (20_000, 100_000) if small else (100_000, 1_000_000, 5_000_000)
    pin_to_core(1)
    out.print(f"benchmarks.index: {describe_machine()}")
    steps = {
        "claims": 3 * len(counts) * repeats,
        "lookups": 1 + 3 * repeats,
        "versions": len(index_versions.VERSIONS) + 1,
        "slowest": SLOWEST_REPEATS,
        "size": 6 * len(counts),
        "density": len(index_memory.DENSITIES),
    }
    with progress_bar(sum(steps[part] for part in parts)) as step:
        ids = {count: sorted_ids(count) for count in counts}
        if "claims" in parts:
            for count in counts:
                await compare_claims(count, ids[count], repeats, step)
        if "lookups" in parts:
            await compare_lookups(ids[min(counts[-1], LOOKUP_IMAGES)], repeats, step)
        if "versions" in parts:
            await index_versions.compare_versions(min(counts[-1], LOOKUP_IMAGES), repeats, step)
        if "slowest" in parts:
            await measure_slowest(ids[counts[-1]][:SLOWEST_IMAGES], SLOWEST_REPEATS, step)
        if "size" in parts:
            await index_memory.compare_sizes(counts, ids, step)
        if "density" in parts:
            await index_memory.compare_densities(step, small=small)


if __name__ == "__main__":
    asyncio.run(main())
