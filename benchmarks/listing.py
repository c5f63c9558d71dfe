"""The merged listing over 20 locations: its own time, its memory, and its speed to the end.

``python -m benchmarks.listing`` takes three minutes; ``--small`` one. Parts:

- ``latency``: pages of 25 from servers of which the slowest takes 100 ms, without copies and with
  some images at two locations, one after the other and the first one again and again. The time
  above those 100 ms is the gateway's, and the machine's: for comparison a client that asks the same
  servers at the same time, and merges nothing, takes turns.
- ``memory``: the gateway's peak while it answers pages of 1,000, above what it had before.
- ``walk``: a real Glance with all images, listed to the end directly, and the same number over 20
  real Glance servers through the gateway, in turns; and the processor time of each for a page.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

from benchmarks.common import (
    Measurements,
    batches,
    make_table,
    out,
    parse_arguments,
    percentile,
    print_verdict,
)
from benchmarks.gateway_process import run_gateway
from benchmarks.listing_locations import make_images
from benchmarks.machine import cpu_seconds, describe_machine, stop_process
from benchmarks.redis_server import RedisServer
from resolver.index import open_index
from resolver.models import parse_id
from tests.glance.install import install
from tests.support.glance import ADMIN_TOKEN, GlanceProcess
from tests.support.glance_images import insert_images, random_image

LOCATIONS = 20
SLOWEST_MS = 100
ROWS = 1000
"""Images of each location."""
SERVER_CORE = 0
LATENCY_AIM_MS = 20.0
MEMORY_AIM_MIB = 30.0
HEADERS = {"X-Auth-Token": ADMIN_TOKEN}
TIMEOUT_SECONDS = 120


class Client:
    """Sends GETs over one connection."""

    def __init__(self, netloc: str) -> None:
        self._connection = http.client.HTTPConnection(netloc, timeout=TIMEOUT_SECONDS)

    def get(self, target: str) -> bytes:
        self._connection.request("GET", target, headers=HEADERS)
        with self._connection.getresponse() as response:
            body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{target}: {response.status} {body[:300]!r}")
        return body

    def walk(self, limit: int) -> int:
        """Lists to the end; returns the number of rows."""
        count, target = 0, f"/v2/images?limit={limit}"
        while target:
            document = json.loads(self.get(target))
            count += len(document["images"])
            target = document.get("next", "")
        return count


@contextmanager
def prepared_locations(copies: int, slowest_ms: int) -> Iterator[list[str]]:
    """Their URLs."""
    amounts = [LOCATIONS, ROWS, copies, slowest_ms]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.listing_locations", *map(str, amounts)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield [process.stdout.readline().strip() for _ in range(LOCATIONS)]
    finally:
        stop_process(process)


async def claim(redis: RedisServer, images: Sequence[Sequence[str]]) -> None:
    """Claims the images of each location, as sweeps do."""
    async with open_index(redis.url) as index:
        records = (await index.records.load()).records
        for number, ids in enumerate(images):
            location = records[f"b{number}" if number else "a"].location
            for batch in batches(ids, 1000):
                await index.claims.claim(location.number, {parse_id(text): 0 for text in batch})


DIRECT = "asked directly, nothing merged"


async def ask_directly(session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
    """Reads the first page of each location at the same time."""

    async def read(url: str) -> bytes:
        async with session.get(f"{url}/v2/images?limit=25", headers=HEADERS) as response:
            return await response.read()

    await asyncio.gather(*map(read, urls))


def measure_latency(
    redis: RedisServer, copies: int, requests: int, *, follow: bool = True
) -> tuple[list[float], list[float]]:
    """The milliseconds that each page took above the slowest location's; and the same of a client
    that asks the locations itself. ``follow``: the next page each time, not the first again."""
    redis.flush()
    with (
        prepared_locations(copies, SLOWEST_MS) as urls,
        run_gateway(redis.url, None, location_urls=urls, locations=LOCATIONS) as (port, _),
    ):
        asyncio.run(claim(redis, [[*images] for images in make_images(LOCATIONS, ROWS, copies)]))
        client = Client(f"127.0.0.1:{port}")
        times: tuple[list[float], list[float]] = ([], [])

        async def measure() -> None:
            target = "/v2/images?limit=25"
            async with aiohttp.ClientSession() as session:
                for number in range(requests + 20):
                    started = time.perf_counter()
                    body = client.get(target)
                    between = time.perf_counter()
                    await ask_directly(session, urls)
                    ended = time.perf_counter()
                    if number >= 20:  # before, connections are opened
                        times[0].append(1000 * (between - started) - SLOWEST_MS)
                        times[1].append(1000 * (ended - between) - SLOWEST_MS)
                    if follow:
                        target = json.loads(body).get("next", "/v2/images?limit=25")

        asyncio.run(measure())
    return sorted(times[0]), sorted(times[1])


def latency(redis: RedisServer, small: bool) -> None:
    requests = 200 if small else 600
    table = make_table(
        f"Pages of 25 from {LOCATIONS} locations, of which the slowest takes {SLOWEST_MS} ms: "
        "milliseconds more",
        *("", "median", "p95", "p99", "most"),
    )
    p99s = []
    for name, copies, follow in (
        ("each image at one location", 0, True),
        ("one in ten at two", ROWS // 10, True),
        ("the same, the first page each time", ROWS // 10, False),
    ):
        merged, direct = measure_latency(redis, copies, requests, follow=follow)
        for title, times in ((name, merged), (DIRECT, direct)):
            points = [percentile(times, share) for share in (0.5, 0.95, 0.99, 1.0)]
            table.add_row(title, *(f"{point:.1f}" for point in points))
        p99s.append(percentile(merged, 0.99))
    out.print(table)
    met = max(p99s) <= LATENCY_AIM_MS
    print_verdict(f"p99 {max(p99s):.1f} ms more", f"{LATENCY_AIM_MS:.0f} ms", met=met)


def peak_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise ValueError(pid)


def memory(redis: RedisServer, small: bool) -> None:
    redis.flush()
    grown = []
    with (
        prepared_locations(0, 0) as urls,
        run_gateway(redis.url, None, location_urls=urls, locations=LOCATIONS) as (
            port,
            pid,
        ),
    ):
        client = Client(f"127.0.0.1:{port}")
        for _ in range(20):
            client.get("/v2/images?limit=1")  # connections are opened, modules imported
        reset = Path(f"/proc/{pid}/clear_refs")
        for _ in range(2 if small else 5):
            reset.write_text("5")
            before = peak_kib(pid)
            size = len(client.get("/v2/images?limit=1000"))
            grown.append((peak_kib(pid) - before) / 1024)
    met = max(grown) <= MEMORY_AIM_MIB
    text = ", ".join(f"{mib:.1f}" for mib in grown)
    out.print(f"pages of 1,000 ({size / 1e6:.1f} MB): the peak grew by {text} MiB, one by one")
    print_verdict(f"at most {max(grown):.1f} MiB", f"{MEMORY_AIM_MIB:.0f} MiB", met=met)


def walk(redis: RedisServer, small: bool) -> None:
    """Real servers: one with all images, and the same number over 20."""
    share = 200 if small else ROWS
    redis.flush()
    home = install()
    rng = random.Random(3)
    measured, cpu_times = Measurements(), (Measurements(), Measurements())
    fields = {"status": "active", "visibility": "public", "os_hidden": 0, "size": 5}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [
            stack.enter_context(GlanceProcess(home, directory / f"s{number}"))
            for number in range(LOCATIONS + 1)
        ]
        alone, parts = servers[0], servers[1:]
        images = [{**random_image(rng), **fields} for _ in range(LOCATIONS * share)]
        insert_images(alone.directory, images)
        for server, some in zip(parts, batches(images, share), strict=True):
            insert_images(server.directory, some)
        gateway = run_gateway(
            redis.url,
            None,
            location_urls=[server.url for server in parts],
            locations=LOCATIONS,
            settings={"LISTING_TIMEOUT": "60"},
        )
        port, pid = stack.enter_context(gateway)
        ids = [[str(image["id"]) for image in some] for some in batches(images, share)]
        asyncio.run(claim(redis, ids))
        contenders = {
            "one Glance alone": (alone.url.removeprefix("http://"), [[alone.pid], []]),
            "through the gateway": (f"127.0.0.1:{port}", [[p.pid for p in parts], [pid]]),
        }
        turns = 2 if small else 4
        for turn in range(turns + 1):
            for name, (address, pids) in contenders.items():
                client = Client(address)  # an older connection may have been idle for too long
                used = [sum(map(cpu_seconds, each)) for each in pids]
                started = time.perf_counter()
                count = client.walk(1000)
                if count != len(images):
                    raise RuntimeError(f"{name}: {count} rows of {len(images)}")
                if not turn:
                    continue  # the first requests of each Glance import what they need
                measured.add(name, count / (time.perf_counter() - started))
                for before, each, milliseconds in zip(used, pids, cpu_times, strict=True):
                    seconds = sum(map(cpu_seconds, each)) - before
                    milliseconds.add(name, 1000 * seconds / (count / 1000))
    table = make_table(
        f"{len(images):,} images listed to the end, limit=1000; median (least - most)",
        *("", "images/s", "to one alone", "ms a page: Glance", "gateway"),
    )
    for name in measured.names():
        ratio = measured.format_ratio(name, "one Glance alone")
        times = [each.format(name) for each in cpu_times]
        table.add_row(name, measured.format(name), ratio, *times)
    out.print(table)
    to_one = measured.ratio("through the gateway", "one Glance alone")
    print_verdict(f"{to_one:.2f} times one Glance alone", "1", met=to_one >= 1)


PARTS = {"latency": latency, "memory": memory, "walk": walk}


def main() -> None:
    options = parse_arguments(__doc__, parts=[*PARTS])
    out.print(f"benchmarks.listing: {describe_machine()}")
    with RedisServer(SERVER_CORE) as redis:
        for name in options.parts:
            PARTS[name](redis, options.small)


if __name__ == "__main__":
    main()
