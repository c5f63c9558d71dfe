"""Where a request's processor time goes: the gateway's stack, sampled a thousand times a second.

``python -m benchmarks.profile_layers`` sends requests to a gateway for some seconds and prints, by
layer of the program, how much processor time each request took there. Time in C counts for the
Python function that called it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.common import make_table, out, parse_arguments, sorted_ids
from benchmarks.gateway_process import fill_index, run_gateway, run_wrk, write_wrk_script
from benchmarks.gateway_shapes import CLOSE, LOGGING, REQUEST_ID
from benchmarks.machine import cpu_seconds, describe_machine, pin_to_core
from benchmarks.redis_server import RedisServer

LAYER = re.compile(r"/(resolver/\w+|asyncio|aiohttp|prometheus_client|structlog|redis)[/.]")
SYSTEM_CALLS = {
    "TcpTransport.write": "system: write to a client",
    "TcpTransport._read": "system: read from a client",
    "socket._real_close": "system: close a connection",
    "socket.accept": "system: accept a connection",
    "_SelectorSocketTransport.write": "system: write to Redis",
    "_SelectorSocketTransport._read_ready__data_received": "system: read from Redis",
    "EpollSelector.select": "system: wait for sockets",
}
"""Functions that do little else than a system call."""

SAMPLE_INTERVAL_SECONDS = 0.001
WARM_UP_SECONDS, PROFILE_SECONDS = 2, 6
CONNECTIONS = 64
IMAGES = 20_000
LEAST_SHARE = 0.005
"""Smaller shares are not shown."""

SERVER_CORE, LOAD_CORE = 0, 1


def layer_of(frame: FrameType) -> str:
    """The layer of a function: that of its file, else of the nearest caller that has one."""
    if (system_call := SYSTEM_CALLS.get(frame.f_code.co_qualname)) is not None:
        return system_call
    at: FrameType | None = frame
    while at is not None:
        if (match := LAYER.search(at.f_code.co_filename)) is not None:
            return match[1]
        at = at.f_back
    return "other"


def serve_with_sampler(file: str) -> None:
    """Runs `glance-resolver serve` and writes the samples to a file at its end. SIGUSR1 discards
    the samples so far."""
    from resolver.cli import main  # noqa: PLC0415

    samples: Counter[str] = Counter()

    def take_sample(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            samples[layer_of(frame)] += 1

    signal.signal(signal.SIGPROF, take_sample)
    signal.signal(signal.SIGUSR1, lambda *_: samples.clear())
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_INTERVAL_SECONDS, SAMPLE_INTERVAL_SECONDS)
    try:
        main(sys.argv[3:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(file).write_text(json.dumps(samples))


def profile(
    title: str, settings: dict[str, str], path: str = "/v2/images/", headers: str = ""
) -> None:
    """Profiles a gateway with these settings, for requests below a path with header fields as in a
    Lua table, and prints the result."""
    with tempfile.TemporaryDirectory() as name, RedisServer(LOAD_CORE) as redis:
        folder, ids = Path(name), sorted_ids(IMAGES)
        file = folder / "samples"
        module = ["benchmarks.profile_layers", "--serve", str(file)]
        with run_gateway(redis.url, SERVER_CORE, module=module, settings=settings) as (port, pid):
            asyncio.run(fill_index(redis, ids))
            script = write_wrk_script(folder, "ids", ids, IMAGES, path, headers)
            run_wrk(port, script, LOAD_CORE, CONNECTIONS, WARM_UP_SECONDS)
            os.kill(pid, signal.SIGUSR1)
            before = cpu_seconds(pid)
            rate = run_wrk(port, script, LOAD_CORE, CONNECTIONS, PROFILE_SECONDS)
            micros = (cpu_seconds(pid) - before) / (rate * PROFILE_SECONDS) * 1e6
        samples = Counter(json.loads(file.read_text()))
    rows = make_table(
        f"{title}: {rate:,.0f} requests/s (with the sampler), {micros:.1f} µs each",
        *("", "µs", "share"),
    )
    for layer, count in samples.most_common():
        share = count / samples.total()
        if share >= LEAST_SHARE:
            rows.add_row(layer, f"{share * micros:.1f}", f"{share:.1%}")
    out.print(rows)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve_with_sampler(sys.argv[2])
        return
    parse_arguments(__doc__)
    out.print(f"benchmarks.profile_layers: {describe_machine()}")
    pin_to_core(LOAD_CORE)
    profile("warm", {})
    profile("cold", {"CACHE_SIZE": "1000"})
    profile("warm, with log lines", LOGGING)
    profile("warm, with request ids of their own", {}, headers=REQUEST_ID)
    profile("warm, a new connection each", {}, headers=CLOSE)
    profile("GET /resolve/{id}, warm", {}, "/resolve/")


if __name__ == "__main__":
    main()
