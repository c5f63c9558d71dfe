"""Indexers in processes of their own: one process at a time sweeps a location, and another takes
over when it is killed or hangs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.index import Record
from resolver.models import Location
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from tests.distributed.indexer import LEASE
from tests.support.faults import Switch, is_page
from tests.support.indexing import SETTINGS, claims_by_number, swept
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

pytestmark = pytest.mark.redis
ROOT = Path(__file__).parents[2]
WITHIN = 60.0
"""Seconds for a process to start and do its work on a busy machine."""


class Watch:
    """A fault that counts the pages asked for at the same time, and may hold answers back."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.held: list[web.Request] = []
        self.hold: Callable[[web.Request], bool] = lambda _: False
        self.open = asyncio.Event()

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_page(request):
            return await self._held(request, handler)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self._held(request, handler)
        finally:
            self.now -= 1

    async def _held(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if self.hold(request):
            self.held.append(request)
            await self.open.wait()
        return response


@asynccontextmanager
async def process(url: str, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """An indexer that has begun its work."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.distributed.indexer", url, json.dumps(settings)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert running.stdout is not None
        async with asyncio.timeout(WITHIN):
            while (line := await running.stdout.readline()) != b"ready\n":
                assert line, "the indexer ended"
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()  # else its pipe stays open


@asynccontextmanager
async def gateway(url: str) -> AsyncIterator[Services]:
    """Services that do no background work."""
    async with open_services(Settings(redis_url=url, **SETTINGS)) as services:
        yield services


async def done(services: Services, name: str, *, since: float | None = None) -> None:
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                await swept(services, name, since=since)
            except AssertionError:
                continue
            return


# A lease in a cluster is the same as in a Redis (tests/contract/test_leases.py).
@pytest.fixture(params=["redis", pytest.param("cluster", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


async def test_two_processes_share_the_locations(url: str, start_server: StartServer) -> None:
    watches: dict[str, Watch] = {}
    async with gateway(url) as services, process(url), process(url):
        servers: dict[str, StandIn] = {}
        for n in range(6):
            switch = Switch()
            switch.fault = watches[f"l{n}"] = Watch()
            servers[f"l{n}"] = await start_server(middlewares=[switch.middleware], page_cap=20)
            servers[f"l{n}"].fill(100, seed=n)
        expected = {}
        for name, server in servers.items():
            location, _ = await services.registry.put(name, {"url": server.url})
            expected[location.number] = 100
        for name in servers:
            await done(services, name)
        once = {name: server.requests["GET", "images"] for name, server in servers.items()}
        assert await claims_by_number(services.index) == expected
        assert len(set(once.values())) == 1, "none was swept twice"
        for _ in range(3):  # requested repeatedly, while they run
            since = {n: (await record(services, n)).status.sweep.ended for n in servers}
            for name in servers:
                await services.registry.sweep(name)
            for name in servers:
                await done(services, name, since=since[name])
        for name, watch in watches.items():
            # Two passes over the listing, each with one page requested ahead.
            assert watch.most <= 2, name
        assert await claims_by_number(services.index) == expected


async def record(services: Services, name: str) -> Record:
    return (await services.index.records.load()).records[name]


async def is_held(services: Services, name: str) -> bool:
    """Whether a process holds a lease. On a busy machine it may be renewed too late."""
    lease = services.index.lease(name, seconds=60)
    if await lease.acquire():
        await lease.release()
        return False
    return True


def on_later_pages(request: web.Request) -> bool:
    return is_page(request) and "marker" in request.query


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_the_sweep_of_a_lost_process_is_taken_over(
    url: str, start_server: StartServer, how: str
) -> None:
    switch = Switch()
    switch.fault = watch = Watch()
    server = await start_server(middlewares=[switch.middleware], page_cap=20)
    server.fill(200, seed=1)
    async with gateway(url) as services:
        watch.hold = on_later_pages
        async with process(url) as first:
            location, _ = await services.registry.put("one", {"url": server.url})
            await wait_until(lambda: watch.held, timeout=WITHIN, message="the sweep is half way")
            async with process(url) as second:
                await wait_until(
                    lambda: is_held(services, f"sweep:{location.number}"), timeout=WITHIN
                )
                os.kill(first.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
                watch.hold = lambda _: False
                watch.open.set()
                await done(services, "one")
                assert await claims_by_number(services.index) == {location.number: 200}
                gone = list(server.ids())[:3]
                if how == "hangs":
                    # When it resumes it reads an outdated page.
                    before = (await record(services, "one")).status.sweep.ended
                    for image_id in gone:
                        server.delete(image_id)
                    await services.registry.sweep("one")
                    await done(services, "one", since=before)
                    last = await record(services, "one")
                    os.kill(first.pid, signal.SIGCONT)
                    assert (await record(services, "one")).status.sweep == last.status.sweep
                    os.kill(second.pid, signal.SIGKILL)
                    # It still works, and does the next request.
                    await services.registry.sweep("one")
                    await done(services, "one", since=last.status.sweep.ended)
                    assert await claims_by_number(services.index) == {location.number: 197}


async def test_a_process_that_was_suspended_releases_nothing(
    url: str, start_server: StartServer
) -> None:
    """It has an answer that images are gone; meanwhile another process has claimed them again."""
    switch = Switch()
    switch.fault = watch = Watch()
    server = await start_server(middlewares=[switch.middleware])
    server.fill(100, seed=1)
    async with gateway(url) as services, process(url) as first:
        location, _ = await services.registry.put("one", {"url": server.url})
        await done(services, "one")
        before = (await record(services, "one")).status.sweep.ended
        gone = list(server.ids())[:3]
        for image_id in gone:
            server.update(image_id, deleted=True)
        # The last request before it releases: which of these are hidden?
        watch.hold = lambda r: "id" in r.query and "os_hidden" in r.query
        await services.registry.sweep("one")
        await wait_until(lambda: watch.held, timeout=WITHIN, message="the request is sent")
        os.kill(first.pid, signal.SIGSTOP)
        watch.hold = lambda _: False
        watch.open.set()  # the answer waits in its socket
        for image_id in gone:
            server.update(image_id, deleted=False)
        async with process(url):
            await services.registry.sweep("one")
            await done(services, "one", since=before)
            last = (await record(services, "one")).status.sweep
            assert last.released == 0
        os.kill(first.pid, signal.SIGCONT)
        assert await fewest_claims(services, location) == 100
        await services.registry.sweep("one")
        await done(services, "one", since=last.ended)
        assert await claims_by_number(services.index) == {location.number: 100}


async def fewest_claims(services: Services, location: Location) -> int:
    """The fewest claims within the time of a lease."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LEASE
    fewest: list[int] = []

    async def over() -> bool:
        fewest.append((await claims_by_number(services.index)).get(location.number, 0))
        return loop.time() > until

    await wait_until(over, timeout=WITHIN)
    return min(fewest)


async def test_a_checker_that_was_suspended_stores_no_old_result(
    url: str, start_server: StartServer
) -> None:
    """Meanwhile another process checks the locations."""
    switch = Switch()
    switch.fault = watch = Watch()
    server = await start_server(middlewares=[switch.middleware])
    health = {"health_interval": 0.2}
    async with gateway(url) as services, process(url, **health) as first:
        location, _ = await services.registry.put("one", {"url": server.url})
        records = services.index.records
        await wait_until(lambda: records.check(location.number), timeout=WITHIN)
        watch.hold = lambda request: request.path == "/healthcheck"
        await wait_until(lambda: watch.held, timeout=WITHIN, message="a check is under way")
        os.kill(first.pid, signal.SIGSTOP)
        suspended = time.time()
        watch.hold = lambda _: False
        watch.open.set()  # the answer waits in its socket

        async def checked_at() -> float:
            check = await records.check(location.number)
            assert check is not None
            return check.at

        async with process(url, **health):

            async def checked_by_another() -> bool:
                return await checked_at() > suspended + LEASE

            await wait_until(checked_by_another, timeout=WITHIN, message="the other process checks")
            os.kill(first.pid, signal.SIGCONT)
            resumed = time.time()
            seen = [await checked_at()]
            async with asyncio.timeout(WITHIN):
                while time.time() < resumed + LEASE or seen[-1] == seen[0]:
                    seen.append(await checked_at())
            assert seen == sorted(seen), "an old check must not replace a later one"
