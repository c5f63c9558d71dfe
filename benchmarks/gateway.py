"""Redirects a second, and how late the latest are, against nginx with Lua and Redis.

``python -m benchmarks.gateway`` takes some ten minutes, ``--small`` three. Parts:

* ``throughput``: each contender as fast as it can, on one core;
* ``tail``: latency at 70 % of the own peak, at a fixed rate;
* ``sizes``: many images, and many locations, against few;
* ``workers``: two workers against one;
* ``footprint``: memory with a million ids kept, and how long a start takes.

The server has the first core to itself; wrk, or the open loop, and Redis share the second.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import (
    CORES,
    Others,
    RedisServer,
    Rounds,
    arguments,
    free_port,
    in_turns,
    machine,
    on_core,
    out,
    pin,
    processor,
    sorted_ids,
    steps,
    stop,
    table,
    text_id,
)
from benchmarks.nginx import nginx, wait_for
from benchmarks.openloop import OpenLoop, percentile
from benchmarks.serve import LOCATION, drive, fill, gateway, gets, redirected

PARTS = ("throughput", "tail", "sizes", "workers", "footprint")
SERVER, DRIVER = 0, 1  # cores
CONNECTIONS = 64

WARM, COLD = "glance-resolver, warm", "glance-resolver, cold"
PEER, BARE, PLAIN = "nginx + Lua + Redis", "nginx `return 307`", "aiohttp, redis-py a request"
AIMS = {WARM: 1.2, COLD: 0.6}
"""Times nginx + Lua + Redis."""

ASKED = 20_000
"""Different ids that are asked for."""

others = Others()

LOAD, P99_AIM, P999_AIM = 0.7, 5.0, 20.0
"""Share of the peak rate; milliseconds."""

P99_RATIO_AIM, WORKERS_AIM, MEMORY_AIM = 1.2, 1.8, 250

KEPT, ASK_RATE, STARTS = 1_000_000, 15_000, 9
"""Ids kept for `footprint`, how many a second are asked for, and starts timed."""


class Contender(NamedTuple):
    name: str
    port: int
    pid: int
    script: Path


@contextmanager
def plain(redis: RedisServer) -> Iterator[tuple[int, int]]:
    """(port, process) of `benchmarks.plain`."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.plain", str(port), redis.url]
    process = subprocess.Popen([*on_core(SERVER), *command])
    try:
        wait_for(port, process)
        yield port, process.pid
    finally:
        stop(process)


COLD_SETTINGS = {"CACHE_SIZE": "1000"}
"""Too few for any id to be there still when it is asked for again."""


def throughput(count: int, rounds: int, seconds: int, step: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(DRIVER))
        ids = sorted_ids(count)
        step(f"filling {count:,} images")
        cold = stack.enter_context(gateway(redis.url, SERVER, settings=COLD_SETTINGS))
        warm = stack.enter_context(gateway(redis.url, SERVER))
        asyncio.run(fill(redis, ids))
        peer = stack.enter_context(nginx(redis, folder, SERVER))
        simple = stack.enter_context(plain(redis))
        some = gets(folder, "some", ids, ASKED)
        bare = gets(folder, "bare", ids, ASKED, "/bare/")
        contenders = [
            Contender(COLD, *cold, some),
            Contender(WARM, *warm, some),
            Contender(PEER, peer.port, peer.worker, some),
            Contender(BARE, peer.port, peer.worker, bare),
            Contender(PLAIN, *simple, some),
        ]
        for one in contenders:
            if one.name != BARE:
                check(one.port, ids)
        found = race(contenders, rounds, seconds, step)
    title = (
        f"Redirects a second by one process on one core, {CONNECTIONS} connections, {count:,} "
        "images"
    )
    show(title, found, PEER)
    for name, aim in AIMS.items():
        ratio = found.rates.ratio(name, PEER)
        verdict(f"{name}: {ratio:.2f} times", f"{aim:g} times", met=ratio >= aim)


class Found(NamedTuple):
    """What a race told: requests a second, and the server's processor time for each."""

    rates: Rounds
    work: Rounds


def race(
    contenders: Sequence[Contender], rounds: int, seconds: int, step: Callable[[str], None]
) -> Found:
    """Drives the contenders in turns."""
    found = Found(Rounds(), Rounds())
    for number in range(rounds):
        for one in in_turns(contenders, number):
            step(f"{one.name}, round {number + 1}")
            rate, each = others.undisturbed(partial(load, one, seconds))
            found.rates.add(one.name, rate)
            found.work.add(one.name, each)
    return found


def load(one: Contender, seconds: int) -> tuple[float, float]:
    """Requests a second, and the server's microseconds for each."""
    pids = [one.pid, *children(one.pid)]
    used = sum(map(processor, pids))
    rate = drive(one.port, one.script, DRIVER, CONNECTIONS, seconds)
    return rate, (sum(map(processor, pids)) - used) / (rate * seconds) * 1e6


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def check(port: int, ids: Sequence[bytes]) -> None:
    """Raises RuntimeError unless it redirects to the right server."""
    for text in map(text_id, ids[:3]):
        if (answer := redirected(port, text)) != f"307 {LOCATION}/v2/images/{text}":
            raise RuntimeError(f"port {port} answered {answer}")


def show(title: str, found: Found, to: str) -> None:
    made = table(title, "", "median (least - most)", f"to {to}", "server's µs each", "to that")
    for name in found.rates.names():
        made.add_row(
            name,
            found.rates.shown(name),
            found.rates.shown_ratio(name, to),
            found.work.shown(name, ".1f"),
            f"{found.work.ratio(name, to):.2f}",
        )
    out.print(made)


def verdict(text: str, aim: str, *, met: bool) -> None:
    out.print(f"{text}; aim of {aim} {'met' if met else 'NOT met'}")


SHARES = {"50 %": 0.5, "99 %": 0.99, "99.9 %": 0.999, "slowest": 1.0}


def requests(script: Path) -> list[bytes]:
    """What the open loop sends: the ids of a script for wrk."""
    return [redirect_of(text) for text in script.with_suffix(".ids").read_text().split()]


def redirect_of(text: str) -> bytes:
    return f"GET /v2/images/{text} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def latencies(port: int, asked: Sequence[bytes], rate: float, seconds: int) -> list[float]:
    """Seconds from when each request was due, least first."""
    loop = OpenLoop(port, asked, CONNECTIONS)
    try:
        return others.undisturbed(partial(loop.run, rate, seconds))
    finally:
        loop.close()


def tail(count: int, rounds: int, seconds: int, step: Callable[[str], None]) -> None:
    late = {name: Rounds() for name in SHARES}
    rates = Rounds()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(DRIVER))
        ids = sorted_ids(count)
        step(f"tail: filling {count:,} images")
        cold, _ = stack.enter_context(gateway(redis.url, SERVER, settings=COLD_SETTINGS))
        warm, _ = stack.enter_context(gateway(redis.url, SERVER))
        asyncio.run(fill(redis, ids))
        peer = stack.enter_context(nginx(redis, folder, SERVER)).port
        script = gets(folder, "some", ids, ASKED)
        asked = requests(script)
        for number in range(rounds):
            for name, port in in_turns(((COLD, cold), (WARM, warm), (PEER, peer)), number):
                step(f"tail: {name}, round {number + 1}")
                rate = LOAD * others.undisturbed(
                    partial(drive, port, script, DRIVER, CONNECTIONS, seconds)
                )
                took = latencies(port, asked, rate, seconds)
                rates.add(name, rate)
                for share, part in SHARES.items():
                    late[share].add(name, percentile(took, part) * 1e3)
    made = table(
        f"Milliseconds since a request was due, at {LOAD:.0%} of the own peak, {count:,} images",
        *("", "requests/s", *SHARES, f"99 % to {PEER}"),
    )
    for name in rates.names():
        shown = [late[share].shown(name, ".1f") for share in SHARES]
        made.add_row(name, rates.shown(name), *shown, f"{late['99 %'].ratio(name, PEER):.2f}")
    out.print(made)
    for name in AIMS:
        for share, aim in (("99 %", P99_AIM), ("99.9 %", P999_AIM)):
            ms = late[share].median(name)
            verdict(f"{name}: {share} within {ms:.1f} ms", f"{aim:g} ms", met=ms <= aim)


def sizes(most: int, rounds: int, seconds: int, step: Callable[[str], None]) -> None:
    few, many = "2 locations, 100,000 images", f"2 locations, {most:,} images"
    wide = "200 locations, 100,000 images"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = []
        for name, count, locations in (
            (few, 100_000, 2),
            (many, most, 2),
            (wide, 100_000, 200),
        ):
            step(f"sizes: filling {name}")
            redis = stack.enter_context(RedisServer(DRIVER))
            ids = sorted_ids(count)
            options = {"settings": COLD_SETTINGS, "locations": locations}
            port, pid = stack.enter_context(gateway(redis.url, SERVER, **options))
            asyncio.run(fill(redis, ids, strings=False))
            script = gets(folder, f"{locations}-{count}", ids, ASKED)
            contenders.append(Contender(name, port, pid, script))
        found = race(contenders, rounds, seconds, step)
        show("Cold redirects a second by the size of things", found, few)
        rate = 0.5 * min(found.rates.median(one.name) for one in contenders)
        late = Rounds()
        for number in range(rounds):
            for one in in_turns(contenders, number):
                step(f"sizes: tail of {one.name}, round {number + 1}")
                took = latencies(one.port, requests(one.script), rate, seconds)
                late.add(one.name, percentile(took, 0.99) * 1e3)
    for one in contenders:
        ratio = late.ratio(one.name, few)
        text = f"{one.name}: 99 % within {late.shown(one.name, '.2f')} ms at {rate:,.0f}/s, "
        verdict(f"{text}{ratio:.2f} times", f"{P99_RATIO_AIM:g} times", met=ratio <= P99_RATIO_AIM)


def workers(count: int, rounds: int, seconds: int, step: Callable[[str], None]) -> None:
    one, two = "1 worker", "2 workers"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(DRIVER))
        ids = sorted_ids(count)
        step(f"workers: filling {count:,} images")
        contenders = []
        some = None
        for name, options in ((one, ()), (two, ("--workers", "2"))):
            where = stack.enter_context(gateway(redis.url, None, command=options))
            some = some or gets(folder, "some", ids, ASKED)
            contenders.append(Contender(name, *where, some))
        asyncio.run(fill(redis, ids))
        found = race(contenders, rounds, seconds, step)
    show(f"Workers, on {len(CORES)} cores that wrk and Redis use too", found, one)
    ratio = found.rates.ratio(two, one)
    if len(CORES) > 3:
        aim = WORKERS_AIM
        verdict(f"{ratio:.2f} times with two workers", f"{aim:g} times", met=ratio >= aim)
    else:
        out.print(
            f"Two workers and their load want four cores. What can be said on {len(CORES)}: a "
            f"request costs {found.work.ratio(two, one):.2f} times the processor time that it "
            "costs one worker."
        )


def footprint(small: bool, step: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(DRIVER))
        count = KEPT // 20 if small else KEPT
        settings = {"CACHE_SIZE": str(count + (1 << 16)), "CACHE_TTL": "3600"}
        step("footprint: filling")
        ids = sorted_ids(count)
        port, pid = stack.enter_context(gateway(redis.url, SERVER, settings=settings))
        asyncio.run(fill(redis, ids, strings=False))
        before = resident(pid)
        step(f"footprint: {count:,} ids asked for")
        ask_ahead(port, [text_id(raw) for raw in ids])
        after = resident(pid)
        took = Rounds()
        for _ in range(STARTS):
            step("footprint: start")
            begun = time.perf_counter()
            with gateway(redis.url, SERVER) as (fresh, _):
                redirected(fresh, text_id(ids[0]))
                took.add("start", time.perf_counter() - begun)
    verdict(
        f"{after:.0f} MB with {count:,} ids kept, {before:.0f} MB before",
        f"{MEMORY_AIM} MB",
        met=after <= MEMORY_AIM,
    )
    start = took.median("start")
    verdict(f"start to first answer: {took.shown('start', '.2f')} s", "0.5 s", met=start <= 0.5)


def resident(pid: int) -> float:
    """Megabytes of memory that a process has."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def ask_ahead(port: int, ids: Sequence[str]) -> None:
    """Asks for each id once."""
    loop = OpenLoop(port, [redirect_of(text) for text in ids], CONNECTIONS)
    found = len(loop.run(ASK_RATE, len(ids) / ASK_RATE))
    loop.close()
    if found < len(ids) - 1:
        raise RuntimeError(f"{found} of {len(ids)} were answered")


def main() -> None:
    options = arguments(__doc__, ("--images", 0, "images"), ("--rounds", 0, "rounds"), parts=PARTS)
    small = options.small
    out.print(f"benchmarks.gateway: {machine()}")
    pin(DRIVER)
    count = options.images or (20_000 if small else 1_000_000)
    rounds, seconds = options.rounds or (3 if small else 7), 2 if small else 4
    with steps(15 + 20 * rounds) as step:
        if "throughput" in options.parts:
            throughput(count, rounds, seconds, step)
        if "tail" in options.parts:
            tail(count, rounds, seconds, step)
        if "sizes" in options.parts:
            sizes(500_000 if small else 5_000_000, rounds, seconds, step)
        if "workers" in options.parts:
            workers(count, rounds, seconds, step)
        if "footprint" in options.parts:
            footprint(small, step)
    if others.disturbed:
        out.print(f"{others.disturbed} figures were taken while others used the machine")


if __name__ == "__main__":
    main()
