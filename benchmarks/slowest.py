"""The part of `benchmarks.index` about how long one command holds Redis, which does one at a time.

Redis measures by the clock, so when the machine takes its core away, that counts too. The plain
HSET of one field tells how much of the slowest is such noise. So beside the slowest of all calls
stands the largest call there is, made many times.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from benchmarks.common import RedisServer, Rounds, batches, out, table
from benchmarks.contenders import Packed, bucket_sets
from benchmarks.memory import LOCATIONS, PAGE, claim_all
from resolver.index import open_index

COMPACT = 512
LARGEST, LARGEST_OWNERS = 256, 20
"""Images in the largest script call, and how many locations claim them one after another."""

LIMIT_MS = 5.0
SLOW_US = 1000
"""From how many microseconds on SLOWLOG keeps a command."""


class Watch:
    """The slowest commands since the last look, by phase."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._slowest, self._mean, self._late = Rounds(), Rounds(), Rounds()
        self._calls: dict[str, int] = {}
        config = redis.client.config_set
        config("slowlog-log-slower-than", SLOW_US)
        config("slowlog-max-len", 10_000)
        with suppress(ResponseError):  # before Redis 7
            config("latency-tracking-info-percentiles", "99.9 100")

    def begin(self) -> None:
        self._redis.client.config_resetstat()
        self._redis.client.slowlog_reset()

    def note(self, phase: str, command: str) -> None:
        name = f"{phase}: {command.upper()}"
        calls = self._redis.info("commandstats")[f"cmdstat_{command}"]
        spread: dict[str, Any] = {}
        with suppress(ResponseError):
            found = self._redis.info("latencystats")
            spread = found.get(f"latency_percentiles_usec_{command}", {})
        slow = [
            int(entry["duration"])
            for entry in self._redis.client.slowlog_get(10_000)
            if bytes(entry["command"]).split(b" ")[0].lower() == command.encode()
        ]
        self._calls[name] = int(calls["calls"])
        self._mean.add(name, float(calls["usec_per_call"]))
        self._late.add(name, float(spread.get("p99.9", "nan")))
        self._slowest.add(name, max([float(spread.get("p100", 0)), *slow]))
        self.begin()

    def print(self, what: str) -> None:
        made = table(
            f"How long one command holds Redis, microseconds, {what}",
            *("", "calls", "mean", "99.9 %", "slowest of a round: median (least - most)"),
        )
        for name in self._slowest.names():
            made.add_row(
                name,
                f"{self._calls[name]:,}",
                f"{self._mean.median(name):,.1f}",
                f"{self._late.median(name):,.0f}",
                self._slowest.shown(name),
            )
        out.print(made)


async def largest(redis: RedisServer) -> None:
    """The largest call that is ever made, again and again: what it takes by itself.

    It claims as many images as one call takes, all in one bucket as full as a compact one can be,
    where the last ones lie and each already has owners.
    """
    redis.flush()
    ids = [raw[:2] + raw for raw in (n.to_bytes(14, "big") for n in range(COMPACT))]
    took = []
    async with open_index(redis.url, bits=16) as index:
        for number in LOCATIONS:
            await index.claims.claim(number, ids)
        for number in range(LARGEST_OWNERS):
            redis.client.config_resetstat()
            await index.claims.claim(len(LOCATIONS) + 1 + number, ids[-LARGEST:])
            stats = redis.info("commandstats")["cmdstat_evalsha"]
            took.append(float(stats["usec"]) / int(stats["calls"]) / 1000)
    usual = statistics.median(took)
    verdict = "met" if usual <= LIMIT_MS else "NOT met"
    out.print(
        f"The largest call of the index, {LARGEST} images in a bucket of {COMPACT}, holds Redis "
        f"for {usual:.2f} ms (least {min(took):.2f}, most {max(took):.2f}); aim of {LIMIT_MS:g} ms "
        f"{verdict}\n"
    )


async def slowest(ids: Sequence[bytes], rounds: int, step: Callable[[str], None]) -> None:
    """Fills buckets for three locations and uses them, watching for slow commands.

    ``ids`` is the beginning of a listing: the buckets are as full as the whole would make them.
    """
    with RedisServer() as redis:
        watch = Watch(redis)
        for number in range(rounds):
            step(f"slowest command: round {number + 1}")
            redis.flush()
            watch.begin()
            with Packed(redis.port) as packed:
                for batch in batches(ids, PAGE):
                    await packed.run(bucket_sets(batch))
            watch.note("plain, for comparison", "hset")
            redis.flush()
            watch.begin()
            for owner in LOCATIONS:
                await claim_all(redis.url, owner, ids)
            watch.note("claims", "evalsha")
            async with open_index(redis.url) as index:
                for batch in batches(ids, PAGE):
                    await index.claims.lookup(batch)
                watch.note("lookups", "hget")
                for batch in batches(ids, PAGE):
                    await index.claims.release(2, batch)
                watch.note("releases", "evalsha")
                await index.census()
                watch.note("census", "hgetall")
        watch.print(f"{len(ids):,} images x {len(LOCATIONS)} owners")
        await largest(redis)
