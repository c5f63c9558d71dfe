"""Reports about all images of a large index: seconds, and the gateway's memory."""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.common import batches, make_table, out, parse_arguments, print_verdict, sorted_ids
from benchmarks.gateway_process import LOCATION_URL, run_gateway_of
from benchmarks.index_memory import IDS_PER_CLAIM, facts_of
from benchmarks.listing import peak_kib
from benchmarks.machine import describe_machine, resident_mib
from benchmarks.redis_server import RedisServer
from resolver.index import open_index

TOKEN = "benchmark-of-reports"
LOCATIONS = {
    "one": {"url": f"{LOCATION_URL}/one", "region": "RegionOne"},
    "two": {"url": f"{LOCATION_URL}/two", "region": "RegionTwo"},
}
AIM_SECONDS = 60
CONFLICT_EVERY, SHARED_EVERY = 1000, 10
"""Every tenth image is in both regions, and every thousandth has other bytes in the second."""

MISSING, CONFLICTS = "/report/missing?region=RegionTwo", "/report/conflicts"
OTHER_FACTS = facts_of([bytes(16)])[bytes(16)]
READ_BYTES = 1 << 17


async def fill(url: str, ids: Sequence[bytes]) -> None:
    async with open_index(url) as index:
        records = (await index.records.load()).records
        one, two = (records[name].location.number for name in ("one", "two"))
        for batch in batches(ids, IDS_PER_CLAIM):
            facts = facts_of(batch)
            shared = batch[::SHARED_EVERY]
            await index.claims.claim(one, batch, facts)
            await index.claims.claim(
                two, shared, {**facts, **dict.fromkeys(batch[::CONFLICT_EVERY], OTHER_FACTS)}
            )
            # The bytes of a first owner are kept from its next sweep on.
            await index.claims.claim(one, shared, facts)


def read(port: int, path: str) -> tuple[float, int, int]:
    """Seconds, lines and MiB of a report."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    begun, lines, size = time.monotonic(), 0, 0
    connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    while data := response.read(READ_BYTES):
        lines += data.count(b"\n")
        size += len(data)
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"it answered {response.status}")
    return time.monotonic() - begun, lines, size >> 20


def run_command(port: int) -> tuple[float, int]:
    """Seconds and lines of the command."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "resolver", "report", "missing", "--region", "RegionTwo"]
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "RESOLVER_URL": f"http://127.0.0.1:{port}",
            "RESOLVER_TOKEN": TOKEN,
        },
        capture_output=True,
        check=True,
    )
    return time.monotonic() - begun, done.stdout.count(b"\n")


def main() -> None:
    options = parse_arguments(__doc__, ("--images", 1_000_000, "images of the index"))
    images = 10_000 if options.small else options.images
    out.print(describe_machine())
    rows = make_table(
        f"Reports about {images:,} images, of which {1 - 1 / SHARED_EVERY:.0%} are missing",
        *("report", "s", "lines", "MiB", "gateway's MiB before", "at most"),
    )
    with (
        RedisServer() as redis,
        run_gateway_of(LOCATIONS, redis.url, None, {"ADMIN_TOKENS": TOKEN}) as (port, pid),
    ):
        asyncio.run(fill(redis.url, sorted_ids(images)))
        slowest = 0.0
        for path in (MISSING, CONFLICTS):
            before = resident_mib(pid)
            seconds, lines, size = read(port, path)
            peak = peak_kib(pid) / 1024
            rows.add_row(
                path, f"{seconds:.1f}", f"{lines:,}", f"{size}", f"{before:.0f}", f"{peak:.0f}"
            )
            slowest = max(slowest, seconds)
        seconds, lines = run_command(port)
        rows.add_row(
            "the command", f"{seconds:.1f}", f"{lines:,}", "", "", f"{peak_kib(pid) / 1024:.0f}"
        )
    out.print(rows)
    print_verdict(f"{slowest:.0f} s", f"{AIM_SECONDS} s", met=slowest <= AIM_SECONDS)


if __name__ == "__main__":
    main()
