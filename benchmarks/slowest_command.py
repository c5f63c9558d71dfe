"""The part of `benchmarks.index` about how long one command blocks Redis, which runs one at a time.

Redis measures by the clock, so the time counts in which the system runs something else on its core.
The plain HSET of one field shows how much of the slowest call is such noise. Therefore the largest
possible call is also made many times, and its typical time is printed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from benchmarks.common import Measurements, Step, batches, make_table, out, print_verdict
from benchmarks.contenders import HiredisSocket, bucket_sets
from benchmarks.index_memory import IDS_PER_CLAIM, LOCATIONS, claim_all
from benchmarks.redis_server import RedisServer
from resolver.index import open_index

COMPACT_BUCKET_IMAGES = 512
LARGEST_CALL_IMAGES, LARGEST_CALL_OWNERS = 256, 20
"""Images in the largest script call, and locations that claim them one after another."""

LARGEST_CALL_AIM_MS = 5.0
SLOWLOG_MICROS = 1000
"""SLOWLOG records commands that take at least this long."""


class CommandTimes:
    """How long commands blocked Redis, by phase."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._slowest, self._mean, self._p999 = Measurements(), Measurements(), Measurements()
        self._calls: dict[str, int] = {}
        config_set = redis.client.config_set
        config_set("slowlog-log-slower-than", SLOWLOG_MICROS)
        config_set("slowlog-max-len", 10_000)
        with suppress(ResponseError):  # before Redis 7
            config_set("latency-tracking-info-percentiles", "99.9 100")

    def reset(self) -> None:
        """Starts a phase."""
        self._redis.client.config_resetstat()
        self._redis.client.slowlog_reset()

    def record(self, phase: str, command: str) -> None:
        """Records the calls of a command since the phase began, and starts the next phase."""
        name = f"{phase}: {command.upper()}"
        stats = self._redis.info("commandstats")[f"cmdstat_{command}"]
        percentiles: dict[str, Any] = {}
        with suppress(ResponseError):
            latencies = self._redis.info("latencystats")
            percentiles = latencies.get(f"latency_percentiles_usec_{command}", {})
        slow = [
            int(entry["duration"])
            for entry in self._redis.client.slowlog_get(10_000)
            if bytes(entry["command"]).split(b" ")[0].lower() == command.encode()
        ]
        self._calls[name] = int(stats["calls"])
        self._mean.add(name, float(stats["usec_per_call"]))
        self._p999.add(name, float(percentiles.get("p99.9", "nan")))
        self._slowest.add(name, max([float(percentiles.get("p100", 0)), *slow]))
        self.reset()

    def print(self, data: str) -> None:
        rows = make_table(
            f"How long one command blocks Redis, microseconds, {data}",
            *("", "calls", "mean", "99.9 %", "slowest of a repeat: median (least - most)"),
        )
        for name in self._slowest.names():
            rows.add_row(
                name,
                f"{self._calls[name]:,}",
                f"{self._mean.median(name):,.1f}",
                f"{self._p999.median(name):,.0f}",
                self._slowest.format(name),
            )
        out.print(rows)


async def measure_largest_call(redis: RedisServer) -> None:
    """Makes the largest call of the index many times and prints how long it takes.

    It claims as many images as one call can have, all at the end of one bucket that is as full as a
    compact bucket can be, and each already has owners.
    """
    redis.flush()
    suffixes = (number.to_bytes(14, "big") for number in range(COMPACT_BUCKET_IMAGES))
    ids = [suffix[:2] + suffix for suffix in suffixes]
    milliseconds = []
    async with open_index(redis.url, bits=16) as index:
        for number in LOCATIONS:
            await index.claims.claim(number, ids)
        for number in range(LARGEST_CALL_OWNERS):
            redis.client.config_resetstat()
            await index.claims.claim(len(LOCATIONS) + 1 + number, ids[-LARGEST_CALL_IMAGES:])
            stats = redis.info("commandstats")["cmdstat_evalsha"]
            milliseconds.append(float(stats["usec"]) / int(stats["calls"]) / 1000)
    median = statistics.median(milliseconds)
    print_verdict(
        f"The largest call of the index, {LARGEST_CALL_IMAGES} images in a bucket of "
        f"{COMPACT_BUCKET_IMAGES}, blocks Redis for {median:.2f} ms "
        f"(least {min(milliseconds):.2f}, most {max(milliseconds):.2f})",
        f"{LARGEST_CALL_AIM_MS:g} ms",
        met=median <= LARGEST_CALL_AIM_MS,
    )


async def measure_slowest(ids: Sequence[bytes], repeats: int, step: Step) -> None:
    """Fills buckets for three locations, uses them and prints the slowest commands.

    ``ids`` is the beginning of a listing, so the buckets are as full as in the whole index.
    """
    with RedisServer() as redis:
        times = CommandTimes(redis)
        for repeat in range(repeats):
            step(f"slowest command: repeat {repeat + 1}")
            redis.flush()
            times.reset()
            with HiredisSocket(redis.port) as client:
                for batch in batches(ids, IDS_PER_CLAIM):
                    await client.run(bucket_sets(batch))
            times.record("plain, for comparison", "hset")
            redis.flush()
            times.reset()
            for owner in LOCATIONS:
                await claim_all(redis.url, owner, ids)
            times.record("claims", "evalsha")
            async with open_index(redis.url) as index:
                for batch in batches(ids, IDS_PER_CLAIM):
                    await index.claims.lookup(batch)
                times.record("lookups", "hget")
                for batch in batches(ids, IDS_PER_CLAIM):
                    await index.claims.release(2, batch)
                times.record("releases", "evalsha")
                await index.census()
                times.record("census", "hgetall")
        times.print(f"{len(ids):,} images x {len(LOCATIONS)} owners")
        await measure_largest_call(redis)
