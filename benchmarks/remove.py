"""Removing a location with millions of claims: how long it takes, and what lookups feel of it.

``python -m benchmarks.remove`` claims five million images for one location and a thousand for
another, then removes the first while a client looks up single images all the time. The gateway
and the indexer, whose collector frees the memory, are processes of their own. ``--small`` takes
200,000.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time

import aiohttp

from benchmarks.common import RedisServer, arguments, machine, on_core, out, steps, stop, table
from resolver.index import Index, open_index
from resolver.models import format_id

TOKEN = "benchmark-token"
QUIET = 10.0
"""Seconds of lookups before the removal."""

COLLECT = 600.0
"""Seconds in which the claims must be gone."""

AIM = 2.0
"""How many times the quiet p99 lookups may take meanwhile."""


def serve(redis: RedisServer, role: str, core: int) -> tuple[subprocess.Popen[bytes], str]:
    """A process of ours and the URL that it listens at."""
    environ = {
        **os.environ,
        "RESOLVER_REDIS_URL": redis.url,
        "RESOLVER_ROLE": role,
        "RESOLVER_ADMIN_TOKENS": TOKEN,
        "RESOLVER_ACCESS_LOG": "off",
        "RESOLVER_HEALTH_INTERVAL": "3600",
        "RESOLVER_SWEEP_INTERVAL": "3600",
    }
    process = subprocess.Popen(
        [*on_core(core), sys.executable, "-m", "resolver", "serve", "--port", "0"],
        env=environ,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(rb"listens at (\S+)", line):
            return process, match[1].decode()
    raise RuntimeError(f"the {role} did not start")


async def lookups(http: aiohttp.ClientSession, ids: list[str], stop: asyncio.Event) -> list[float]:
    """Milliseconds of single redirects, one after the other."""
    taken = []
    while not stop.is_set():
        for text in ids:
            begun = time.perf_counter()
            async with http.get(f"/v2/images/{text}", allow_redirects=False) as reply:
                await reply.read()
                assert reply.status == 307, reply.status
            taken.append((time.perf_counter() - begun) * 1000)
            if stop.is_set():
                break
    return taken


async def timed(http: aiohttp.ClientSession, ids: list[str], seconds: float) -> list[float]:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    return await lookups(http, ids, stop)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def measure(redis: RedisServer, images: int) -> None:
    admin = {"Authorization": f"Bearer {TOKEN}"}
    gateway, url = serve(redis, "gateway", 1)
    indexer = None
    try:
        async with aiohttp.ClientSession(url) as http, open_index(redis.url) as index:
            for name in ("big", "small"):
                body = {"url": f"http://127.0.0.1:9/{name}"}
                async with http.put(f"/locations/{name}", headers=admin, json=body) as reply:
                    reply.raise_for_status()
            records = (await index.records.load()).records
            big, small = records["big"].location.number, records["small"].location.number
            gone = await fill(index, big, images)
            kept = [format_id(os.urandom(16)) for _ in range(1000)]
            await index.claims.claim(small, [bytes.fromhex(t.replace("-", "")) for t in kept])
            before = redis.memory()["used_memory"]
            indexer, _ = serve(redis, "indexer", 1)
            quiet = await timed(http, kept, QUIET)
            stopped = asyncio.Event()
            looking = asyncio.create_task(lookups(http, kept, stopped))
            begun = time.perf_counter()
            async with http.delete("/locations/big", headers=admin) as reply:
                reply.raise_for_status()
            removed = time.perf_counter() - begun
            async with http.post("/resolve", data=json.dumps(gone)) as reply:
                outcomes = {row["outcome"] for row in await reply.json(content_type=None)}
            at_once = time.perf_counter() - begun
            async with asyncio.timeout(COLLECT):
                while await index.records.retired():  # noqa: ASYNC110 - in another process
                    await asyncio.sleep(0.2)
            collected = time.perf_counter() - begun
            stopped.set()
            during = await looking
            freed = before - redis.memory()["used_memory"]
    finally:
        for process in (gateway, indexer):
            if process is not None:
                stop(process)
    rows = table(f"Removing a location with {images:,} claims", "what", "figure")
    rows.add_row("DELETE /locations/big", f"{removed * 1000:.1f} ms")
    rows.add_row(
        f"{len(gone):,} of its images asked for, {at_once * 1000:.0f} ms later",
        ", ".join(sorted(outcomes)),
    )
    rows.add_row("until the collector has freed its claims", f"{collected:.1f} s")
    rows.add_row("memory freed", f"{freed / 1e6:.0f} MB")
    for name, values in (("quiet", quiet), ("meanwhile", during)):
        rows.add_row(
            f"redirects, {name}: {len(values):,}; p50, p99, p99.9",
            ", ".join(f"{percentile(values, share):.2f} ms" for share in (0.5, 0.99, 0.999)),
        )
    ratio = percentile(during, 0.99) / percentile(quiet, 0.99)
    rows.add_row(f"p99 meanwhile / quiet (aim: at most {AIM:g})", f"{ratio:.2f}")
    out.print(rows)


async def fill(index: Index, number: int, images: int) -> list[str]:
    """Claims; returns a thousand of the ids."""
    some: list[str] = []
    with steps(images // 10_000) as step:
        for start in range(0, images, 10_000):
            ids = [os.urandom(16) for _ in range(min(10_000, images - start))]
            await index.claims.claim(number, sorted(ids))
            some += [format_id(raw) for raw in ids[:1]]
            step("claiming")
    return some[:1000]


def main() -> None:
    options = arguments(__doc__, ("--images", 0, "images"))
    images = options.images or (200_000 if options.small else 5_000_000)
    out.print(machine())
    with RedisServer() as redis:
        asyncio.run(measure(redis, images))


if __name__ == "__main__":
    main()
