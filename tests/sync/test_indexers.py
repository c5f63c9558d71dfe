"""Several processes that share one Redis: one at a time does each piece of work."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from resolver.models import Outcome, parse_id
from resolver.resolution import Preferences
from resolver.services import open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import WorkKey, WorkKind
from tests.support.faults import Gate, Switch
from tests.support.indexing import SETTINGS, claims_by_number, indexing, swept, ticks
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

pytestmark = pytest.mark.redis


async def test_each_location_is_swept_by_one_indexer(
    redis_url: str, start_server: StartServer
) -> None:
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(indexing(redis_url)) for _ in range(2)]
        lone = await start_server()
        lone.fill(20, seed=1)
        await both[0].registry.put("lone", {"url": lone.url})
        await swept(both[0], "lone")
        once = lone.requests["GET", "images"]

        servers = {f"l{n}": await start_server() for n in range(6)}
        for n, (name, server) in enumerate(servers.items()):
            server.fill(20, seed=1)
            await both[n % 2].registry.put(name, {"url": server.url})
        for name in servers:
            await swept(both[0], name)
        for services in both:
            await ticks(services.indexer)
        listed = {name: server.requests["GET", "images"] for name, server in servers.items()}
        assert listed == dict.fromkeys(servers, once)
        done: Counter[tuple[str, str]] = Counter()
        for services in both:
            done.update(services.indexer.stats.sweeps)
        assert done == {(name, "ok"): 1 for name in ["lone", *servers]}


async def test_a_running_sweep_is_not_started_by_another_process(
    redis_url: str, server: StandIn, switch: Switch
) -> None:
    server.fill(20, seed=1)
    switch.fault = gate = Gate()
    async with indexing(redis_url) as one, indexing(redis_url) as two:
        await one.registry.put("one", {"url": server.url})
        await wait_until(lambda: gate.waiting, message="the sweep begins")
        await two.registry.sweep("one")  # requested again meanwhile
        for services in (one, two):
            await ticks(services.indexer, 3)
        assert (gate.waiting, gate.most) == (1, 1)
        gate.open.set()
        first = await swept(one, "one")
        await swept(one, "one", since=first.ended)  # the request is served then
        assert gate.most == 1


async def test_work_waits_while_another_process_holds_its_lease(
    redis_url: str, server: StandIn
) -> None:
    async with indexing(redis_url) as services:
        other = services.index.lease("sweep:1", seconds=60)
        assert await other.acquire()
        location, _ = await services.registry.put("one", {"url": server.url})
        assert location.number == 1
        await ticks(services.indexer, 3)
        assert server.requests["GET", "images"] == 0
        await other.release()
        await swept(services, "one")


async def test_claims_are_not_collected_while_another_process_may_add_some(
    redis_url: str, server: StandIn
) -> None:
    """A process that does not know of the removal yet may still sweep: the collector waits."""
    async with (
        open_services(Settings(redis_url=redis_url, **SETTINGS)) as gateway,
        indexing(redis_url) as collector,
    ):
        busy = gateway.index.lease("sweep:1", seconds=60)
        assert await busy.acquire()
        location, _ = await gateway.registry.put("one", {"url": server.url})
        assert location.number == 1
        await gateway.index.claims.claim(1, [bytes(16)])
        await gateway.registry.remove("one")
        await ticks(collector.indexer, 3)
        assert await gateway.index.records.retired() == [1]
        await gateway.index.claims.claim(1, [b"\xff" * 16])
        await busy.release()

        async def collected() -> bool:
            return not await gateway.index.records.retired()

        await wait_until(collected)
        assert await claims_by_number(gateway.index) == {}


async def test_a_gateway_answers_from_what_an_indexer_stores(
    redis_url: str, server: StandIn
) -> None:
    server.fill(20, seed=1)
    (image_id,) = [parse_id(image_id) for image_id in list(server.ids())[:1]]
    settings = Settings(redis_url=redis_url, **SETTINGS)
    async with open_services(settings) as gateway, indexing(redis_url) as indexer:
        await gateway.registry.put("one", {"url": server.url})
        await swept(indexer, "one")

        async def outcome() -> Outcome:
            answer = await gateway.resolver.resolve(image_id, Preferences())
            return answer.outcome

        assert await outcome() is Outcome.FOUND
        await indexer.registry.remove("one")
        assert await outcome() is Outcome.UNKNOWN


async def test_a_stopped_indexer_holds_no_lease(redis_url: str, server: StandIn) -> None:
    async with open_services(Settings(redis_url=redis_url, **SETTINGS)) as watcher:
        async with indexing(redis_url) as services:
            location, _ = await services.registry.put("one", {"url": server.url})
            await swept(services, "one")
        keys = (
            WorkKey(WorkKind.SWEEP, location.number),
            WorkKey(WorkKind.HEALTH),
            WorkKey(WorkKind.COLLECT),
        )
        leases = [watcher.index.lease(key.lease_name, seconds=60) for key in keys]
        assert await asyncio.gather(*(lease.acquire() for lease in leases)) == [True] * 3
