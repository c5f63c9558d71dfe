"""The resolver's processes killed at random moments, under load: acknowledged claims are kept, no
answer is wrong, and other processes take the work over."""

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
from tests.faults.resolver_process import Process
from tests.gateway.conftest import TOKEN
from tests.support.ids import make_ids
from tests.support.indexing import SETTINGS, claims_by_number, is_partly_claimed
from tests.support.process import free_port
from tests.support.redis import EVERYTHING_ON_DISK, RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

PROCESS_TIMEOUT = 60.0
"""Seconds for a process to start and do its work on a busy machine."""
SLOW_PAGE_SECONDS = 0.01
KILLS = 3

ENVIRON = {
    "RESOLVER_ADMIN_TOKENS": f"ops={TOKEN}",
    "RESOLVER_ACCESS_LOG": "off",
    "RESOLVER_HEALTH_INTERVAL": "1",
}

rng = random.Random(7)


class Supervised:
    """A resolver at one port that can be started again."""

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
        """Repeats the start until the server runs: the port may still be in use."""

        async def has_started() -> bool:
            try:
                self.server = await self._stack.enter_async_context(
                    serve(*self._arguments, **self._environ)
                )
            except AssertionError:
                return False
            return True

        await wait_until(has_started, PROCESS_TIMEOUT)

    async def kill(self) -> None:
        self.server.process.kill()
        await self.server.process.wait()

    async def __aenter__(self) -> Supervised:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@pytest.fixture
async def disk(short_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis that keeps its data."""
    (short_path / "redis").mkdir()
    server = started(RedisServer(short_path / "redis", EVERYTHING_ON_DISK))
    yield server
    server.kill()


@asynccontextmanager
async def loaded(redis: RedisServer, *arguments: str, folder: Path) -> AsyncIterator[Loaded]:
    """Two locations, a resolver with them as startup locations, and clients."""
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(StandIn()) for name in ("one", "two")}
        locations = [f"--location={name}={server.url}" for name, server in servers.items()]
        resolver = await stack.enter_async_context(
            Supervised(redis.url, *locations, *arguments, folder=folder)
        )
        services = await stack.enter_async_context(open_services(Settings(redis_url=redis.url)))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{resolver.port}")
        )
        load = Load(Process(services, http), servers, gateway_may_be_down=True)
        yield Loaded(resolver, load, servers)


class Loaded:
    def __init__(self, resolver: Supervised, load: Load, servers: dict[str, StandIn]) -> None:
        self.resolver, self.load, self.servers = resolver, load, servers

    async def ready(self) -> None:
        load = self.load
        for name in self.servers:
            await load.process.services.registry.sweep(name)
        try:
            await wait_until(load.no_claim_is_lost, PROCESS_TIMEOUT)
        except AssertionError:
            print(self.resolver.server.output)
            raise
        await wait_until(load.has_recovered, PROCESS_TIMEOUT)
        await load.warm()

    async def survive(self, name: str, kill: Callable[[], Awaitable[object]]) -> None:
        load = self.load
        async with load.running():
            await kill()
            ended = time.monotonic()
            await wait_until(load.has_recovered, PROCESS_TIMEOUT, "the resolver has recovered")
            recovery_seconds = time.monotonic() - ended
        lost = await load.lost_claims()
        load.report(name, recovery_seconds, len(lost))
        assert not load.wrong_answers
        assert not lost, "acknowledged claims are kept"
        assert len(load.acknowledged) > 10


async def random_moment(load: Load) -> None:
    """Returns after a random number of requests."""
    await load.make_requests(rng.randint(20, 200))


async def test_nothing_is_lost_when_a_gateway_is_killed(
    disk: RedisServer, short_path: Path
) -> None:
    async with loaded(disk, folder=short_path) as world:
        await world.ready()

        async def kill() -> None:
            for _ in range(KILLS):
                await random_moment(world.load)
                await world.resolver.kill()
                await world.resolver.start()

        await world.survive(f"gateway and indexer killed, {KILLS} times", kill)


async def test_nothing_is_lost_when_workers_are_killed(disk: RedisServer, short_path: Path) -> None:
    async with loaded(disk, "--workers", "2", folder=short_path) as world:
        await world.ready()

        async def kill() -> None:
            for _ in range(6):
                await random_moment(world.load)
                server = world.resolver.server
                victim = rng.choice(sorted(workers(server)))
                os.kill(victim, signal.SIGKILL)

                def replaced(server: Server = server, gone: int = victim) -> bool:
                    return len(workers(server) - {gone}) == 2

                await wait_until(replaced, PROCESS_TIMEOUT)

        await world.survive("a worker of 2 killed, 6 times", kill)


async def test_nothing_is_lost_when_an_arbiter_is_killed(disk: RedisServer) -> None:
    with tempfile.TemporaryDirectory(prefix="glr-") as name:
        await kill_arbiters(disk, Path(name))


async def kill_arbiters(disk: RedisServer, folder: Path) -> None:
    async with loaded(disk, "--workers", "2", folder=folder) as world:
        await world.ready()

        async def kill() -> None:
            for _ in range(KILLS):
                await random_moment(world.load)
                pids = workers(world.resolver.server)
                await world.resolver.kill()
                await wait_until(lambda pids=pids: not alive(pids), PROCESS_TIMEOUT)
                await world.resolver.start()
                await wait_until(lambda: len(workers(world.resolver.server)) == 2, PROCESS_TIMEOUT)

        await world.survive(f"the arbiter of 2 workers killed, {KILLS} times", kill)
        left = os.listdir(folder)
        assert len(left) == 1, "the files of killed processes are removed"


@web.middleware
async def slow_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Makes a sweep take seconds."""
    await asyncio.sleep(SLOW_PAGE_SECONDS)
    return await handler(request)


@pytest.mark.parametrize("how", ["killed", pytest.param("SIGSTOP", marks=pytest.mark.long)])
async def test_nothing_is_lost_when_indexers_are_killed_during_sweeps(
    disk: RedisServer, how: str
) -> None:
    """Each indexer in turn is killed, or hangs until its lease has expired and then continues;
    meanwhile images are created and deleted."""
    async with AsyncExitStack() as stack:
        server = StandIn(middlewares=[slow_pages], page_cap=20)
        await stack.enter_async_context(server)
        server.fill(1500, seed=5)
        services = await stack.enter_async_context(
            open_services(Settings(redis_url=disk.url, **SETTINGS))
        )
        location, _ = await services.registry.put("one", {"url": server.url})

        async def claimed() -> set[str]:
            return {
                format_id(image_id, claim.letter_case)
                async for _, found in services.index.claims.of_location(location.number)
                for image_id, claim in found.items()
            }

        last = await stack.enter_async_context(indexer(disk.url))
        for _ in range(KILLS):
            await services.registry.sweep("one")
            before = server.requests["GET", "images"]
            await wait_until(
                lambda before=before: server.requests["GET", "images"] > before + 5, PROCESS_TIMEOUT
            )
            await asyncio.sleep(rng.uniform(0, 0.5))
            os.kill(last.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            for text in [*itertools.islice(server.ids(), 3)]:
                server.delete(text)
            for _ in range(5):
                server.add()
            following = await stack.enter_async_context(indexer(disk.url))
            if how == "SIGSTOP":
                await asyncio.sleep(LEASE * 1.5)  # long enough that another indexer has the lease
                os.kill(last.pid, signal.SIGCONT)
            last = following
        await services.registry.sweep("one")

        async def claims_are_listing() -> bool:
            return await claimed() == set(server.ids())

        await wait_until(claims_are_listing, PROCESS_TIMEOUT, "the claims are the listing")
        await services.registry.sweep("one")
        await wait_until(lambda: no_sweep_is_requested(services), PROCESS_TIMEOUT)
        assert await claims_are_listing(), "and stay so"


async def no_sweep_is_requested(services: Services) -> bool:
    return not await services.index.records.requested_sweeps()


async def test_an_import_can_be_repeated_after_its_gateway_was_killed(
    disk: RedisServer, short_path: Path
) -> None:
    """Importing the same file again completes the import."""
    ids = make_ids(120_000, seed=9)
    file = short_path / "index"
    async with loaded(disk, folder=short_path) as world:
        await world.ready()
        resolver, services = world.resolver, world.load.process.services
        table = await services.tables.current()
        number = table.by_name["one"].location.number
        await services.index.claims.claim(number, ids)
        options = ("--gateway", f"http://127.0.0.1:{resolver.port}", "--token", TOKEN)
        status, _, err = await run("index", "export", str(file), *options)
        assert status == 0, err
        all_claims = (await claims_by_number(services.index))[number]
        await services.index.claims.release(number, ids)
        before = (await claims_by_number(services.index)).get(number, 0)
        assert before < all_claims

        importing = asyncio.create_task(run("index", "import", str(file), *options))
        await wait_until(lambda: is_partly_claimed(services.index, number, ids), PROCESS_TIMEOUT)
        await resolver.kill()
        status, _, err = await importing
        assert status == 1
        assert err
        imported = (await claims_by_number(services.index))[number]
        assert before < imported < all_claims
        await resolver.start()
        status, _, err = await run("index", "import", str(file), *options)
        assert status == 0, err
        assert (await claims_by_number(services.index))[number] == all_claims
        print(
            f"killed after {imported - before} of {all_claims - before} claims: {err}",
            file=sys.stderr,
        )
