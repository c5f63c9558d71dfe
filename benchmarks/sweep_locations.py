"""What sweeping the same images costs, spread over few or many locations: ``--locations``.

A process of stand-in Glance servers shares the images out evenly. A second process, a resolver's
indexer, sweeps each location once, and once more when nothing has changed. Each number of locations
has a Redis of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from benchmarks.common import make_table, out, print_verdict, progress_bar
from benchmarks.machine import (
    memory_kib,
    on_core,
    own_cpu_seconds,
    pin_to_core,
    reset_peak_memory,
)
from benchmarks.redis_server import RedisServer, redis_cpu_seconds
from benchmarks.stand_ins import run_stand_ins
from resolver.services import Services, open_services
from resolver.settings import Settings

SERVER_CORE, CLIENT_CORE = 0, 1
TIMEOUT_SECONDS = 1800.0
POLL_SECONDS = 0.1

FIRST, SECOND, SMALL = "first sweep", "second sweep", "1,000 of 10 images"
SWEEPS = (FIRST, SECOND)

RATIO_AIM = 1.5
"""Of the processor time of 200 locations, to that of 2."""
COMPARED = (200, 2)
SMALL_CPU_AIM, MEMORY_AIM_MIB = 20.0, 150.0

Results = dict[str, dict[str, float]]
"""By sweep: processor seconds of the indexer and of Redis, seconds, peak MiB."""


async def run_indexer(redis_url: str, urls: list[str]) -> None:
    """The indexer's process: prints its results as JSON."""
    locations = {f"location-{number}": {"url": url} for number, url in enumerate(urls)}
    settings = Settings(
        redis_url=redis_url, sweep_interval=86_400, health_interval=86_400, poll_interval=0
    )
    results: Results = {}
    async with open_services(settings, locations) as services:
        with redis.Redis.from_url(redis_url) as client:
            reset_peak_memory()
            indexer = asyncio.create_task(services.indexer.run())
            try:
                for name in SWEEPS:
                    begun, wall = time.time(), time.perf_counter()
                    own, others = own_cpu_seconds(), redis_cpu_seconds(client)
                    if name != FIRST:
                        for location in locations:
                            await services.registry.sweep(location)
                    await all_swept(services, begun)
                    results[name] = {
                        "indexer": own_cpu_seconds() - own,
                        "redis": redis_cpu_seconds(client) - others,
                        "seconds": time.perf_counter() - wall,
                        "peak_mib": memory_kib("VmHWM") / 1024,
                    }
            finally:
                indexer.cancel()
                await asyncio.wait([indexer])
    print(json.dumps(results))


async def all_swept(services: Services, since: float) -> None:
    """Returns when each location has been swept after ``since``.

    Raises:
        RuntimeError: a sweep failed.
    """
    while True:
        views = (await services.tables.current()).by_name.values()
        if failed := [view for view in views if view.status.sweep.error]:
            raise RuntimeError(f"{failed[0].name}: {failed[0].status.sweep.error}")
        if all((view.status.sweep.ended or 0) > since for view in views):
            return
        await asyncio.sleep(POLL_SECONDS)


def measure(images: int, locations: int) -> Results:
    with (
        RedisServer(SERVER_CORE) as server,
        run_stand_ins(locations, images // locations, core=SERVER_CORE) as urls,
        tempfile.NamedTemporaryFile("w", suffix=".json") as urls_file,
    ):
        json.dump(urls, urls_file)
        urls_file.flush()
        module = [sys.executable, "-m", "benchmarks.sweep_locations"]
        command = [*on_core(CLIENT_CORE), *module, server.url, urls_file.name]
        finished = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_SECONDS
        )
    results: Results = json.loads(finished.stdout.splitlines()[-1])
    return results


def compare(images: int, counts: list[int]) -> None:
    """Measures each number of locations, and small locations, and prints the aims too."""
    measured: dict[int, Results] = {}
    with progress_bar(len(counts) + 1) as step:
        for locations in counts:
            step(f"{locations:,} locations, {images:,} images in all")
            measured[locations] = measure(images, locations)
        step(SMALL)
        small = measure(10_000, 1000)
    rows = make_table(
        f"Each location swept once; {images:,} images in all, spread evenly",
        *("locations", "sweep", "indexer CPU s", "Redis CPU s", "seconds", "peak MiB"),
    )
    named = [(f"{count:,}", results) for count, results in measured.items()]
    for name, results in [*named, (SMALL, small)]:
        for each in SWEEPS:
            result = results[each]
            rows.add_row(
                name,
                each,
                f"{result['indexer']:.1f}",
                f"{result['redis']:.1f}",
                f"{result['seconds']:.1f}",
                f"{result['peak_mib']:.0f}",
            )
    out.print(rows)
    if set(COMPARED) <= set(measured):
        for each in SWEEPS:
            many, few = (
                measured[count][each]["indexer"] + measured[count][each]["redis"]
                for count in COMPARED
            )
            text = f"{each}: {COMPARED[0]} locations cost {many / few:.2f} times {COMPARED[1]}"
            print_verdict(text, f"{RATIO_AIM}", met=many / few <= RATIO_AIM)
    spent = small[SECOND]["indexer"] + small[SECOND]["redis"]
    met = spent <= SMALL_CPU_AIM
    print_verdict(f"{SMALL}, swept again: {spent:.1f} CPU s", f"{SMALL_CPU_AIM:.0f} s", met=met)
    peak = max(results[SECOND]["peak_mib"] for results in [*measured.values(), small])
    met = peak <= MEMORY_AIM_MIB
    print_verdict(f"memory {peak:.0f} MiB", f"{MEMORY_AIM_MIB:.0f} MiB", met=met)


if __name__ == "__main__":
    pin_to_core(CLIENT_CORE)
    asyncio.run(run_indexer(sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8"))))
