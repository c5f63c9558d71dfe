"""A whole sweep compared with only reading and parsing the same pages: time and memory.

``python -m benchmarks.sweep`` sweeps a million images of a stand-in Glance server ten times and
reads them five times, which takes four minutes; ``--small`` takes 50,000 images. The stand-in,
Redis and each reading or sweep are separate processes. ``--versions`` sweeps as many images whose
ids are UUIDs of version 7, too. ``--locations 2,20,200,1000`` spreads the images over so many
locations instead (`benchmarks.sweep_locations`).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks import sweep_locations
from benchmarks.common import (
    Measurements,
    make_table,
    out,
    parse_arguments,
    print_verdict,
    progress_bar,
    rotated,
)
from benchmarks.machine import (
    describe_machine,
    memory_kib,
    on_core,
    own_cpu_seconds,
    pin_to_core,
    reset_peak_memory,
)
from benchmarks.redis_server import RedisServer
from benchmarks.stand_ins import RANDOM, run_stand_ins
from resolver.glance import GlanceServer, ScopeCache, connect, list_images
from resolver.index import open_index
from resolver.index.sizing import wanted_bits
from resolver.models import Location, Progress
from resolver.sync.sweep import Sweeper

READ, FIRST, SECOND = "reading alone", "first sweep", "second sweep"
TASKS = (READ, FIRST, SECOND)
VERSION_7 = 7
FIRST_BITS = 8
"""Of a new index, before it has grown for its images."""
RESULTS = ("seconds", "cpu_seconds", "grown_mib")
TASK_TIMEOUT_SECONDS = 600.0
"""For one reading or sweep."""

GLANCE_IMAGES_PER_SECOND = 3300
"""How fast a real Glance lists at most (measured with Glance 33)."""

TIME_RATIO_AIM, MEMORY_AIM_MIB = 1.2, 60.0
LEASE_SECONDS = 30.0
SHRINK_GUARD = 0.2
SERVER_CORE, CLIENT_CORE = 0, 1


def named(task: str, version: int) -> str:
    """The name of a task on images whose ids have this UUID version."""
    return task if version == RANDOM else f"{task}, version {version}"


async def run_task(task: str, glance_url: str, redis_url: str, count: str) -> None:
    """The process of one reading or sweep: prints its results as JSON. The index has as many
    buckets as it has grown to for ``count`` images."""
    bits = wanted_bits(int(count), FIRST_BITS)
    async with connect(30.0) as session, open_index(redis_url, bits=bits) as index:
        server = GlanceServer(session, Location(name="a", url=glance_url, number=1))
        lease = index.lease("sweep:1", seconds=LEASE_SECONDS)
        await lease.acquire()
        versions = await server.versions()
        reset_peak_memory()
        memory_before, cpu_before = memory_kib("VmRSS"), own_cpu_seconds()
        started = time.perf_counter()
        images, claimed = 0, 0
        if task == READ:
            async for page in list_images(server, versions):
                images += len(page.images)
        else:

            async def renew_lease(_: Progress) -> None:
                await lease.renew()  # as the indexer does

            sweeper = Sweeper(index, server, versions, ScopeCache(), guard=SHRINK_GUARD)
            done = await sweeper.run(renew_lease)
            images, claimed = done.images, done.claimed
        results = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": own_cpu_seconds() - cpu_before,
            "grown_mib": (memory_kib("VmHWM") - memory_before) / 1024,
            "images": images,
            "claimed": claimed,
        }
        await lease.release()
    print(json.dumps(results))


def run_in_process(task: str, glance_url: str, redis: RedisServer, count: int) -> dict[str, float]:
    """Runs a reading or sweep as a process and returns its results.

    Raises:
        RuntimeError: it did not read or claim the expected number of images.
    """
    module = [sys.executable, "-m", "benchmarks.sweep"]
    command = [*on_core(CLIENT_CORE), *module, task, glance_url, redis.url, str(count)]
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, timeout=TASK_TIMEOUT_SECONDS
    )
    results: dict[str, float] = json.loads(finished.stdout)
    if results["images"] != count:
        raise RuntimeError(f"{task}: {results['images']} images instead of {count}")
    if task != READ and results["claimed"] != (count if task == FIRST else 0):
        raise RuntimeError(f"{task}: {results['claimed']} new claims")
    return results


def compare(count: int, repeats: int, versions: Sequence[int]) -> None:
    measurements = {name: Measurements() for name in RESULTS}
    redis_cpu = Measurements()

    def measure(task: str, version: int) -> None:
        before = redis.cpu_seconds()
        results = run_in_process(task, urls[version], redis, count)
        for name in RESULTS:
            measurements[name].add(named(task, version), results[name])
        redis_cpu.add(named(task, version), redis.cpu_seconds() - before)

    groups = [(version, tasks) for version in versions for tasks in ((READ,), (FIRST, SECOND))]
    with (
        progress_bar(len(TASKS) * len(versions) * repeats + 1) as step,
        RedisServer(SERVER_CORE) as redis,
        ExitStack() as stack,
    ):
        step(f"stand-ins with {count:,} images")
        urls = {}
        for version in versions:
            stand_ins = run_stand_ins(1, count, core=SERVER_CORE, version=version)
            (urls[version],) = stack.enter_context(stand_ins)
        for repeat in range(repeats):
            for version, tasks in rotated(groups, repeat):
                for task in tasks:
                    step(f"{named(task, version)}, repeat {repeat + 1}")
                    if task == FIRST:
                        redis.flush()
                    measure(task, version)
    print_results(count, measurements, redis_cpu, versions)


def print_results(
    count: int,
    measurements: dict[str, Measurements],
    redis_cpu: Measurements,
    versions: Sequence[int],
) -> None:
    names = [named(task, version) for version in versions for task in TASKS]
    seconds, grown = measurements["seconds"], measurements["grown_mib"]
    rows = make_table(
        f"A sweep of {count:,} images; the second finds no change; median (least - most)",
        *("", "seconds", "to reading", "images/s", "own CPU s", "Redis CPU", "grew by MiB"),
    )
    for task in names:
        rows.add_row(
            task,
            seconds.format(task, ".1f"),
            seconds.format_ratio(task, READ),
            f"{count / seconds.median(task):,.0f}",
            f"{measurements['cpu_seconds'].median(task):.1f}",
            f"{redis_cpu.median(task):.1f}",
            f"{grown.median(task):.1f}",
        )
    out.print(rows)
    for task in (FIRST, SECOND):
        ratio = seconds.ratio(task, READ)
        met = ratio <= TIME_RATIO_AIM
        print_verdict(f"{task}: {ratio:.2f} times reading", f"{TIME_RATIO_AIM}", met=met)
        extra = seconds.median(task) - seconds.median(READ)
        real = 1 + extra / (count / GLANCE_IMAGES_PER_SECOND)
        out.print(
            f"  with a Glance that lists {GLANCE_IMAGES_PER_SECOND:,} images/s these {extra:.1f} s "
            f"more would make {real:.2f} times (computed, not measured)"
        )
    most = max(map(grown.median, names))
    met = most < MEMORY_AIM_MIB
    print_verdict(f"memory grew by {most:.1f} MiB", f"{MEMORY_AIM_MIB:.0f} MiB", met=met)


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] in TASKS:
        pin_to_core(CLIENT_CORE)
        asyncio.run(run_task(*sys.argv[1:]))
        return
    options = parse_arguments(
        __doc__,
        ("--images", 0, "images"),
        ("--rounds", 0, "repeats"),
        texts=[("--locations", "numbers of locations, with commas between them")],
        flags=[("--versions", "images whose ids are UUIDs of version 7, too")],
    )
    out.print(f"benchmarks.sweep: {describe_machine()}")
    count = options.images or (50_000 if options.small else 1_000_000)
    if options.locations:
        counts = [int(part) for part in options.locations.split(",")]
        sweep_locations.compare(count, counts, options.rounds or 3)
        return
    versions = (RANDOM, VERSION_7) if options.versions else (RANDOM,)
    compare(count, options.rounds or (3 if options.small else 5), versions)


if __name__ == "__main__":
    main()
