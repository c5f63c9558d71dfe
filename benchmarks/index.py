"""The index against other ways to keep "who has this image" in Redis: size and speed.

``python -m benchmarks.index`` takes some eight minutes and 2 GB, ``--small`` half a minute.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from benchmarks import memory
from benchmarks.common import (
    RedisServer,
    Rounds,
    arguments,
    batches,
    cpu,
    in_turns,
    machine,
    out,
    pin,
    sorted_ids,
    steps,
    table,
)
from benchmarks.contenders import (
    Packed,
    RedisPy,
    bucket_gets,
    bucket_sets,
    string_gets,
    string_sets,
)
from benchmarks.slowest import slowest
from resolver.index import open_index

Batches = Sequence[Sequence[bytes]]
Work = Callable[[Sequence[bytes]], Awaitable[object]]

PARTS = ("claims", "lookups", "slowest", "size", "density")

WRITTEN = 200_000
"""Claims of one contender in one round."""

SLOWEST_AMONG, SLOWEST_ROUNDS = 500_000, 5
LOOKUP_SIZES = (1, 100, 1000)
LOOKUP_SECONDS = 0.6
NEW, AGAIN = "claim, new", "claim, nothing new"
PY_SET, RAW_SET = "HSET, redis-py pipeline", "HSET, packed, hiredis"
OURS, PY_GET = "lookup", "HGET, redis-py pipeline"
STRING_GET, RAW_GET = "GET of string keys, redis-py pipeline", "HGET, packed, hiredis"


class Speed:
    """Rates, and the processor time that each side spent on one piece of work."""

    def __init__(self, redis: RedisServer) -> None:
        self.rate, self.client, self.server = Rounds(), Rounds(), Rounds()
        self._redis = redis

    async def run(self, name: str, work: Work, todo: Batches, seconds: float = 1e9) -> None:
        """Works batch after batch until all is done or the time is up."""
        server, client, begun = self._redis.cpu(), cpu(), time.perf_counter()
        done = 0
        for batch in todo:
            await work(batch)
            done += len(batch)
            if time.perf_counter() - begun > seconds:
                break
        took = time.perf_counter() - begun
        self.rate.add(name, done / took)
        self.client.add(name, (cpu() - client) / done * 1e6)
        self.server.add(name, (self._redis.cpu() - server) / done * 1e6)

    def print(self, title: str, what: str, ours: str) -> None:
        columns = ("", f"{what}/s (least - most)", "ours to it", "client µs", "Redis µs")
        made = table(title, *columns)
        for name in self.rate.names():
            ratio = f"{self.rate.ratio(ours, name):.2f}"
            made.add_row(
                name,
                self.rate.shown(name),
                ratio,
                f"{self.client.median(name):.1f}",
                f"{self.server.median(name):.1f}",
            )
        out.print(made)


async def writing(
    count: int, ids: Sequence[bytes], rounds: int, step: Callable[[str], None]
) -> None:
    """Claims a second, as a first sweep of ``count`` images makes them.

    The ids of one round are the beginning of the listing of so many images, so that buckets are
    as full as they would be.
    """
    todo = batches(ids[:WRITTEN], memory.PAGE)
    with RedisServer() as redis, Packed(redis.port) as packed:
        speed = Speed(redis)
        async with RedisPy(redis.url) as client:

            async def ours() -> None:
                async with open_index(redis.url, bits=16) as index:
                    await index.claims.lookup([bytes(16)])  # connections are open
                    for name in (NEW, AGAIN):
                        await speed.run(name, lambda batch: index.claims.claim(1, batch), todo)

            async def pipeline() -> None:
                await speed.run(PY_SET, lambda batch: client.run(bucket_sets(batch)), todo)

            async def raw() -> None:
                await speed.run(RAW_SET, lambda batch: packed.run(bucket_sets(batch)), todo)

            for number in range(rounds):
                for contender in in_turns((ours, pipeline, raw), number):
                    step(f"claims: {count:,} images, round {number + 1}")
                    redis.flush()
                    await contender()
    title = f"Claims a second, pages of {memory.PAGE:,} sorted ids, {count:,} images"
    speed.print(title, "claims", NEW)


async def reading(ids: list[bytes], rounds: int, step: Callable[[str], None]) -> None:
    """Lookups a second of ids in no order."""
    step(f"lookups: filling {len(ids):,} images")
    asked = random.Random(3).choices(ids, k=WRITTEN)
    with RedisServer() as redis, Packed(redis.port) as packed:
        await memory.claim_all(redis.url, 1, ids)
        for batch in batches(ids, memory.PAGE):
            await packed.run(string_sets(batch))
        async with RedisPy(redis.url) as client, open_index(redis.url) as index:
            contenders: dict[str, Work] = {
                OURS: index.claims.lookup,
                PY_GET: lambda batch: client.run(bucket_gets(batch)),
                STRING_GET: lambda batch: client.run(string_gets(batch)),
                RAW_GET: lambda batch: packed.run(bucket_gets(batch)),
            }
            for size in LOOKUP_SIZES:
                speed = Speed(redis)
                todo = batches(asked, size)
                for number in range(rounds):
                    step(f"lookups: {size} at a time, round {number + 1}")
                    for name, work in in_turns(list(contenders.items()), number):
                        await work(todo[0])
                        await speed.run(name, work, todo, LOOKUP_SECONDS)
                title = f"Lookups a second, {size:,} ids at a time, {len(ids):,} images"
                speed.print(title, "lookups", OURS)


async def main() -> None:
    options = arguments(__doc__, ("--rounds", 0, "rounds of each comparison"), parts=PARTS)
    small, parts = options.small, options.parts
    rounds = options.rounds or (3 if small else 7)
    counts = (20_000, 100_000) if small else (100_000, 1_000_000, 5_000_000)
    pin(1)
    out.print(f"benchmarks.index: {machine()}")
    parted = zip(PARTS, (3 * len(counts) * rounds, 1 + 3 * rounds, SLOWEST_ROUNDS), strict=False)
    lengths = {**dict(parted), "size": 6 * len(counts), "density": len(memory.DENSITIES)}
    with steps(sum(lengths[part] for part in parts)) as step:
        ids = {count: sorted_ids(count) for count in counts}
        if "claims" in parts:
            for count in counts:
                await writing(count, ids[count], rounds, step)
        if "lookups" in parts:
            await reading(ids[min(counts[-1], 1_000_000)], rounds, step)
        if "slowest" in parts:
            await slowest(ids[counts[-1]][:SLOWEST_AMONG], SLOWEST_ROUNDS, step)
        if "size" in parts:
            await memory.sizes(counts, ids, step)
        if "density" in parts:
            await memory.densities(step, small=small)


if __name__ == "__main__":
    asyncio.run(main())
