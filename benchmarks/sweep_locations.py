"""What sweeping the same images costs, spread over few or many locations: ``--locations``.

Each number of locations is a *world*: stand-in Glance servers that share the images out evenly, a
Redis, and a process with a resolver's indexer, which sweeps each location when it is asked to:
once, and then again, several times, when nothing has changed. Worlds take turns, so that
what else the machine does meets all of them.

Processor time is what is compared. A busy machine makes sweeps slow, so that time limits are far
longer here than in a resolver.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from benchmarks.common import Measurements, make_table, out, print_verdict, progress_bar, rotated
from benchmarks.machine import (
    memory_kib,
    on_core,
    own_cpu_seconds,
    pin_to_core,
    reset_peak_memory,
    stop_process,
)
from benchmarks.redis_server import RedisServer, redis_cpu_seconds
from benchmarks.stand_ins import run_stand_ins
from resolver.index import RedisTimeouts
from resolver.services import Services, open_services
from resolver.settings import Settings

SERVER_CORE, CLIENT_CORE = 0, 1
TIMEOUT_SECONDS = 1800.0
"""For all sweeps of one turn."""
POLL_SECONDS = 0.1

SMALL = "1,000 of 10 images"
FIRST, SECOND = "first sweep", "second sweep"

RATIO_AIM = 1.5
"""Of the processor time of 200 locations, to that of 2."""
COMPARED = ("200", "2")
SMALL_CPU_AIM, MEMORY_AIM_MIB = 20.0, 150.0

RESULT = "RESULT "
"""Begins the lines of the indexer's process that are no log."""

Result = dict[str, float]
"""Of one turn: processor seconds of the indexer and of Redis, seconds, peak MiB."""


async def run_indexer(redis_url: str, urls: list[str]) -> None:
    """The indexer's process: a turn, and a line with its result, for each line that it reads."""
    locations = {f"location-{number}": {"url": url} for number, url in enumerate(urls)}
    settings = Settings(
        redis_url=redis_url,
        sweep_interval=86_400,
        health_interval=86_400,
        poll_interval=0,
        location_timeout=TIMEOUT_SECONDS,
    )
    loop = asyncio.get_running_loop()
    patient = RedisTimeouts(TIMEOUT_SECONDS, TIMEOUT_SECONDS)
    async with open_services(settings, locations, redis_timeouts=patient) as services:
        gc.freeze()  # as `serve` does
        with redis.Redis.from_url(redis_url) as client:
            indexer = None
            while await loop.run_in_executor(None, sys.stdin.readline):
                begun = time.time(), time.perf_counter(), own_cpu_seconds()
                redis_begun = redis_cpu_seconds(client)
                reset_peak_memory()
                if indexer is None:
                    indexer = asyncio.create_task(services.indexer.run())
                else:
                    for location in locations:
                        await services.registry.sweep(location)
                await all_swept(services, begun[0])
                result = {
                    "indexer": own_cpu_seconds() - begun[2],
                    "redis": redis_cpu_seconds(client) - redis_begun,
                    "seconds": time.perf_counter() - begun[1],
                    "peak_mib": memory_kib("VmHWM") / 1024,
                }
                print(RESULT + json.dumps(result), flush=True)


async def all_swept(services: Services, since: float) -> None:
    """Returns when each location has been swept after ``since``. Raises TimeoutError."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        is_done = False
        while not is_done:
            await asyncio.sleep(POLL_SECONDS)
            views = (await services.tables.current()).by_name.values()
            is_done = all((view.status.sweep.ended or 0) > since for view in views)


class World:
    """The process of an indexer, and what it uses."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def sweep(self) -> Result:
        """Has it sweep each of its locations.

        Raises:
            RuntimeError: it failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(RESULT):
                result: Result = json.loads(line.removeprefix(RESULT))
                return result
        raise RuntimeError("the indexer's process has ended")


@contextmanager
def open_world(images: int, locations: int) -> Iterator[World]:
    with (
        RedisServer(SERVER_CORE) as server,
        run_stand_ins(locations, images // locations, core=SERVER_CORE) as urls,
        tempfile.NamedTemporaryFile("w", suffix=".json") as urls_file,
    ):
        json.dump(urls, urls_file)
        urls_file.flush()
        module = [sys.executable, "-m", "benchmarks.sweep_locations"]
        process = subprocess.Popen(
            [*on_core(CLIENT_CORE), *module, server.url, urls_file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield World(process)
        finally:
            stop_process(process)


def compare(images: int, counts: Sequence[int], rounds: int) -> None:
    """Measures each number of locations, and small locations, and prints the aims too. Each is
    swept once, and ``rounds`` times when nothing has changed."""
    sizes = {**{f"{count:,}": (images, count) for count in counts}, SMALL: (10_000, 1000)}
    measured = {key: Measurements() for key in ("CPU", "indexer", "redis", "seconds", "peak_mib")}

    def take_turn_of(world: World, name: str) -> None:
        result = world.sweep()
        for key, value in result.items():
            measured[key].add(name, value)
        measured["CPU"].add(name, result["indexer"] + result["redis"])
        shown = ", ".join(f"{key} {value:.2f}" for key, value in result.items())
        out.print(f"{name}: {shown}")  # now, since a whole run may take an hour

    with progress_bar(len(sizes) * (2 + rounds)) as step, ExitStack() as stack:
        worlds = {}
        for name, (all_images, count) in sizes.items():
            step(f"{count:,} locations, {all_images:,} images in all")
            worlds[name] = stack.enter_context(open_world(all_images, count))
        for name, world in worlds.items():
            step(f"{FIRST}, {name}")
            take_turn_of(world, f"{FIRST}, {name}")
        for repeat in range(rounds):
            for name, world in rotated(list(worlds.items()), repeat):
                step(f"{SECOND}, {name}, repeat {repeat + 1}")
                take_turn_of(world, f"{SECOND}, {name}")
    print_results(images, list(sizes), measured)


def print_results(images: int, names: Sequence[str], measured: dict[str, Measurements]) -> None:
    rows = make_table(
        f"Each location swept once; {images:,} images in all, spread evenly; median (least - most)",
        *("locations", "sweep", "indexer CPU s", "Redis CPU s", "seconds", "peak MiB"),
    )
    turns = [(name, sweep, f"{sweep}, {name}") for name in names for sweep in (FIRST, SECOND)]
    for name, sweep, turn in turns:
        rows.add_row(
            name,
            sweep,
            measured["indexer"].format(turn, ".1f"),
            measured["redis"].format(turn, ".2f"),
            measured["seconds"].format(turn, ".1f"),
            measured["peak_mib"].format(turn, ".0f"),
        )
    out.print(rows)
    if set(COMPARED) <= set(names):
        for sweep in (FIRST, SECOND):
            many, few = (f"{sweep}, {name}" for name in COMPARED)
            ratio = measured["CPU"].ratio(many, few)
            text = (
                f"{sweep}: {COMPARED[0]} locations cost "
                f"{measured['CPU'].format_ratio(many, few)} times {COMPARED[1]}"
            )
            print_verdict(text, f"{RATIO_AIM}", met=ratio <= RATIO_AIM)
    spent = measured["CPU"].median(f"{SECOND}, {SMALL}")
    met = spent <= SMALL_CPU_AIM
    print_verdict(f"{SMALL}, swept again: {spent:.1f} CPU s", f"{SMALL_CPU_AIM:.0f} s", met=met)
    peak = max(measured["peak_mib"].median(turn) for _, _, turn in turns)
    met = peak <= MEMORY_AIM_MIB
    print_verdict(f"memory {peak:.0f} MiB", f"{MEMORY_AIM_MIB:.0f} MiB", met=met)


if __name__ == "__main__":
    pin_to_core(CLIENT_CORE)
    asyncio.run(run_indexer(sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8"))))
