"""Redirects with each ``RESOLVER_READ_AUTH``, of clients whose token is remembered.

``python -m benchmarks.gateway callers``

Each gateway is asked in turn, on one core, on kept connections, by clients that send a token. Its
Keystone and its Glance are stand-ins: they are asked once for the token, and with ``caller`` once a
minute for each image. The processor time of a redirect says more than the rate where other
processes use the machine.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

from benchmarks.common import Measurements, Step, make_table, out, print_verdict, rotated, text_id
from benchmarks.gateway_process import fill_index, run_gateway, run_wrk, write_wrk_script
from benchmarks.machine import NoiseGuard, cpu_seconds, on_core, stop_process
from benchmarks.redis_server import RedisServer
from resolver.standin import StandIn

SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
IMAGES = 1_000
"""Few, so that all of them are asked about again within a moment when a minute is over."""

REQUESTED_IDS = 20_000
MODES = ("none", "token", "caller")
LEAST_SHARES = {("token", "none"): 0.85, ("caller", "token"): 0.85}
"""Of the redirects in a second of processor time with another mode."""

STAND_INS = """
import asyncio, sys
from aiohttp import web
from resolver.standin import StandIn

async def accept(_):
    return web.json_response({"token": {"expires_at": "2126-01-01T00:00:00.000000Z"}})

async def main():
    keystone = web.Application()
    keystone.router.add_get("/v3/auth/tokens", accept)
    runner = web.AppRunner(keystone, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with StandIn() as glance:
        glance.fill(int(sys.argv[1]), seed=1)
        print(glance.url, f"http://127.0.0.1:{runner.addresses[0][1]}/v3", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def run_stand_ins() -> Iterator[tuple[str, str]]:
    """A Glance with the images, and a Keystone that accepts every token; gives their URLs."""
    command = [*on_core(LOAD_CORE), sys.executable, "-c", STAND_INS, str(IMAGES)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        glance, keystone = process.stdout.readline().split()
        yield glance, keystone
    finally:
        stop_process(process)


async def ask_each(port: int, ids: list[bytes]) -> None:
    """Requests each image once, so that it is remembered."""
    headers = {"X-Auth-Token": "token"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as http:
        for image in ids:
            path = f"/v2/images/{text_id(image)}"
            async with http.get(path, allow_redirects=False) as response:
                if response.status != 307:
                    raise RuntimeError(f"{response.status} for {path}")


def callers(repeats: int, seconds: int, step: Step) -> None:
    rates, per_cpu_second, noise = Measurements(), Measurements(), NoiseGuard()
    images = StandIn()
    images.fill(IMAGES, seed=1)
    ids = [bytes.fromhex(text.replace("-", "")) for text in images.ids()]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(LOAD_CORE))
        glance, keystone = stack.enter_context(run_stand_ins())
        ports, pids = {}, {}
        for mode in MODES:
            settings = {"READ_AUTH": mode, "DOMAINS": keystone}
            gateway = run_gateway(redis.url, SERVER_CORE, location_urls=[glance], settings=settings)
            ports[mode], pids[mode] = stack.enter_context(gateway)
        step(f"filling {IMAGES:,} images")
        asyncio.run(fill_index(redis, ids, strings=False))
        token = '["X-Auth-Token"] = "token"'
        script = write_wrk_script(folder, "callers", ids, REQUESTED_IDS, headers=token)

        def measure(mode: str) -> tuple[float, float]:
            """Redirects in a second, and in a second of the gateway's processor time."""
            before = cpu_seconds(pids[mode])
            rate = run_wrk(ports[mode], script, LOAD_CORE, CONNECTIONS, seconds)
            return rate, rate * seconds / (cpu_seconds(pids[mode]) - before)

        for repeat in range(repeats):
            for mode in rotated(MODES, repeat):
                step(f"RESOLVER_READ_AUTH={mode}, repeat {repeat + 1}")
                asyncio.run(ask_each(ports[mode], ids))
                rate, efficiency = noise.measure(lambda mode=mode: measure(mode))  # type: ignore[misc]
                rates.add(mode, rate)
                per_cpu_second.add(mode, efficiency)
    rows = make_table(
        f"Redirects on one core, {CONNECTIONS} connections, the token remembered",
        *("RESOLVER_READ_AUTH", "a second", "to none", "a second of processor time", "to none"),
    )
    for mode in MODES:
        columns = [
            [each.format(mode), each.format_ratio(mode, "none")] for each in (rates, per_cpu_second)
        ]
        rows.add_row(mode, *columns[0], *columns[1])
    out.print(rows)
    for (mode, other), least in LEAST_SHARES.items():
        ratio = per_cpu_second.ratio(mode, other)
        text = f"{mode}: {ratio:.2f} of {other}, in processor time"
        print_verdict(text, f"{least:g} of it", met=ratio >= least)
