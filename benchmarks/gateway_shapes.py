"""The shapes of requests that clients really send, each compared with nginx in the same run.

``python -m benchmarks.gateway shapes``
"""

from __future__ import annotations

import asyncio
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
from benchmarks.machine import NoiseGuard
from benchmarks.nginx import Nginx, run_nginx
from benchmarks.redis_server import RedisServer
from benchmarks.stand_ins import run_stand_ins

SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
REQUESTED_IDS = 20_000
ABSENT_IDS = 2_000
"""Few, so that all of them were asked about within the time for which an absence is cached."""

FORGETFUL = {
    **{"ABSENT_TTL": "0", "CLIENT_RATE": "0"},
    **{"PROBES_AT_ONCE": "10000", "PROBES_PER_LOCATION": "1000"},
}
"""Settings with which each absent id is asked about each time."""

LOGGING = {"ACCESS_LOG": "all", "LOG_LEVEL": "info"}

CLOSE = '["Connection"] = "close"'
REQUEST_ID = '["X-Openstack-Request-Id"] = "req-" .. id'

MIXED_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for id in io.lines("%(file)s") do
    local plain = wrk.format("GET", "/v2/images/" .. id)
    requests[#requests + 1] = #requests %% 10 == 9 and OTHER or plain
  end
end
function request() at = at %% #requests + 1; return requests[at] end
"""
"""Nine reads of images, then another request."""

SCHEMAS_MIXED_IN = MIXED_SCRIPT.replace("OTHER", 'wrk.format("GET", "/v2/schemas/" .. id)')
"""What every Glance client asks for; it has no short way through the front."""

AIOHTTP_MIXED_IN = MIXED_SCRIPT.replace("OTHER", 'wrk.format("GET", "/v2/images/" .. id, {}, "x")')
"""Reads with a body, which the aiohttp application answers."""


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
    absent_at: int = 0
    """Of how many locations the images are absent; 0 for images that have an owner."""
    is_remembered: bool = False
    """Whether the locations were asked before."""
    nginx_path: str = ""
    """Where nginx does the same, if it is another path."""
    tls: bool = False


SHAPES = (
    Shape("redirect, kept connection, warm", "/v2/images/", "", 1.5, 2.0),
    Shape("redirect, kept connection, cold", "/v2/images/", "", 0.9, 1.1, {"CACHE_SIZE": "1000"}),
    Shape("redirect with a request id of its own", "/v2/images/", REQUEST_ID, 1.3, 1.8),
    Shape("redirect, a new connection each", "/v2/images/", CLOSE, 0.6, 1.0),
    Shape("GET /resolve/{id}, kept connection", "/resolve/", "", 1.2, 1.8),
    Shape("GET /resolve/{id}, a new connection each", "/resolve/", CLOSE, 0.5, 0.9),
    Shape("absent id, remembered", "/v2/images/", "", 1.0, 1.5, absent_at=1, is_remembered=True),
    Shape(
        "absent id, 10 locations asked (nginx: 1)",
        *("/v2/images/", "", 0.0, 0.0, FORGETFUL),
        absent_at=10,
        nginx_path="/asked/v2/images/",
    ),
    Shape("90 % plain, 10 % schemas", "/v2/images/", "", 0.7, 1.0, script=SCHEMAS_MIXED_IN),
    Shape("90 % plain, 10 % by aiohttp", "/v2/images/", "", 0.0, 0.0, script=AIOHTTP_MIXED_IN),
    Shape("redirect, kept, warm, each logged", "/v2/images/", "", 0.0, 0.0, LOGGING),
    Shape("redirect, TLS, kept connection, warm", "/v2/images/", "", 0.0, 0.0, tls=True),
    Shape("redirect, TLS, a new connection each", "/v2/images/", CLOSE, 0.0, 0.0, tls=True),
)


async def ask_once(port: int, ids: Sequence[bytes], expected: int) -> None:
    """Requests each id once, so that the answers are cached."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        for image in ids:
            async with http.get(f"/v2/images/{text_id(image)}", allow_redirects=False) as response:
                if response.status != expected:
                    raise RuntimeError(f"{response.status} for {text_id(image)}")


class Bench(NamedTuple):
    """What all shapes are measured with."""

    folder: Path
    redis: RedisServer
    """With the images that have an owner."""
    nginx: Nginx
    empty_redis: RedisServer
    stand_ins: list[str]
    """URLs of Glance servers without images."""


@contextmanager
def run_gateway_for(bench: Bench, shape: Shape, ids: Sequence[bytes], step: Step) -> Iterator[int]:
    """A gateway that can answer the shape's requests for these ids; gives its port."""
    settings = dict(shape.settings)
    if shape.tls:
        file = str(bench.folder / "tls.pem")
        settings |= {"TLS_CERT": file, "TLS_KEY": file}
    if not shape.absent_at:
        with run_gateway(bench.redis.url, SERVER_CORE, settings=settings) as (port, _):
            yield port
        return
    settings |= {"CACHE_TTL": "3600", "PROBE_TIMEOUT": "5"}
    settings = {"ABSENT_TTL": "3600", **settings, "PREFIX": f"absent{shape.absent_at}:"}
    with run_gateway(
        bench.empty_redis.url,
        SERVER_CORE,
        location_urls=bench.stand_ins[: shape.absent_at],
        settings=settings,
        role="all",
    ) as (port, _):
        step("asking for absent images")
        asyncio.run(ask_once(port, ids if shape.is_remembered else ids[:1], 404))
        yield port


def shapes(count: int, repeats: int, seconds: int, step: Step) -> None:
    rates = Measurements()
    noise = NoiseGuard()
    ids, absent_ids = sorted_ids(count), sorted_ids(ABSENT_IDS, seed=9)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(LOAD_CORE))
        with run_gateway(redis.url, SERVER_CORE):
            step(f"filling {count:,} images")
            asyncio.run(fill_index(redis, ids))
        most = max(shape.absent_at for shape in SHAPES)
        stand_ins = stack.enter_context(run_stand_ins(most, core=LOAD_CORE))
        glance_port = int(stand_ins[0].rpartition(":")[2])
        nginx = stack.enter_context(run_nginx(redis, folder, SERVER_CORE, glance_port=glance_port))
        empty_redis = stack.enter_context(RedisServer(LOAD_CORE))
        bench = Bench(folder, redis, nginx, empty_redis, stand_ins)
        for shape in SHAPES:
            some = absent_ids if shape.absent_at else ids
            with run_gateway_for(bench, shape, some, step) as port:
                contenders = (
                    ("gateway", port, shape.path),
                    ("nginx", nginx.tls_port if shape.tls else nginx.port, shape.nginx_path),
                )
                for repeat in range(repeats):
                    for server, at, path in rotated(contenders, repeat):
                        step(f"{shape.name}: {server}, repeat {repeat + 1}")
                        script = write_wrk_script(
                            folder, "shape", some, REQUESTED_IDS, path or shape.path, shape.headers
                        )
                        if shape.script:
                            script.write_text(shape.script % {"file": script.with_suffix(".ids")})
                        measure = partial(
                            run_wrk,
                            at,
                            script,
                            LOAD_CORE,
                            CONNECTIONS,
                            seconds,
                            errors_expected=bool(shape.absent_at),
                            scheme="https" if shape.tls else "http",
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
            times = rates.ratio(f"{shape.name} gateway", f"{shape.name} nginx")
            print_verdict(
                f"{shape.name}: {times:.2f} times",
                f"{shape.at_least:g} times",
                met=times >= shape.at_least,
            )
