"""Hours of operation in minutes: churn, load and faults in turn; every answer is checked.

    python -m benchmarks.soak [--minutes 20] [--out docs/measurements]

Runs a gateway with indexer as a process, and its Redis and its locations behind proxies that cut
and delay. Images come and go, and a location is added and removed again and again. Memory, file
descriptors, connections and tasks of the process are written to `soak.csv` and drawn in `soak.svg`:
they should not grow. Exits 1 if an answer was wrong, something did not recover by itself, or memory
grew.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.common import make_table, out
from benchmarks.soak_faults import FaultRotation
from benchmarks.soak_load import Load
from benchmarks.soak_world import (
    PERMANENT_LOCATIONS,
    RECOVERY_SECONDS,
    TEMPORARY_LOCATION,
    TOKEN,
    AnswerChecker,
    SoakLocation,
    World,
)
from benchmarks.svg_plot import Panel, write_svg
from resolver.standin import StandIn
from tests.support.process import free_port
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

SAMPLE_SECONDS = 5.0
"""Between two samples of the process."""

WARM_UP_PART = 0.25
"""Part of the time that does not count for growth: caches fill up."""

MAX_GROWTH = 0.05
"""Part by which the medians of memory in the two halves may differ: noise."""

SETTINGS = {
    "RESOLVER_ADMIN_TOKENS": TOKEN,
    "RESOLVER_SWEEP_INTERVAL": "5",
    "RESOLVER_POLL_INTERVAL": "2",
    "RESOLVER_HEALTH_INTERVAL": "2",
    "RESOLVER_LOCATION_TIMEOUT": "5",
    "RESOLVER_PROBE_TIMEOUT": "1",
    "RESOLVER_CACHE_SIZE": "2000",  # full long before the end
    "RESOLVER_ACCESS_LOG": "off",
}

TITLES = {
    "rss_mb": "resident memory, MB",
    "fds": "file descriptors",
    "connections": "connections",
    "tasks": "tasks",
}
"""Of the sampled columns that must not grow."""


class Sampler:
    """Samples what the gateway's process uses."""

    def __init__(self, world: World, pid: int) -> None:
        self._world, self._proc = world, Path(f"/proc/{pid}")
        self.rows: list[dict[str, Any]] = []

    async def run(self, started: float) -> None:
        """Runs without end. ``started``: the time 0 of the rows, by the monotonic clock."""
        while True:
            self.rows.append(await self._sample(time.monotonic() - started))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _sample(self, seconds: float) -> dict[str, Any]:
        async with self._world.http.get("/metrics") as reply:
            metrics = await reply.text()
        tasks = re.search(r"^glance_resolver_tasks (\S+)", metrics, re.MULTILINE)
        rss = re.search(r"VmRSS:\s+(\d+)", (self._proc / "status").read_text())
        assert tasks
        assert rss
        descriptors = []
        for link in (self._proc / "fd").iterdir():
            with suppress(OSError):  # it is closed
                descriptors.append(os.readlink(link))
        checker = self._world.checker
        return {
            "seconds": round(seconds),
            "rss_mb": round(int(rss[1]) / 1024, 1),
            "fds": len(descriptors),
            "connections": sum(target.startswith("socket:") for target in descriptors),
            "tasks": int(float(tasks[1])),
            "answers": sum(checker.outcomes.values()),
            "unknown": checker.outcomes["unknown"],
            "wrong": len(checker.wrong),
            "fault": self._world.current_fault,
        }


class Soak:
    """One run: the load, the faults, and the samples."""

    def __init__(self, world: World, pid: int) -> None:
        self.world = world
        self.load, self.faults = Load(world), FaultRotation(world)
        self.sampler = Sampler(world, pid)
        self.started = 0.0

    async def run(self, minutes: float) -> None:
        """Runs for some minutes. Raises what a part of it raises."""
        self.load.create_images()
        await wait_until(self.world.has_recovered, RECOVERY_SECONDS)
        self.started = time.monotonic()
        loops = [*self.load.loops(), self.faults.run(), self.sampler.run(self.started)]
        tasks = [asyncio.create_task(loop) for loop in loops]
        ended, _ = await asyncio.wait(
            tasks, timeout=60 * minutes, return_when=asyncio.FIRST_COMPLETED
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            task.result()


@asynccontextmanager
async def start_soak(folder: Path) -> AsyncIterator[Soak]:
    """Starts all servers. The gateway logs to the file ``log`` in the folder."""
    async with AsyncExitStack() as stack:
        redis = RedisServer(folder).start()
        stack.callback(redis.kill)
        redis_proxy = await stack.enter_async_context(Proxy(redis.port))
        locations = {}
        for name in (*PERMANENT_LOCATIONS, TEMPORARY_LOCATION):
            server = await stack.enter_async_context(StandIn())
            proxy = await stack.enter_async_context(Proxy(server.port))
            locations[name] = SoakLocation(name, server, proxy)
        locations[TEMPORARY_LOCATION].added = float("inf")
        port = free_port()
        options = [f"--location={name}={locations[name].url}" for name in PERMANENT_LOCATIONS]
        clean = {name: value for name, value in os.environ.items() if name[:9] != "RESOLVER_"}
        log = (folder / "log").open("wb")
        stack.callback(log.close)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "resolver", "serve", "--port", str(port), *options),
            env=clean | SETTINGS | {"RESOLVER_REDIS_URL": redis_proxy.url},
            stderr=log,
        )
        stack.push_async_callback(process.wait)
        stack.callback(process.terminate)
        http = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}"))

        async def answers() -> bool:
            with suppress(aiohttp.ClientError):
                async with http.get("/livez"):
                    return True
            return False

        await wait_until(answers, RECOVERY_SECONDS)
        yield Soak(World(redis, redis_proxy, locations, http, port), process.pid)


def report(soak: Soak, folder: Path, minutes: float) -> bool:
    """Writes and prints the results. Returns whether the run succeeded."""
    rows, checker, faults = soak.sampler.rows, soak.world.checker, soak.faults
    with (folder / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_svg(
        folder / "soak.svg",
        f"{minutes:g} minutes of churn and faults (grey: a fault)",
        [row["seconds"] for row in rows],
        [Panel(title, [row[name] for row in rows]) for name, title in TITLES.items()],
        [started - soak.started for started in faults.started],
    )
    memory_before, memory_after = print_medians(rows, minutes)["rss_mb"]
    print_recoveries(faults)
    print_answers(checker)
    for text in [*checker.wrong[:20], *(f"no recovery: {name}" for name in faults.not_recovered)]:
        out.print(text, markup=False)
    has_grown = memory_after > memory_before * (1 + MAX_GROWTH)
    return not (checker.wrong or faults.not_recovered or has_grown)


def print_medians(rows: list[dict[str, Any]], minutes: float) -> dict[str, tuple[float, float]]:
    """Prints and returns the medians of the two halves of the time after the warm-up, by column."""
    counted = [row for row in rows if row["seconds"] >= WARM_UP_PART * 60 * minutes]
    half = len(counted) // 2
    table = make_table("medians", "column", "first half", "second half", "most")
    medians = {}
    for name, title in TITLES.items():
        values = [row[name] for row in counted]
        medians[name] = statistics.median(values[:half]), statistics.median(values[half:])
        table.add_row(title, *(f"{value:g}" for value in (*medians[name], max(values))))
    out.print(table)
    return medians


def print_recoveries(faults: FaultRotation) -> None:
    table = make_table("faults", "fault", "times", "recovered after s: median", "longest")
    for name, seconds in faults.recovery_seconds.items():
        median, longest = statistics.median(seconds), max(seconds)
        table.add_row(name, str(len(seconds)), f"{median:.1f}", f"{longest:.1f}")
    out.print(table)


def print_answers(checker: AnswerChecker) -> None:
    outcomes = ", ".join(
        f"{count:,} {outcome}" for outcome, count in checker.outcomes.most_common()
    )
    total = sum(checker.outcomes.values())
    out.print(f"{total:,} answers: {outcomes}; {len(checker.wrong)} wrong.")
    out.print(f"A deleted image was found for {checker.longest_stale:.1f} s at most.")


async def run(minutes: float, folder: Path) -> bool:
    """Runs and reports. Returns whether the run succeeded."""
    with tempfile.TemporaryDirectory(prefix="glr-soak-") as servers:
        try:
            async with start_soak(Path(servers)) as soak:
                await soak.run(minutes)
        except BaseException:
            out.print((Path(servers) / "log").read_text()[-4000:], markup=False)
            raise
        return report(soak, folder, minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/measurements"), help="folder for CSV and SVG"
    )
    options = parser.parse_args()
    if not asyncio.run(run(options.minutes, options.out)):
        sys.exit(1)


if __name__ == "__main__":
    main()
