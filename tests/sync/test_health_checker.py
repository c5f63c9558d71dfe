"""The health checker of many locations: which go down, and when it suspects itself."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import Check, Health
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync.health import DOWN_AFTER_FAILURES
from tests.support import faults
from tests.support.faults import Switch
from tests.support.indexing import indexing, running
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

INTERVAL = 0.3


async def checks(services: Services) -> dict[str, Check | None]:
    records = (await services.index.records.load()).records
    return {name: record.status.check for name, record in records.items()}


async def wait_for_health(services: Services, health: Health, names: list[str]) -> None:
    async def all_have_it() -> bool:
        known = await checks(services)
        return all((check := known[name]) is not None and check.health is health for name in names)

    await wait_until(all_have_it, message=f"{names} are {health}")


async def registered(services: Services, servers: list[StandIn]) -> list[str]:
    names = [f"l{n:02}" for n in range(len(servers))]
    for name, server in zip(names, servers, strict=True):
        await services.registry.put(name, {"url": server.url})
    await wait_for_health(services, Health.UP, names)
    return names


async def test_a_few_of_many_locations_go_down_and_recover(start_server: StartServer) -> None:
    """When 15 % fail at once, the cause is a region, not the checker."""
    servers = [await start_server() for _ in range(20)]
    async with indexing("memory:", health_interval=INTERVAL) as services:
        names = await registered(services, servers)
        for server in servers[:3]:
            await server.stop()
        await wait_for_health(services, Health.DOWN, names[:3])
        await wait_for_health(services, Health.UP, names[3:])
        assert not services.indexer.stats.checker_suspects_itself
        shown = await services.registry.show(names[0])
        assert "cannot connect" in shown["health"]["reason"]
        assert [change["state"] for change in shown["health"]["history"]] == ["down", "up"]
        for server in servers[:3]:
            await server.start(port=server.port)
        await wait_for_health(services, Health.UP, names)


async def test_the_checker_doubts_itself_when_all_locations_fail_at_once(
    start_server: StartServer,
) -> None:
    most, few = Switch(), Switch()
    servers = [await start_server(middlewares=[most.middleware]) for _ in range(18)]
    servers += [await start_server(middlewares=[few.middleware]) for _ in range(2)]
    async with indexing("memory:", health_interval=INTERVAL) as services:
        names = await registered(services, servers)
        most.fault = few.fault = faults.status(503)

        async def all_failed() -> bool:
            return all(
                c and c.failures > DOWN_AFTER_FAILURES + 1
                for c in (await checks(services)).values()
            )

        await wait_until(all_failed, message="all have failed often enough")
        await wait_for_health(services, Health.UP, names)
        assert services.indexer.stats.checker_suspects_itself
        reason = (await services.registry.show(names[0]))["health"]["reason"]
        assert "20 of 20 locations fail together" in reason
        # Most recover: the others were really down.
        most.fault = None
        await wait_for_health(services, Health.DOWN, names[18:])
        await wait_for_health(services, Health.UP, names[:18])
        await wait_until(lambda: not services.indexer.stats.checker_suspects_itself)


async def test_a_checker_that_takes_over_relies_on_its_own_checks(
    start_server: StartServer,
) -> None:
    """All locations failed for its predecessor, and fail for it too: that may be its own fault."""
    switch = Switch()
    servers = [await start_server(middlewares=[switch.middleware]) for _ in range(4)]
    switch.fault = faults.status(503)
    async with open_services(Settings(health_interval=INTERVAL)) as services:
        for number, server in enumerate(servers):
            await services.registry.put(f"l{number}", {"url": server.url})
        nearly = Check(at=1, health=Health.UP, failures=DOWN_AFTER_FAILURES - 1)
        for record in (await services.index.records.load()).records.values():
            await services.index.records.set_check(record.location.number, nearly)
        async with running(services.indexer):
            stats = services.indexer.stats
            await wait_until(lambda: sum(stats.checks.values()) > 20)
            await wait_for_health(services, Health.UP, ["l0", "l1", "l2", "l3"])
            assert stats.checker_suspects_itself


async def test_locations_that_were_down_before_do_not_count(start_server: StartServer) -> None:
    servers = [await start_server() for _ in range(4)]
    async with indexing("memory:", health_interval=INTERVAL) as services:
        names = await registered(services, servers)
        for name, server in zip(names, servers, strict=True):
            await server.stop()
            await wait_for_health(services, Health.DOWN, [name])


def flapping() -> faults.Fault:
    """Fails two checks of three: never three in a row."""
    count = 0

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal count
        if not request.path.endswith("/healthcheck"):
            return await handler(request)
        count += 1
        return await (faults.status(503)(request, handler) if count % 3 else handler(request))

    return fault


@pytest.mark.parametrize("fault", [flapping(), faults.slow], ids=["flaps", "slow"])
async def test_a_bad_server_does_not_delay_checks_of_others(
    start_server: StartServer, fault: faults.Fault
) -> None:
    switch = Switch()
    bad = await start_server(middlewares=[switch.middleware])
    good = [await start_server() for _ in range(3)]
    async with indexing("memory:", health_interval=INTERVAL) as services:
        names = await registered(services, [bad, *good])
        switch.fault = fault
        stats = services.indexer.stats
        seen = stats.checks["l01", "ok"]
        await wait_until(lambda: stats.checks["l01", "ok"] > seen + 9, message="others are checked")
        await wait_for_health(services, Health.UP, names)
        check = (await checks(services))["l00"]
        assert check is not None
        assert len(check.changes) == 1, "it was never marked down"
        if fault is not faults.slow:
            assert stats.checks["l00", "failed"] > 1


async def test_one_of_two_indexers_checks_and_the_other_takes_over(
    redis_url: str, server: StandIn
) -> None:
    async with indexing(redis_url, health_interval=INTERVAL) as two:
        async with indexing(redis_url, health_interval=INTERVAL) as one:
            await one.registry.put("one", {"url": server.url})
            await wait_for_health(two, Health.UP, ["one"])
            both = [one.indexer.stats.checks, two.indexer.stats.checks]
            await wait_until(lambda: sum(c.get(("one", "ok"), 0) for c in both) > 9)
            assert sorted(bool(checks) for checks in both) == [False, True]
            await wait_until(lambda: two.tables.table.by_name["one"].health is Health.UP)
        await server.stop()
        await wait_for_health(two, Health.DOWN, ["one"])
        check = (await checks(two))["one"]
        assert check is not None
        assert [change.health for change in check.changes] == [Health.DOWN, Health.UP]
