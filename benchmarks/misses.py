"""What an id that no location has costs a gateway: its processor time for each location asked.

The locations are stand-in Glance servers in a process of their own.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import Measurements, make_table, out, parse_arguments, print_verdict
from benchmarks.gateway_process import run_gateway
from benchmarks.machine import cpu_seconds, describe_machine
from benchmarks.redis_server import RedisServer
from benchmarks.stand_ins import run_stand_ins

SERVER_CORE, GATEWAY_CORE = 0, 1
AIM_MS = 0.2
TOTAL, KERNEL = "in all", "in the kernel"


@contextmanager
def locations_file(urls: list[str]) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("locations:\n")
        for number, url in enumerate(urls):
            file.write(f"  location-{number}: {{url: {url}, sees_all: true}}\n")
        file.flush()
        yield file.name


def ask(port: int, count: int) -> None:
    """Asks for so many ids that nobody has, one after another."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        connection.request("GET", f"/resolve/{uuid.uuid4()}")
        response = connection.getresponse()
        body = response.read()
        if response.status != 404:
            raise RuntimeError(f"it answered {response.status}: {body[-1000:]!r}")
    connection.close()


def kernel_seconds(pid: int) -> float:
    """Processor time that a process has used in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[12]) / os.sysconf("SC_CLK_TCK")


def measure(urls: list[str], misses: int) -> tuple[float, float]:
    """Milliseconds of the gateway's processor for each location of one miss: in all, and of those
    in the kernel."""
    with (
        RedisServer(SERVER_CORE) as redis,
        locations_file(urls) as file,
        run_gateway(
            redis.url,
            GATEWAY_CORE,
            location_urls=[],
            locations=0,
            options=["--locations", file],
            settings={"PROBE_TIMEOUT": "20"},
        ) as (port, pid),
    ):
        ask(port, 5)  # opens the connections
        before, kernel_before = cpu_seconds(pid), kernel_seconds(pid)
        ask(port, misses)
        asked = misses * len(urls)
        used, in_kernel = cpu_seconds(pid) - before, kernel_seconds(pid) - kernel_before
    return used / asked * 1000, in_kernel / asked * 1000


def main() -> None:
    options = parse_arguments(
        __doc__,
        ("--locations", 200, "locations"),
        ("--misses", 50, "ids in each round"),
        ("--rounds", 3, "rounds"),
    )
    out.print(describe_machine())
    measured = Measurements()
    with run_stand_ins(options.locations, core=SERVER_CORE) as urls:
        for _ in range(1 if options.small else options.rounds):
            total, in_kernel = measure(urls, options.misses)
            measured.add(TOTAL, total)
            measured.add(KERNEL, in_kernel)
    rows = make_table(
        f"A miss with {options.locations} locations: the gateway's processor for each location",
        *("processor time", "ms"),
    )
    for name in measured.names():
        rows.add_row(name, measured.format(name, ".3f"))
    out.print(rows)
    median = measured.median(TOTAL)
    print_verdict(f"{median:.2f} ms a location", f"{AIM_MS} ms", met=median <= AIM_MS)


if __name__ == "__main__":
    main()
