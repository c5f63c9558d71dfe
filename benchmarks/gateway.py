"""Redirects a second, and how late the latest are, against nginx with Lua and Redis.

``python -m benchmarks.gateway`` takes some five minutes, ``--small`` one. Parts:

* ``throughput``: each contender as fast as it can, on one core;
* ``tail``: latency at 70 % of the own peak, at a fixed rate.

The server has the first core to itself; wrk, or the open loop, and Redis share the second.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import (
    RedisServer,
    Rounds,
    arguments,
    free_port,
    in_turns,
    machine,
    on_core,
    out,
    pin,
    sorted_ids,
    steps,
    stop,
    table,
    text_id,
)
from benchmarks.nginx import nginx, wait_for
from benchmarks.openloop import OpenLoop, percentile
from benchmarks.serve import LOCATION, drive, fill, gateway, gets, processor, redirected

PARTS = ("throughput", "tail")
SERVER, DRIVER = 0, 1  # cores
CONNECTIONS = 64

WARM, COLD = "glance-resolver, warm", "glance-resolver, cold"
PEER, BARE, PLAIN = "nginx + Lua + Redis", "nginx `return 307`", "aiohttp, redis-py a request"
AIMS = {WARM: 1.2, COLD: 0.6}
"""Times nginx + Lua + Redis."""

ASKED = 20_000
"""Different ids that are asked for."""

LOAD, P99_AIM, P999_AIM = 0.7, 5.0, 20.0
"""Share of the peak rate; milliseconds."""


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


def throughput(count: int, rounds: int, seconds: int, step: Callable[[str], None]) -> None:
    rates, work = Rounds(), Rounds()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(DRIVER))
        ids = sorted_ids(count)
        step(f"filling {count:,} images")
        cold = stack.enter_context(gateway(redis.url, SERVER, settings={"CACHE_SIZE": "0"}))
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
        for number in range(rounds):
            for one in in_turns(contenders, number):
                step(f"{one.name}, round {number + 1}")
                used = processor(one.pid)
                rate = drive(one.port, one.script, DRIVER, CONNECTIONS, seconds)
                rates.add(one.name, rate)
                work.add(one.name, (processor(one.pid) - used) / (rate * seconds) * 1e6)
    show(count, rates, work)


def check(port: int, ids: Sequence[bytes]) -> None:
    """Raises RuntimeError unless it redirects to the right server."""
    for text in map(text_id, ids[:3]):
        if (answer := redirected(port, text)) != f"307 {LOCATION}/v2/images/{text}":
            raise RuntimeError(f"port {port} answered {answer}")


def show(count: int, rates: Rounds, work: Rounds) -> None:
    made = table(
        f"Redirects a second by one process on one core, {CONNECTIONS} connections, "
        f"{count:,} images",
        *("", "median (least - most)", "to nginx + Lua", "server's µs each"),
    )
    for name in rates.names():
        made.add_row(
            name, rates.shown(name), rates.shown_ratio(name, PEER), work.shown(name, ".1f")
        )
    out.print(made)
    for name, aim in AIMS.items():
        if name in rates.names():
            verdict(
                f"{name}: {rates.ratio(name, PEER):.2f} times",
                f"{aim:g} times",
                met=rates.ratio(name, PEER) >= aim,
            )


def verdict(text: str, aim: str, *, met: bool) -> None:
    out.print(f"{text}; aim of {aim} {'met' if met else 'NOT met'}")


def tail(count: int, rounds: int, seconds: int, step: Callable[[str], None]) -> None:
    found = {name: Rounds() for name in ("rate", "50 %", "99 %", "99.9 %", "slowest")}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(DRIVER))
        ids = sorted_ids(count)
        step(f"tail: filling {count:,} images")
        port, _ = stack.enter_context(gateway(redis.url, SERVER))
        asyncio.run(fill(redis, ids))
        script = gets(folder, "some", ids, ASKED)
        requests = [
            f"GET /v2/images/{text} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            for text in script.with_suffix(".ids").read_text().split()
        ]
        loop = OpenLoop(port, requests, CONNECTIONS)
        stack.callback(loop.close)
        for number in range(rounds):
            step(f"tail: peak, round {number + 1}")
            peak = drive(port, script, DRIVER, CONNECTIONS, seconds)
            step(f"tail: at {LOAD:.0%} of it, round {number + 1}")
            took = loop.run(LOAD * peak, seconds)
            found["rate"].add(COLD, LOAD * peak)
            for name, share in (("50 %", 0.5), ("99 %", 0.99), ("99.9 %", 0.999), ("slowest", 1)):
                found[name].add(COLD, percentile(took, share) * 1e3)
    made = table(
        f"Milliseconds since a request was due, at {LOAD:.0%} of the own peak, {count:,} images",
        *("", "requests/s", "50 %", "99 %", "99.9 %", "slowest"),
    )
    made.add_row(
        COLD,
        found["rate"].shown(COLD),
        *(found[name].shown(COLD, ".2f") for name in ("50 %", "99 %", "99.9 %", "slowest")),
    )
    out.print(made)
    for name, aim in (("99 %", P99_AIM), ("99.9 %", P999_AIM)):
        late = found[name].median(COLD)
        verdict(f"{COLD}: {name} within {late:.2f} ms", f"{aim:g} ms", met=late <= aim)


def main() -> None:
    options = arguments(__doc__, ("--images", 0, "images"), ("--rounds", 0, "rounds"), parts=PARTS)
    small = options.small
    out.print(f"benchmarks.gateway: {machine()}")
    pin(DRIVER)
    count = options.images or (20_000 if small else 1_000_000)
    rounds, seconds = options.rounds or (3 if small else 7), 2 if small else 4
    with steps(2 + 6 * rounds) as step:
        if "throughput" in options.parts:
            throughput(count, rounds, seconds, step)
        if "tail" in options.parts:
            tail(count, rounds, seconds, step)


if __name__ == "__main__":
    main()
