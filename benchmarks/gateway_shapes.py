"""The shapes of requests that clients really send, each compared with nginx in the same run.

``python -m benchmarks.gateway shapes``
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp

from benchmarks.common import (
    Measurements,
    Step,
    make_table,
    out,
    print_verdict,
    rotated,
    sorted_ids,
    text_id,
)
from benchmarks.gateway_process import fill_index, run_gateway, run_wrk, write_wrk_script
from benchmarks.machine import NoiseGuard, on_core, stop_process
from benchmarks.nginx import run_nginx
from benchmarks.redis_server import RedisServer

SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
REQUESTED_IDS = 20_000
ABSENT_IDS = 2_000
"""Few, so that all of them were asked about within the time for which an absence is cached."""

CLOSE = '["Connection"] = "close"'
REQUEST_ID = '["X-Openstack-Request-Id"] = "req-" .. id'

STAND_IN = """
import asyncio
from resolver.standin import StandIn

async def main():
    async with StandIn() as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

MIXED_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for id in io.lines("%(file)s") do
    local path = #requests %% 10 == 9 and "/v2/schemas/" or "/v2/images/"
    requests[#requests + 1] = wrk.format("GET", path .. id)
  end
end
function request() at = at %% #requests + 1; return requests[at] end
"""
"""Nine reads of images, then a request that the application answers."""


class Shape(NamedTuple):
    name: str
    path: str
    headers: str
    at_least: float
    aim: float
    """Ratios to nginx + Lua + Redis."""
    settings: dict[str, str] = {}  # noqa: RUF012 - a default that nobody changes
    script: str = ""
    """For wrk, in place of the default script."""
    absent: bool = False


SHAPES = (
    Shape("redirect, kept connection, warm", "/v2/images/", "", 1.5, 2.0),
    Shape("redirect, kept connection, cold", "/v2/images/", "", 0.9, 1.1, {"CACHE_SIZE": "1000"}),
    Shape("redirect with a request id of its own", "/v2/images/", REQUEST_ID, 1.3, 1.8),
    Shape("redirect, a new connection each", "/v2/images/", CLOSE, 0.6, 1.0),
    Shape("GET /resolve/{id}, kept connection", "/resolve/", "", 1.2, 1.8),
    Shape("GET /resolve/{id}, a new connection each", "/resolve/", CLOSE, 0.5, 0.9),
    Shape("absent id, remembered", "/v2/images/", "", 1.0, 1.5, absent=True),
    Shape("90 % plain, 10 % others", "/v2/images/", "", 0.7, 1.0, script=MIXED_SCRIPT),
    Shape("redirect, kept, warm, each logged", "/v2/images/", "", 0.0, 0.0, {"ACCESS_LOG": "all"}),
)


@contextmanager
def run_stand_in() -> Iterator[str]:
    """An empty Glance server in a process of its own; gives its URL."""
    command = [*on_core(LOAD_CORE), sys.executable, "-c", STAND_IN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        stop_process(process)


async def ask_once(port: int, ids: Sequence[bytes], expected: int) -> None:
    """Requests each id once, so that the answers are cached."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        for image in ids:
            async with http.get(f"/v2/images/{text_id(image)}", allow_redirects=False) as response:
                if response.status != expected:
                    raise RuntimeError(f"{response.status} for {text_id(image)}")


def shapes(count: int, repeats: int, seconds: int, step: Step) -> None:
    rates = Measurements()
    noise = NoiseGuard()
    ids = sorted_ids(count)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(LOAD_CORE))
        with run_gateway(redis.url, SERVER_CORE):
            step(f"filling {count:,} images")
            asyncio.run(fill_index(redis, ids))
        nginx = stack.enter_context(run_nginx(redis, folder, SERVER_CORE)).port
        for number, shape in enumerate(SHAPES):
            with ExitStack() as shape_stack:
                settings = dict(shape.settings)
                some, port = ids, 0
                if shape.absent:
                    url = shape_stack.enter_context(run_stand_in())
                    other = shape_stack.enter_context(RedisServer(LOAD_CORE))
                    settings |= {"ABSENT_TTL": "3600", "CACHE_TTL": "3600", "PROBE_TIMEOUT": "5"}
                    some = sorted_ids(ABSENT_IDS, seed=9)
                    port, _ = shape_stack.enter_context(
                        run_gateway(
                            other.url, SERVER_CORE, location_url=url, settings=settings, role="all"
                        )
                    )
                    step("asking for absent images")
                    asyncio.run(ask_once(port, some, 404))
                else:
                    port, _ = shape_stack.enter_context(
                        run_gateway(redis.url, SERVER_CORE, settings=settings)
                    )
                script = write_wrk_script(
                    folder, f"shape{number}", some, REQUESTED_IDS, shape.path, shape.headers
                )
                if shape.script:
                    script.write_text(shape.script % {"file": script.with_suffix(".ids")})
                for repeat in range(repeats):
                    for server, at in rotated((("gateway", port), ("nginx", nginx)), repeat):
                        step(f"{shape.name}: {server}, repeat {repeat + 1}")
                        measure = partial(
                            run_wrk,
                            at,
                            script,
                            LOAD_CORE,
                            CONNECTIONS,
                            seconds,
                            errors_expected=shape.absent,
                        )
                        rates.add(f"{shape.name} {server}", noise.measure(measure))
    rows = make_table(
        f"Requests a second on one core, {CONNECTIONS} connections, {count:,} images",
        *("", "glance-resolver", "nginx + Lua + Redis", "ratio", "at least", "aim"),
    )
    for shape in SHAPES:
        ours, theirs = f"{shape.name} gateway", f"{shape.name} nginx"
        wanted = (f"{shape.at_least:g}", f"{shape.aim:g}") if shape.aim else ("shown", "")
        ratio = rates.format_ratio(ours, theirs)
        rows.add_row(shape.name, rates.format(ours), rates.format(theirs), ratio, *wanted)
    out.print(rows)
    for shape in SHAPES:
        if shape.aim:
            ratio = rates.ratio(f"{shape.name} gateway", f"{shape.name} nginx")
            print_verdict(
                f"{shape.name}: {ratio:.2f} times",
                f"{shape.at_least:g} times",
                met=ratio >= shape.at_least,
            )
