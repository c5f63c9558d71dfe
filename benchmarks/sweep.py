"""A whole sweep against reading and parsing the same pages alone: time and memory.

``python -m benchmarks.sweep`` sweeps a million images of a stand-in Glance server ten times and
reads them five times more, which takes four minutes; ``--small`` takes 50,000 images. The server,
Redis and each reading or sweep is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import (
    RedisServer,
    Rounds,
    arguments,
    cpu,
    in_turns,
    machine,
    on_core,
    out,
    pin,
    steps,
    stop,
    table,
)
from resolver.glance import GlanceServer, connect, list_images
from resolver.index import open_index
from resolver.models import Location, Progress
from resolver.standin import StandIn
from resolver.sync.sweep import Sweeper

FIGURES = ("seconds", "cpu", "grown", "claimed")
READ, FIRST, SECOND = "reading alone", "first sweep", "second sweep"
PATIENCE = 600.0
"""Seconds that one reading or sweep may take."""

REAL_RATE = 3300
"""Images a second that a real Glance lists at most (measured on Glance 33)."""

TIME_AIM, MEMORY_AIM = 1.2, 60.0
LEASE = 30.0


def memory_kb(field: str) -> int:
    """A figure of this process's memory: ``VmRSS`` now or ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(field)


def forget_peak() -> None:
    """From here on ``VmHWM`` counts."""
    Path("/proc/self/clear_refs").write_text("5")


async def serve(count: int) -> None:
    """The stand-in's process: says where it listens and goes on until it is ended."""
    server = StandIn()
    server.fill(count, seed=1)
    async with server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


async def work(what: str, glance: str, redis: str) -> None:
    """One process's reading or sweep; prints its figures."""
    async with connect(30.0) as session, open_index(redis) as index:
        server = GlanceServer(session, Location(name="a", url=glance, number=1))
        lease = index.lease("sweep:1", seconds=LEASE)
        await lease.acquire()
        versions = await server.versions()
        forget_peak()
        before, used, begun = memory_kb("VmRSS"), cpu(), time.perf_counter()
        images, claimed = 0, 0
        if what == READ:
            async for page in list_images(server, versions):
                images += len(page.images)
        else:

            async def report(_: Progress) -> None:
                await lease.renew()  # as the indexer does

            done = await Sweeper(index, server, versions, guard=0.2).run(report)
            images, claimed = done.images, done.claimed
        figures = {
            "seconds": time.perf_counter() - begun,
            "cpu": cpu() - used,
            "grown": (memory_kb("VmHWM") - before) / 1024,
            "images": images,
            "claimed": claimed,
        }
        await lease.release()
    print(json.dumps(figures))


@contextmanager
def stand_in(count: int) -> Iterator[str]:
    """The URL of a stand-in in a process of its own, on the core of Redis."""
    command = [*on_core(0), sys.executable, "-m", "benchmarks.sweep", "serve", str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        stop(process)
        if process.stdout:
            process.stdout.close()


def run(what: str, glance: str, redis: RedisServer, count: int) -> dict[str, float]:
    command = [*on_core(1), sys.executable, "-m", "benchmarks.sweep", what, glance, redis.url]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
    figures: dict[str, float] = json.loads(answer.stdout)
    if figures["images"] != count:
        raise RuntimeError(f"{what}: {figures['images']} images instead of {count}")
    if what != READ and figures["claimed"] != (count if what == FIRST else 0):
        raise RuntimeError(f"{what}: {figures['claimed']} new claims")
    return figures


def compare(count: int, rounds: int) -> None:
    figures = {name: Rounds() for name in FIGURES}
    redis_cpu = Rounds()

    def one(what: str) -> None:
        used = redis.cpu()
        for name, value in run(what, glance, redis, count).items():
            if name in figures:
                figures[name].add(what, value)
        redis_cpu.add(what, redis.cpu() - used)

    with steps(3 * rounds + 1) as step, RedisServer() as redis:
        step(f"a stand-in with {count:,} images")
        with stand_in(count) as glance:
            for number in range(rounds):
                for pair in in_turns([(READ,), (FIRST, SECOND)], number):
                    for what in pair:
                        step(f"{what}, round {number + 1}")
                        if what == FIRST:
                            redis.flush()
                        one(what)
    show(count, figures, redis_cpu)


def show(count: int, figures: dict[str, Rounds], redis_cpu: Rounds) -> None:
    seconds = figures["seconds"]
    made = table(
        f"A sweep of {count:,} images; the second finds nothing changed; median (least - most)",
        *("", "seconds", "to reading", "images/s", "own CPU s", "Redis CPU", "grew by MB"),
    )
    for what in (READ, FIRST, SECOND):
        made.add_row(
            what,
            seconds.shown(what, ".1f"),
            seconds.shown_ratio(what, READ),
            f"{count / seconds.median(what):,.0f}",
            f"{figures['cpu'].median(what):.1f}",
            f"{redis_cpu.median(what):.1f}",
            f"{figures['grown'].median(what):.1f}",
        )
    out.print(made)
    for what in (FIRST, SECOND):
        ratio = seconds.ratio(what, READ)
        verdict = "met" if ratio <= TIME_AIM else "NOT met"
        out.print(f"{what}: {ratio:.2f} times reading; aim of {TIME_AIM} {verdict}")
        extra = seconds.median(what) - seconds.median(READ)
        real = 1 + extra / (count / REAL_RATE)
        out.print(
            f"  with a Glance that lists {REAL_RATE:,} images/s these {extra:.1f} s more would "
            f"make {real:.2f} times (arithmetic, not measured)"
        )
    grown = max(figures["grown"].median(what) for what in (FIRST, SECOND))
    verdict = "met" if grown < MEMORY_AIM else "NOT met"
    out.print(f"memory grew by {grown:.1f} MB; aim of {MEMORY_AIM:.0f} MB {verdict}")


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2])))
        return
    if len(sys.argv) == 4 and sys.argv[1] in (READ, FIRST, SECOND):
        pin(1)
        asyncio.run(work(*sys.argv[1:]))
        return
    options = arguments(__doc__, ("--images", 0, "images"), ("--rounds", 0, "rounds"))
    out.print(f"benchmarks.sweep: {machine()}")
    count = options.images or (50_000 if options.small else 1_000_000)
    compare(count, options.rounds or (3 if options.small else 5))


if __name__ == "__main__":
    main()
