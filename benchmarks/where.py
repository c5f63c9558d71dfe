"""Where a request's microseconds go: the gateway's stack, looked at a thousand times a second.

``python -m benchmarks.where`` drives a gateway with wrk for some seconds and prints, by part of
the program, how much processor time each request took there. Time in C counts for the Python
function that called it.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.common import RedisServer, arguments, machine, out, pin, sorted_ids, table
from benchmarks.serve import drive, fill, gateway, gets, processor

PACKAGE = re.compile(r"/(resolver/\w+|asyncio|aiohttp|prometheus_client|structlog|redis)[/.]")
SYSTEM = {
    "_SelectorSocketTransport.write": "system: write to a socket",
    "_SelectorSocketTransport._read_ready__data_received": "system: read from a socket",
    "EpollSelector.select": "system: wait for sockets",
}
"""Functions that do little but a call of the system."""

INTERVAL = 0.001
SECONDS = 6


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
    """Runs `glance-resolver serve` and writes what was seen at the end. Never returns."""
    from resolver.cli import main  # noqa: PLC0415

    seen: Counter[str] = Counter()

    def look(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            seen[part(frame)] += 1

    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        main(sys.argv[3:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(file).write_text(json.dumps(seen))


def main() -> None:
    if sys.argv[1:2] == ["--sampled"]:
        sampled(sys.argv[2])
    options = arguments(__doc__, ("--images", 20_000, "images"))
    out.print(f"benchmarks.where: {machine()}")
    pin(1)
    with tempfile.TemporaryDirectory() as name, RedisServer(1) as redis:
        folder = Path(name)
        ids = sorted_ids(options.images)
        file = folder / "seen"
        with gateway(redis.url, 0, module=["benchmarks.where", "--sampled", str(file)]) as (
            port,
            pid,
        ):
            asyncio.run(fill(redis, ids))
            used = processor(pid)
            rate = drive(port, gets(folder, "ids", ids, 20_000), 1, 64, SECONDS)
            each = (processor(pid) - used) / (rate * SECONDS) * 1e6
        seen = Counter(json.loads(file.read_text()))
    made = table(f"{rate:,.0f} requests/s (while watched), {each:.1f} µs each", "", "µs", "share")
    for what, count in seen.most_common():
        share = count / seen.total()
        made.add_row(what, f"{share * each:.1f}", f"{share:.1%}")
    out.print(made)


if __name__ == "__main__":
    main()
