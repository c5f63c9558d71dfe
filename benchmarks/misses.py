"""What an id that no location has costs a gateway: its processor time for each location asked.

The locations are stand-in Glance servers in a process of their own.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks.common import Measurements, make_table, out, parse_arguments, print_verdict
from benchmarks.gateway_process import run_gateway_of
from benchmarks.machine import cpu_seconds, describe_machine
from benchmarks.redis_server import RedisServer
from benchmarks.stand_ins import run_stand_ins
from tests.support.certificates import Authority, Files

SERVER_CORE, GATEWAY_CORE = 0, 1
AIM_MS = 0.2
TOTAL, KERNEL, FIRST = "in all", "in the kernel", "the first, which opens the connections"


@contextmanager
def certificate() -> Iterator[Files]:
    """A certificate of this machine, by an authority that the gateway trusts."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        os.environ["SSL_CERT_FILE"] = str(authority.file)
        yield authority.issue()


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


def measure(urls: list[str], misses: int) -> dict[str, float]:
    """Milliseconds of the gateway's processor for each location of one miss."""
    locations = {f"location-{n}": {"url": url, "sees_all": True} for n, url in enumerate(urls)}
    settings = {"PROBE_TIMEOUT": "20", "CLIENT_RATE": "0"}
    with (
        RedisServer(SERVER_CORE) as redis,
        run_gateway_of(locations, redis.url, GATEWAY_CORE, settings) as (port, pid),
    ):
        before = cpu_seconds(pid)
        ask(port, 1)
        first = (cpu_seconds(pid) - before) / len(urls) * 1000
        ask(port, 4)
        before, kernel_before = cpu_seconds(pid), kernel_seconds(pid)
        ask(port, misses)
        asked = misses * len(urls)
        used, in_kernel = cpu_seconds(pid) - before, kernel_seconds(pid) - kernel_before
    return {TOTAL: used / asked * 1000, KERNEL: in_kernel / asked * 1000, FIRST: first}


def main() -> None:
    options = parse_arguments(
        __doc__,
        ("--locations", 200, "locations"),
        ("--misses", 50, "ids in each round"),
        ("--rounds", 3, "rounds"),
        flags=[("--tls", "the locations speak TLS")],
    )
    out.print(describe_machine())
    measured = Measurements()
    with (
        certificate() if options.tls else nullcontext() as tls,
        run_stand_ins(options.locations, core=SERVER_CORE, tls=tls) as urls,
    ):
        for _ in range(1 if options.small else options.rounds):
            for name, milliseconds in measure(urls, options.misses).items():
                measured.add(name, milliseconds)
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
