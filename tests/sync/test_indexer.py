"""The background work of one process: what is due is done, and how it went is told."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from resolver.models import Health, Outcome, Progress, parse_id
from resolver.resolution import Preferences
from resolver.services import Services
from resolver.standin import StandIn
from resolver.sync import sweep as sweep_module
from tests.support import faults
from tests.support.faults import Gate, Switch, on_pages
from tests.support.indexing import claims_by_number, failed, indexing, swept, ticks
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

NOWHERE = "00000000-0000-4000-8000-000000000000"


async def outcome(services: Services, image_id: str) -> Outcome:
    answer = await services.resolver.resolve(parse_id(image_id), Preferences())
    return answer.outcome


async def test_a_new_location_is_swept_without_asking(index_url: str, server: StandIn) -> None:
    server.fill(30, seed=1)
    some = next(server.ids())
    async with indexing(index_url) as services:
        await services.registry.put("one", {"url": server.url})
        assert await outcome(services, some) is Outcome.UNKNOWN
        sweep = await swept(services, "one")
        assert (sweep.images, sweep.claimed, sweep.sees_all) == (30, 30, True)
        assert await outcome(services, some) is Outcome.FOUND
        assert await outcome(services, NOWHERE) is Outcome.ABSENT
        shown = await services.registry.show("one")
        assert shown["coverage"]["covered"] is True
        assert shown["sweep"]["running"] is None
        assert shown["serves"] == ["v2"]
        assert services.indexer.stats.sweeps == {("one", "ok"): 1}
        await ticks(services.indexer)
        assert services.indexer.stats.sweeps == {("one", "ok"): 1}, "once, and not all the time"
        assert await services.index.records.requested_sweeps() == {}


async def test_a_sweep_that_is_asked_for(index_url: str, server: StandIn) -> None:
    server.fill(30, seed=1)
    async with indexing(index_url) as services:
        await services.registry.put("one", {"url": server.url})
        first = await swept(services, "one")
        gone, new = next(server.ids()), server.add().id
        server.delete(gone)
        await services.registry.sweep("one")
        second = await swept(services, "one", since=first.ended)
        assert (second.claimed, second.released) == (1, 1)
        assert await outcome(services, new) is Outcome.FOUND
        assert await outcome(services, gone) is Outcome.ABSENT


async def test_sweeps_come_again_by_themselves(server: StandIn) -> None:
    async with indexing("memory:", sweep_interval=0.1) as services:
        await services.registry.put("one", {"url": server.url})
        first = await swept(services, "one")
        await swept(services, "one", since=first.ended)


async def test_a_failure_is_told_and_takes_nothing_away(
    index_url: str, server: StandIn, switch: Switch
) -> None:
    server.fill(30, seed=1)
    some = next(server.ids())
    async with indexing(index_url) as services:
        await services.registry.put("one", {"url": server.url})
        good = await swept(services, "one")
        server.delete(some)
        switch.fault = on_pages(faults.status(500))
        await services.registry.sweep("one")
        bad = await failed(services, "one")
        assert (bad.error, bad.error_code) == ("it answered 500", "server-error")
        assert bad.failed is not None
        assert (bad.ended, bad.images, bad.sees_all) == (good.ended, 30, True)
        assert await outcome(services, some) is Outcome.FOUND
        assert await outcome(services, NOWHERE) is Outcome.ABSENT, "the last sweep is still fresh"
        assert services.indexer.stats.sweeps["one", "server-error"] == 1
        shown = await services.registry.show("one")
        assert shown["sweep"]["error"] == "it answered 500"

        switch.fault = None
        await services.registry.sweep("one")
        sweep = await swept(services, "one", since=good.ended)
        assert (sweep.error, sweep.released) == ("", 1)
        assert await outcome(services, some) is Outcome.ABSENT


async def test_a_location_that_never_answered_is_no_proof(start_server: StartServer) -> None:
    server = await start_server()
    await server.stop()
    async with indexing("memory:") as services:
        await services.registry.put("one", {"url": server.url})
        sweep = await failed(services, "one")
        assert sweep.error_code == "unreachable"
        assert sweep.ended is None
        assert await outcome(services, NOWHERE) is Outcome.UNKNOWN
        await server.start(port=server.port)
        await services.registry.sweep("one")
        await swept(services, "one")
        assert await outcome(services, NOWHERE) is Outcome.ABSENT


async def test_shrinking_waits_for_an_operator(index_url: str, server: StandIn) -> None:
    server.fill(50, seed=1)
    async with indexing(index_url) as services:
        location, _ = await services.registry.put("one", {"url": server.url})
        first = await swept(services, "one")
        for image_id in list(server.ids())[:40]:
            server.delete(image_id)
        await services.registry.sweep("one")
        sweep = await failed(services, "one")
        assert sweep.error_code == "shrink-guard"
        assert "glance-resolver locations sweep one --confirm-shrink" in sweep.error
        assert await claims_by_number(services.index) == {location.number: 50}
        await services.registry.sweep("one", confirm_shrink=True)
        sweep = await swept(services, "one", since=first.ended)
        assert (sweep.released, sweep.error) == (40, "")
        assert await claims_by_number(services.index) == {location.number: 10}


async def test_a_sweep_under_way_is_shown(server: StandIn, switch: Switch) -> None:
    gate = Gate()
    switch.fault = gate
    async with indexing("memory:") as services:
        await services.registry.put("one", {"url": server.url})
        await wait_until(lambda: gate.waiting, message="the sweep begins")
        running = (await services.registry.show("one"))["sweep"]["running"]
        assert running is not None
        assert running["images"] == 0
        gate.open.set()
        await swept(services, "one")

        async def over() -> bool:
            return (await services.registry.show("one"))["sweep"]["running"] is None

        await wait_until(over)


async def test_the_end_of_a_process_leaves_its_work_to_others(
    redis_url: str, server: StandIn, switch: Switch
) -> None:
    server.fill(10, seed=1)
    switch.fault = gate = Gate()
    async with indexing(redis_url) as services:
        await services.registry.put("one", {"url": server.url})
        await wait_until(lambda: gate.waiting, message="the sweep begins")
    gate.open.set()
    async with indexing(redis_url) as services:
        # Within the time of a lease: the one that ended has let go of it.
        assert (await swept(services, "one")).images == 10
        assert await services.index.records.progress() == {}


@pytest.mark.parametrize("how", ["removed", "moved"])
async def test_a_location_that_changes_while_it_is_swept(
    index_url: str, start_server: StartServer, how: str
) -> None:
    switch, gate = Switch(), Gate()
    old = await start_server(middlewares=[switch.middleware], page_cap=10)
    new = await start_server()
    old.fill(50, seed=1)
    new.fill(5, seed=2)
    switch.fault = on_pages(gate, later=True)  # so that some claims have been made
    async with indexing(index_url) as services:
        first, _ = await services.registry.put("one", {"url": old.url})
        await wait_until(lambda: gate.waiting, message="the sweep is half way")
        if how == "removed":
            await services.registry.remove("one")
        else:
            moved = await services.registry.patch("one", {"url": new.url})
            assert moved.number != first.number
        expected = {} if how == "removed" else {moved.number: 5}
        for image_id in old.ids():
            assert await outcome(services, image_id) is Outcome.UNKNOWN, "not for a moment more"
        gate.open.set()

        async def collected() -> bool:
            if await services.index.records.retired():
                return False
            return await claims_by_number(services.index) == expected

        await wait_until(collected, message="the claims of the old number are collected")
        await ticks(services.indexer)
        assert await collected(), "and none came after"
        assert first.number not in await services.index.records.progress()


async def test_claims_of_removed_locations_are_collected(index_url: str, server: StandIn) -> None:
    server.fill(30, seed=1)
    async with indexing(index_url) as services:
        for name in ("one", "two", "three"):
            await services.registry.put(name, {"url": server.url})
        for name in ("one", "two", "three"):
            await swept(services, name)
        for name in ("one", "three"):
            await services.registry.remove(name)
        left = (await services.index.records.load()).records["two"].location

        async def collected() -> bool:
            return await claims_by_number(services.index) == {left.number: 30}

        await wait_until(collected)

        async def forgotten() -> bool:
            return not await services.index.records.retired()

        await wait_until(forgotten)


async def test_health_is_looked_at(server: StandIn) -> None:
    async with indexing("memory:", health_interval=0.05) as services:
        await services.registry.put("one", {"url": server.url})

        async def health() -> Health:
            return (await services.tables.current()).by_name["one"].health

        async def is_up() -> bool:
            return await health() is Health.UP

        async def is_down() -> bool:
            return await health() is Health.DOWN

        await wait_until(is_up)
        await server.stop()
        await wait_until(is_down, message="after some looks it counts as down")
        place = (await services.tables.current()).by_name["one"]
        assert place.versions, "what it served is still known"
        await server.start(port=server.port)
        await wait_until(is_up)


@pytest.mark.redis
async def test_an_indexer_outlives_redis(own_redis: RedisServer, server: StandIn) -> None:
    server.fill(10, seed=1)
    async with indexing(own_redis.url) as services:
        await services.registry.put("one", {"url": server.url})
        await swept(services, "one")
        own_redis.kill()
        own_redis.start()  # empty

        async def again() -> bool:
            try:
                await services.index.create_if_missing()
                await services.registry.put("two", {"url": server.url})
            except Exception:  # the first calls may still meet broken connections
                return False
            return True

        await wait_until(again)
        assert (await swept(services, "two")).claimed == 10
        assert set((await services.tables.current()).by_name) == {"two"}


@pytest.mark.parametrize("version", ["v2.²", "v2.\ud800", "v2.99999", "x" * 500])
async def test_a_server_with_odd_versions_harms_only_itself(
    start_server: StartServer, version: str
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware])
    switch.fault = faults.body(json.dumps({"versions": [{"id": version}]}))
    async with indexing("memory:") as services:
        await services.registry.put("one", {"url": server.url})

        async def told() -> bool:
            return bool((await services.registry.show("one"))["sweep"]["error"])

        await wait_until(told)
        assert (await services.tables.current()).by_name["one"].minor == -1


async def test_a_sweep_that_breaks_in_us_is_told_and_waited_for(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sweep_module.Sweeper, "_check_shrink_guard", None
    )  # as a mistake of ours would
    async with indexing("memory:") as services:
        await services.registry.put("one", {"url": server.url})

        async def told() -> bool:
            return (await services.registry.show("one"))["sweep"]["error_code"] == "internal-error"

        await wait_until(told)
        assert services.indexer.stats.sweeps["one", "internal-error"] == 1


async def test_a_sweep_asked_for_is_not_one_begun_before(index_url: str, server: StandIn) -> None:
    """One left behind may have passed what is asked about; what is due goes on with it."""
    server.fill(30, seed=1)
    async with indexing(index_url) as services:
        await services.registry.put("one", {"url": server.url})
        first = await swept(services, "one")
        now = time.time()
        record = (await services.index.records.load()).records["one"]
        left = Progress(started=now - 50, images=3, front=NOWHERE, markers=("", ""), at=now)
        await services.index.records.set_progress(record.location.number, left)
        await services.registry.sweep("one")

        async def again() -> bool:
            status = (await services.index.records.load()).records["one"].status
            return status.sweep.ended != first.ended

        await wait_until(again)
        sweep = (await services.index.records.load()).records["one"].status.sweep
        assert (sweep.started or 0) >= now
        assert await services.index.records.requested_sweeps() == {}


async def test_looks_that_tell_nothing_new_are_no_new_version(
    index_url: str, server: StandIn
) -> None:
    """Else every gateway would read the registry anew for each look at each location."""
    async with indexing(index_url, health_interval=0.05) as services:
        await services.registry.put("one", {"url": server.url})
        await swept(services, "one")
        version = (await services.index.claims.lookup([])).version
        seen = (await services.registry.show("one"))["health"]["at"]

        async def looked_again() -> bool:
            return bool((await services.registry.show("one"))["health"]["at"] > seen)

        await wait_until(looked_again, message="another look is shown")
        assert (await services.index.claims.lookup([])).version == version
        await server.stop()
        await wait_until(
            lambda: services.tables.table.by_name["one"].health is Health.DOWN,
            message="what is new is told to all",
        )
        assert (await services.index.claims.lookup([])).version > version


@pytest.mark.parametrize("set_back", [False, True])
async def test_a_clock_that_was_set_stops_no_sweep(server: StandIn, set_back: bool) -> None:
    """What was written by the clock of before is an hour ahead of it, or behind."""
    server.fill(30, seed=1)
    async with indexing("memory:", poll_interval=3600) as services:
        await services.registry.put("one", {"url": server.url})
        await services.registry.sweep("one")
        sweep = await swept(services, "one")
        records, hour = services.index.records, 3700.0 if set_back else -3700.0
        number = (await records.load()).records["one"].location.number
        assert sweep.started
        assert sweep.ended
        other = replace(sweep, started=sweep.started + hour, ended=sweep.ended + hour)
        await records.set_sweep(number, other)

        async def again() -> bool:
            now = (await records.load()).records["one"].status.sweep
            return now.ended is not None and abs(now.ended - time.time()) < 60

        await wait_until(again, message="it is swept again")
