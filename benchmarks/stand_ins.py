"""Stand-in Glance servers in a process of their own."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from aiohttp import web

from benchmarks.machine import on_core, printing_process
from resolver.standin import StandIn
from tests.support.certificates import Files
from tests.support.ids import make_v7_ids

RANDOM = 4
"""The UUID version of random ids."""


@asynccontextmanager
async def serving_tls(server: StandIn, tls: ssl.SSLContext) -> AsyncIterator[str]:
    """Serves a stand-in over TLS, and gives its URL."""
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def serve(count: int, images: int, version: int, cert: str = "", key: str = "") -> None:
    """Prints the URL of each server, and serves until it is ended. ``cert``, ``key``: files; empty
    for plain HTTP."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if cert else None
    if tls is not None:
        tls.load_cert_chain(cert, key)
    async with AsyncExitStack() as stack:
        for seed in range(1, count + 1):
            server = StandIn()
            if version == RANDOM:
                server.fill(images, seed=seed)
            else:
                server.fill_with(make_v7_ids(images, seed=seed))
            if tls is None:
                await stack.enter_async_context(server)
                url = server.url
            else:
                url = await stack.enter_async_context(serving_tls(server, tls))
            print(url, flush=True)
        await asyncio.Event().wait()


@contextmanager
def run_stand_ins(
    count: int,
    images: int = 0,
    *,
    core: int,
    version: int = RANDOM,
    tls: Files | None = None,
) -> Iterator[list[str]]:
    """Runs so many servers, with so many images each, on one core; gives their URLs. ``version``:
    of the images' UUIDs, 4 or 7. ``tls``: their certificate, where they speak TLS."""
    module = [sys.executable, "-m", "benchmarks.stand_ins"]
    files = [str(tls.cert), str(tls.key)] if tls else []
    command = [*on_core(core), *module, str(count), str(images), str(version), *files]
    with printing_process(command, count) as urls:
        yield urls


if __name__ == "__main__":
    wanted, each, kind = map(int, sys.argv[1:4])
    asyncio.run(serve(wanted, each, kind, *sys.argv[4:6]))
