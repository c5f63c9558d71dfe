"""The part of `benchmarks.index` about ids of different UUID versions: what an image costs, how
fast it is found, and how long reading the fullest bucket blocks Redis."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.common import Step, batches, make_table, out, sorted_ids
from benchmarks.index_memory import IDS_PER_CLAIM, facts_of, use_each_command
from benchmarks.machine import own_cpu_seconds
from benchmarks.redis_server import RedisServer
from resolver.index import Index, open_index
from resolver.index.sizing import wanted_bits
from tests.support.ids import make_v1_ids, make_v6_ids, make_v7_ids

VERSIONS: dict[str, Callable[[int], list[bytes]]] = {
    "4 (random)": sorted_ids,
    "7": make_v7_ids,
    "6": make_v6_ids,
    "1": make_v1_ids,
}

FIRST_BITS = 8
"""Of a new index, before it has grown for its images."""

LOOKUPS, READS = 200_000, 20


async def compare_versions(count: int, repeats: int, step: Step) -> None:
    """Each set of ids in an index as it has grown for it; version 7 also without spreading, as an
    older version of the resolver has made it."""
    bits = wanted_bits(count, FIRST_BITS)
    rows = make_table(
        f"{count:,} images with ids of one UUID version, {bits} bits, {IDS_PER_CLAIM} ids a lookup",
        *("version", "bytes an image", "fullest bucket", "compact", "claims/s", "lookups/s"),
        *("client µs", "Redis µs an HGET", "read of the fullest, ms"),
    )
    for name, make in VERSIONS.items():
        step(f"versions: {name}")
        rows.add_row(name, *await _measure(make(count), bits, repeats, spreads=True))
    step("versions: 7, not spread")
    rows.add_row("7, not spread", *await _measure(make_v7_ids(count), bits, repeats, spreads=False))
    out.print(rows)


async def _measure(ids: Sequence[bytes], bits: int, repeats: int, *, spreads: bool) -> list[str]:
    with RedisServer() as redis:
        await use_each_command(redis.url, bits)
        if not spreads:
            for name, value in (("bits", bits), ("format", 1), ("writers", 1)):
                redis.client.hset("glr:{reg}:meta", name, str(value))
        before = redis.memory()["used_memory"]
        async with open_index(redis.url) as index:
            begun = time.perf_counter()
            for batch in batches(ids, IDS_PER_CLAIM):
                await index.claims.claim(1, batch, facts_of(batch))
            claims = len(ids) / (time.perf_counter() - begun)
            used = (redis.memory()["used_memory"] - before) / len(ids)
            lookups, client = await _look_up(index, ids, repeats)
            hget = float(redis.info("commandstats")["cmdstat_hget"]["usec_per_call"])
        sizes = {key: redis.client.hlen(key) for key in redis.client.scan_iter("glr:?:*")}
        encodings = [redis.client.object("encoding", key) for key in sizes]
        fullest = max(sizes, key=lambda key: sizes[key])
        redis.client.config_resetstat()
        for _ in range(READS):
            redis.client.hgetall(fullest)
        read = float(redis.info("commandstats")["cmdstat_hgetall"]["usec_per_call"]) / 1000
    compact = sum(encoding != b"hashtable" for encoding in encodings) / len(encodings)
    return [
        *(f"{used:.1f}", f"{sizes[fullest]:,}", f"{compact:.0%}", f"{claims:,.0f}"),
        *(f"{lookups:,.0f}", f"{client:.2f}", f"{hget:.2f}", f"{read:.2f}"),
    ]


async def _look_up(index: Index, ids: Sequence[bytes], repeats: int) -> tuple[float, float]:
    """Lookups a second, and microseconds of the client's processor time for one."""
    requested = batches(random.Random(3).choices(ids, k=LOOKUPS), IDS_PER_CLAIM)
    rates, micros = [], []
    for _ in range(repeats):
        begun, cpu = time.perf_counter(), own_cpu_seconds()
        for batch in requested:
            await index.claims.lookup(batch)
        rates.append(LOOKUPS / (time.perf_counter() - begun))
        micros.append((own_cpu_seconds() - cpu) / LOOKUPS * 1e6)
    return statistics.median(rates), statistics.median(micros)
