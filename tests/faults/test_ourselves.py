"""Our own processes killed at random moments, under load: what was acknowledged is there, no answer
is wrong, and others do the work."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import format_id
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from tests.cli.test_serve import Server, run, serve
from tests.cli.test_workers import alive, workers
from tests.conftest import started
from tests.distributed.indexer import LEASE
from tests.distributed.test_takeover import process as indexer
from tests.faults.load import Load
from tests.faults.process import Process
from tests.gateway.conftest import TOKEN
from tests.support.ids import make_ids
from tests.support.indexing import SETTINGS, claims_by_number
from tests.support.redis import RedisServer, free_port
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

WITHIN = 40.0
"""Seconds for a process to start and do its work on a busy machine."""

ENVIRON = {
    "RESOLVER_ADMIN_TOKENS": f"ops={TOKEN}",
    "RESOLVER_ACCESS_LOG": "off",
    "RESOLVER_HEALTH_INTERVAL": "1",
}

rng = random.Random(7)


class Running:
    """A resolver at one port, that a supervisor starts again when it has ended."""

    def __init__(self, redis_url: str, *arguments: str, folder: Path) -> None:
        self.port = free_port()
        self._arguments = ("--port", str(self.port), *arguments)
        self._environ = {**ENVIRON, "RESOLVER_REDIS_URL": redis_url, "TMPDIR": str(folder)}
        self._stack = AsyncExitStack()
        self.server: Server

    @property
    def pid(self) -> int:
        return self.server.process.pid

    async def start(self) -> None:
        """Tries until it runs: the port may still be somebody's."""

        async def runs() -> bool:
            try:
                self.server = await self._stack.enter_async_context(
                    serve(*self._arguments, **self._environ)
                )
            except AssertionError:
                return False
            return True

        await wait_until(runs, WITHIN)

    async def kill(self) -> None:
        self.server.process.kill()
        await self.server.process.wait()

    async def __aenter__(self) -> Running:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@pytest.fixture
async def disk(short_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis that keeps its data."""
    (short_path / "redis").mkdir()
    server = started(RedisServer(short_path / "redis"))
    yield server
    server.kill()


@asynccontextmanager
async def loaded(redis: RedisServer, *arguments: str, folder: Path) -> AsyncIterator[Loaded]:
    """Two locations, a resolver that was given them, and clients."""
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(StandIn()) for name in ("one", "two")}
        given = [f"--location={name}={server.url}" for name, server in servers.items()]
        running = await stack.enter_async_context(
            Running(redis.url, *given, *arguments, folder=folder)
        )
        services = await stack.enter_async_context(open_services(Settings(redis_url=redis.url)))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{running.port}")
        )
        load = Load(Process(services, http), servers, may_go=True)
        yield Loaded(running, load, servers)


class Loaded:
    def __init__(self, running: Running, load: Load, servers: dict[str, StandIn]) -> None:
        self.running, self.load, self.servers = running, load, servers

    async def ready(self) -> None:
        load = self.load
        await load.process.services.registry.sweep("one")
        await load.process.services.registry.sweep("two")

        async def swept() -> bool:
            return not await load.lost()

        try:
            await wait_until(swept, WITHIN)
        except AssertionError:
            print(self.running.server.output)
            raise
        await wait_until(load.right, WITHIN)
        await load.warm()

    async def seen(self, name: str, happens: Callable[[], Awaitable[object]]) -> None:
        load = self.load
        async with load.running():
            await asyncio.sleep(0.3)
            await happens()
            ended = time.monotonic()
            await wait_until(load.right, WITHIN, "all is right again")
            healed = time.monotonic() - ended
            await asyncio.sleep(0.3)
        lost = await load.lost()
        load.note(name, healed, len(lost))
        assert not load.wrong
        assert not lost, "nothing that was acknowledged is lost"
        assert len(load.told) > 10


async def a_moment() -> None:
    await asyncio.sleep(rng.uniform(0.1, 1.2))


async def test_a_gateway_that_is_killed(disk: RedisServer, short_path: Path) -> None:
    async with loaded(disk, folder=short_path) as world:
        await world.ready()

        async def happens() -> None:
            for _ in range(4):
                await a_moment()
                await world.running.kill()
                await world.running.start()

        await world.seen("gateway and indexer killed, 4 times", happens)


async def test_workers_that_are_killed(disk: RedisServer, short_path: Path) -> None:
    async with loaded(disk, "--workers", "2", folder=short_path) as world:
        await world.ready()

        async def happens() -> None:
            for _ in range(6):
                await a_moment()
                server = world.running.server
                victim = rng.choice(sorted(workers(server)))
                os.kill(victim, signal.SIGKILL)

                def replaced(server: Server = server, gone: int = victim) -> bool:
                    return len(workers(server) - {gone}) == 2

                await wait_until(replaced, WITHIN)

        await world.seen("a worker of 2 killed, 6 times", happens)


async def test_an_arbiter_that_is_killed(disk: RedisServer) -> None:
    with tempfile.TemporaryDirectory(prefix="glr-") as name:
        await arbiters(disk, Path(name))


async def arbiters(disk: RedisServer, folder: Path) -> None:
    async with loaded(disk, "--workers", "2", folder=folder) as world:
        await world.ready()

        async def happens() -> None:
            for _ in range(3):
                await a_moment()
                pids = workers(world.running.server)
                await world.running.kill()
                await wait_until(lambda pids=pids: not alive(pids), WITHIN)
                await world.running.start()
                await wait_until(lambda: len(workers(world.running.server)) == 2, WITHIN)

        await world.seen("the arbiter of 2 workers killed, 3 times", happens)
        left = os.listdir(folder)
        assert len(left) == 1, "what the killed ones left is gone"


@web.middleware
async def unhurried(request: web.Request, handler: Handler) -> web.StreamResponse:
    """So that a sweep takes seconds."""
    await asyncio.sleep(0.01)
    return await handler(request)


@pytest.mark.parametrize("how", ["killed", pytest.param("SIGSTOP", marks=pytest.mark.long)])
async def test_indexers_that_are_lost_within_sweeps(disk: RedisServer, how: str) -> None:
    """One after the other is killed, or hangs past its lease and goes on when another leads;
    meanwhile images come and go."""
    async with AsyncExitStack() as stack:
        server = StandIn(middlewares=[unhurried], page_cap=20)
        await stack.enter_async_context(server)
        server.fill(1500, seed=5)
        services = await stack.enter_async_context(
            open_services(Settings(redis_url=disk.url, **SETTINGS))
        )
        location, _ = await services.registry.put("one", {"url": server.url})

        async def claimed() -> set[str]:
            return {
                format_id(image_id, letter_case)
                async for _, found in services.index.claims.of_location(location.number)
                for image_id, letter_case in found.items()
            }

        last = await stack.enter_async_context(indexer(disk.url))
        for _ in range(4):
            await services.registry.sweep("one")
            before = server.requests["GET", "images"]
            await wait_until(
                lambda before=before: server.requests["GET", "images"] > before + 5, WITHIN
            )
            await asyncio.sleep(rng.uniform(0, 0.5))
            os.kill(last.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            for text in [*itertools.islice(server.ids(), 3)]:
                server.delete(text)
            for _ in range(5):
                server.add()
            following = await stack.enter_async_context(indexer(disk.url))
            if how == "SIGSTOP":
                await asyncio.sleep(LEASE * 1.5)  # another has it by now
                os.kill(last.pid, signal.SIGCONT)
            last = following
        await services.registry.sweep("one")

        async def equal() -> bool:
            return await claimed() == set(server.ids())

        await wait_until(equal, WITHIN, "the claims are the listing")
        await services.registry.sweep("one")
        await wait_until(lambda: wanted(services), WITHIN)
        assert await equal(), "and stay so"


async def wanted(services: Services) -> bool:
    """Whether no sweep is asked for any more."""
    return not await services.index.records.requested_sweeps()


async def test_a_gateway_that_is_killed_within_an_import(
    disk: RedisServer, short_path: Path
) -> None:
    """The same file imported again ends it."""
    ids = make_ids(120_000, seed=9)
    file = short_path / "index"
    async with loaded(disk, folder=short_path) as world:
        await world.ready()
        running, services = world.running, world.load.process.services
        table = await services.tables.current()
        number = table.by_name["one"].location.number
        await services.index.claims.claim(number, ids)
        where = ("--url", f"http://127.0.0.1:{running.port}", "--token", TOKEN)
        status, _, err = await run("index", "export", str(file), *where)
        assert status == 0, err
        whole = (await claims_by_number(services.index))[number]
        await services.index.claims.release(number, ids)
        before = (await claims_by_number(services.index)).get(number, 0)
        assert before < whole

        importing = asyncio.create_task(run("index", "import", str(file), *where))
        with disk.client() as client:
            await wait_until(lambda: client.dbsize() > 5000, WITHIN)  # buckets
        await running.kill()
        status, _, err = await importing
        assert status == 1
        assert err
        some = (await claims_by_number(services.index))[number]
        assert before < some < whole
        await running.start()
        status, _, err = await run("index", "import", str(file), *where)
        assert status == 0, err
        assert (await claims_by_number(services.index))[number] == whole
        print(f"killed after {some - before} of {whole - before} claims: {err}", file=sys.stderr)
