"""Where a request's microseconds go: the gateway's stack, looked at a thousand times a second.

``python -m benchmarks.where`` drives a gateway with wrk for some seconds and prints, by part of
the program, how much processor time each request took there. Time in C counts for the Python
function that called it.
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

from benchmarks.common import (
    RedisServer,
    arguments,
    machine,
    out,
    pin,
    processor,
    sorted_ids,
    table,
)
from benchmarks.serve import drive, fill, gateway, gets

PACKAGE = re.compile(r"/(resolver/\w+|asyncio|aiohttp|prometheus_client|structlog|redis)[/.]")
SYSTEM = {
    "_SelectorSocketTransport.write": "system: write to a socket",
    "_SelectorSocketTransport._read_ready__data_received": "system: read from a socket",
    "EpollSelector.select": "system: wait for sockets",
}
"""Functions that do little but a call of the system."""

INTERVAL = 0.001
SECONDS = 6
IMAGES = 20_000
LEAST = 0.005
"""Shares below this are not shown."""


def part(frame: FrameType) -> str:
    """The part of the program that a function belongs to: its package, or ours that called it."""
    if (system := SYSTEM.get(frame.f_code.co_qualname)) is not None:
        return system
    at: FrameType | None = frame
    while at is not None:
        if (found := PACKAGE.search(at.f_code.co_filename)) is not None:
            return found[1]
        at = at.f_back
    return "other"


def sampled(file: str) -> None:
    """Runs `glance-resolver serve` and writes what was seen at the end."""
    from resolver.cli import main  # noqa: PLC0415

    seen: Counter[str] = Counter()

    def note(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            seen[part(frame)] += 1

    signal.signal(signal.SIGPROF, note)
    signal.signal(signal.SIGUSR1, lambda *_: seen.clear())  # what was before is not asked for
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        main(sys.argv[3:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(file).write_text(json.dumps(seen))


def look(title: str, settings: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name, RedisServer(1) as redis:
        folder, ids = Path(name), sorted_ids(IMAGES)
        file = folder / "seen"
        module = ["benchmarks.where", "--sampled", str(file)]
        with gateway(redis.url, 0, module=module, settings=settings) as (port, pid):
            asyncio.run(fill(redis, ids))
            script = gets(folder, "ids", ids, IMAGES)
            drive(port, script, 1, 64, 2)
            os.kill(pid, signal.SIGUSR1)
            used = processor(pid)
            rate = drive(port, script, 1, 64, SECONDS)
            each = (processor(pid) - used) / (rate * SECONDS) * 1e6
        seen = Counter(json.loads(file.read_text()))
    made = table(
        f"{title}: {rate:,.0f} requests/s (while watched), {each:.1f} µs each", "", "µs", "share"
    )
    for what, count in seen.most_common():
        share = count / seen.total()
        if share >= LEAST:
            made.add_row(what, f"{share * each:.1f}", f"{share:.1%}")
    out.print(made)


def main() -> None:
    if sys.argv[1:2] == ["--sampled"]:
        sampled(sys.argv[2])
        return
    arguments(__doc__)
    out.print(f"benchmarks.where: {machine()}")
    pin(1)
    look("warm", {})
    look("cold", {"CACHE_SIZE": "1000"})
    look("warm, with log lines", {"ACCESS_LOG": "all", "LOG_LEVEL": "info"})


if __name__ == "__main__":
    main()
