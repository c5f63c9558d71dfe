"""Removing a location with millions of claims: how long it takes, and how it slows down lookups.

``python -m benchmarks.remove`` claims five million images for one location and a thousand for
another. Then it removes the first while a client looks up single images all the time. The gateway
and the indexer, whose collector frees the memory, are separate processes. ``--small`` takes
200,000 images.
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

from benchmarks.common import make_table, out, parse_arguments, percentile, progress_bar
from benchmarks.machine import describe_machine, on_core, stop_process
from benchmarks.redis_server import RedisServer
from resolver.index import Index, open_index
from resolver.models import format_id

TOKEN = "benchmark-token"
SERVER_CORE = 1
QUIET_SECONDS = 10.0
"""Of lookups before the removal."""

COLLECTION_TIMEOUT_SECONDS = 600.0
"""For the collector to free all claims."""

COLLECTION_POLL_SECONDS = 0.2
IDS_PER_CLAIM = 10_000
SAMPLE_IDS = 1000
P99_RATIO_AIM = 2.0
"""How much higher the 99th percentile may be during the removal."""


def start_process(redis: RedisServer, role: str) -> tuple[subprocess.Popen[bytes], str]:
    """Starts `glance-resolver serve` and returns its process and URL.

    Raises:
        RuntimeError: it did not start.
    """
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
        [*on_core(SERVER_CORE), sys.executable, "-m", "resolver", "serve", "--port", "0"],
        env=environ,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(rb"listens at (\S+)", line):
            return process, match[1].decode()
    raise RuntimeError(f"the {role} did not start")


async def measure_lookups(
    http: aiohttp.ClientSession, ids: list[str], stop: asyncio.Event
) -> list[float]:
    """Requests redirects one after the other until ``stop``. Returns sorted milliseconds."""
    milliseconds = []
    while not stop.is_set():
        for text in ids:
            started = time.perf_counter()
            async with http.get(f"/v2/images/{text}", allow_redirects=False) as reply:
                await reply.read()
                assert reply.status == 307, reply.status
            milliseconds.append((time.perf_counter() - started) * 1000)
            if stop.is_set():
                break
    return sorted(milliseconds)


async def measure_removal(redis: RedisServer, images: int) -> None:
    admin = {"Authorization": f"Bearer {TOKEN}"}
    gateway, url = start_process(redis, "gateway")
    indexer = None
    try:
        async with aiohttp.ClientSession(url) as http, open_index(redis.url) as index:
            for name in ("big", "small"):
                body = {"url": f"http://127.0.0.1:9/{name}"}
                async with http.put(f"/locations/{name}", headers=admin, json=body) as reply:
                    reply.raise_for_status()
            records = (await index.records.load()).records
            big, small = records["big"].location.number, records["small"].location.number
            removed_ids = await fill_index(index, big, images)
            remaining = [os.urandom(16) for _ in range(SAMPLE_IDS)]
            remaining_ids = [format_id(image_id) for image_id in remaining]
            await index.claims.claim(small, remaining)
            memory_before = redis.memory()["used_memory"]
            indexer, _ = start_process(redis, "indexer")
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(QUIET_SECONDS, stop.set)
            before = await measure_lookups(http, remaining_ids, stop)
            stop = asyncio.Event()
            lookups = asyncio.create_task(measure_lookups(http, remaining_ids, stop))
            started = time.perf_counter()
            async with http.delete("/locations/big", headers=admin) as reply:
                reply.raise_for_status()
            delete_seconds = time.perf_counter() - started
            async with http.post("/resolve", data=json.dumps(removed_ids)) as reply:
                outcomes = {row["outcome"] for row in await reply.json(content_type=None)}
            resolve_seconds = time.perf_counter() - started
            async with asyncio.timeout(COLLECTION_TIMEOUT_SECONDS):
                while await index.records.retired():  # noqa: ASYNC110 - in another process
                    await asyncio.sleep(COLLECTION_POLL_SECONDS)
            collect_seconds = time.perf_counter() - started
            stop.set()
            during = await lookups
            freed = memory_before - redis.memory()["used_memory"]
    finally:
        for process in (gateway, indexer):
            if process is not None:
                stop_process(process)
    rows = make_table(f"Removing a location with {images:,} claims", "what", "result")
    rows.add_row("DELETE /locations/big", f"{delete_seconds * 1000:.1f} ms")
    rows.add_row(
        f"{len(removed_ids):,} of its images resolved, after {resolve_seconds * 1000:.0f} ms",
        ", ".join(sorted(outcomes)),
    )
    rows.add_row("until the collector has freed its claims", f"{collect_seconds:.1f} s")
    rows.add_row("memory freed", f"{freed / 1e6:.0f} MB")
    for name, values in (("before", before), ("during the removal", during)):
        rows.add_row(
            f"redirects {name}: {len(values):,}; p50, p99, p99.9",
            ", ".join(f"{percentile(values, share):.2f} ms" for share in (0.5, 0.99, 0.999)),
        )
    ratio = percentile(during, 0.99) / percentile(before, 0.99)
    rows.add_row(f"p99 during / before (aim: at most {P99_RATIO_AIM:g})", f"{ratio:.2f}")
    out.print(rows)


async def fill_index(index: Index, number: int, images: int) -> list[str]:
    """Claims random images for the location of that number. Returns up to a thousand of the ids."""
    sample: list[str] = []
    with progress_bar(images // IDS_PER_CLAIM) as step:
        for start in range(0, images, IDS_PER_CLAIM):
            ids = [os.urandom(16) for _ in range(min(IDS_PER_CLAIM, images - start))]
            await index.claims.claim(number, sorted(ids))
            sample += [format_id(image_id) for image_id in ids[:1]]
            step("claiming")
    return sample[:SAMPLE_IDS]


def main() -> None:
    options = parse_arguments(__doc__, ("--images", 0, "images"))
    images = options.images or (200_000 if options.small else 5_000_000)
    out.print(f"benchmarks.remove: {describe_machine()}")
    with RedisServer() as redis:
        asyncio.run(measure_removal(redis, images))


if __name__ == "__main__":
    main()
