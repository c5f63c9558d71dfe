"""The background work of one process: due work runs, and its result is stored."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from resolver.glance import GlanceServer, ScopeCache, connect
from resolver.index import Index
from resolver.models import Health, Outcome, Progress, Sweep, parse_id
from resolver.registry.validation import parse_location
from resolver.resolution import Preferences
from resolver.services import Services
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS, Stats
from resolver.sync.sweep_run import SweepRun
from tests.support import faults
from tests.support.backends import on_every_backend
from tests.support.faults import Gate, Switch, on_pages
from tests.support.indexing import claims_by_number, failed, indexing, swept, ticks
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

NOWHERE = "00000000-0000-4000-8000-000000000000"


async def outcome(services: Services, image_id: str) -> Outcome:
    answer = await services.resolver.resolve(parse_id(image_id), Preferences())
    return answer.outcome


@on_every_backend
async def test_a_new_location_is_swept(index_url: str, server: StandIn) -> None:
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

        async def has_versions() -> bool:  # of a health check, which may end after the sweep
            return (await services.registry.show("one"))["serves"] == ["v2"]

        await wait_until(has_versions)
        assert services.indexer.stats.sweeps == {("one", "ok"): 1}
        await ticks(services.indexer)
        assert services.indexer.stats.sweeps == {("one", "ok"): 1}, (
            "it is swept once, not on every tick"
        )
        assert await services.index.records.requested_sweeps() == {}


async def test_a_requested_sweep_is_done(index_url: str, server: StandIn) -> None:
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


async def test_sweeps_are_repeated(server: StandIn) -> None:
    async with indexing("memory:", sweep_interval=0.1) as services:
        await services.registry.put("one", {"url": server.url})
        first = await swept(services, "one")
        await swept(services, "one", since=first.ended)


async def test_a_failed_sweep_is_reported_and_releases_nothing(
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


async def test_a_location_that_never_answered_proves_no_absence(start_server: StartServer) -> None:
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


@on_every_backend
async def test_a_listing_that_shrinks_must_be_confirmed(index_url: str, server: StandIn) -> None:
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


async def test_the_progress_of_a_running_sweep_is_shown(server: StandIn, switch: Switch) -> None:
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


async def test_a_stopped_process_releases_its_leases_to_others(
    redis_url: str, server: StandIn, switch: Switch
) -> None:
    server.fill(10, seed=1)
    switch.fault = gate = Gate()
    async with indexing(redis_url) as services:
        await services.registry.put("one", {"url": server.url})
        await wait_until(lambda: gate.waiting, message="the sweep begins")
    gate.open.set()
    async with indexing(redis_url) as services:
        # Before the lease would have expired: it was released.
        assert (await swept(services, "one")).images == 10
        assert await services.index.records.progress() == {}


@on_every_backend
@pytest.mark.parametrize("how", ["removed", "moved"])
async def test_a_location_may_be_removed_or_moved_during_its_sweep(
    index_url: str, start_server: StartServer, how: str
) -> None:
    switch, gate = Switch(), Gate()
    old = await start_server(middlewares=[switch.middleware], page_cap=10)
    new = await start_server()
    old.fill(50, seed=1)
    new.fill(5, seed=2)
    switch.fault = on_pages(gate, later=True)  # when some images have been claimed
    async with indexing(index_url) as services:
        first, _ = await services.registry.put("one", {"url": old.url})
        await wait_until(lambda: gate.waiting, message="the sweep is half way")
        if how == "removed":
            await services.registry.remove("one")
        else:
            moved = await services.registry.patch("one", {"url": new.url})
            assert moved.number != first.number
        expected = {} if how == "removed" else {moved.number: 5}
        # A new server without the image may have been swept by now.
        allowed = {Outcome.UNKNOWN} | ({Outcome.ABSENT} if how == "moved" else set())
        for image_id in old.ids():
            assert await outcome(services, image_id) in allowed, "at any time"
        gate.open.set()

        async def collected() -> bool:
            if await services.index.records.retired():
                return False
            return await claims_by_number(services.index) == expected

        await wait_until(collected, message="the claims of the old number are collected")
        await ticks(services.indexer)
        assert await collected(), "and none were added later"
        assert first.number not in await services.index.records.progress()


@on_every_backend
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


async def test_health_is_checked(server: StandIn) -> None:
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
        await wait_until(is_down, message="it is down after some checks")
        place = (await services.tables.current()).by_name["one"]
        assert place.versions, "its versions are still known"
        await server.start(port=server.port)
        await wait_until(is_up)


@pytest.mark.redis
async def test_an_indexer_survives_a_loss_of_redis(own_redis: RedisServer, server: StandIn) -> None:
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
async def test_a_server_with_invalid_versions_harms_only_itself(
    start_server: StartServer, version: str
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware])
    switch.fault = faults.body(json.dumps({"versions": [{"id": version}]}))
    async with indexing("memory:") as services:
        await services.registry.put("one", {"url": server.url})

        async def has_failed() -> bool:
            return bool((await services.registry.show("one"))["sweep"]["error"])

        await wait_until(has_failed)
        assert (await services.tables.current()).by_name["one"].minor == -1


async def test_a_bug_in_a_sweep_is_a_failed_sweep(index: Index, server: StandIn) -> None:
    """It is stored like other failures, so that the sweep is not retried on every tick."""
    server.fill(3)
    broken = SimpleNamespace(records=index.records, claims=None)
    async with connect(5) as session:
        location = await index.records.put(parse_location("one", {"url": server.url}), None)
        stats, before = Stats(), Sweep(started=1, ended=2, images=7)
        sweep = SweepRun(
            cast(Index, broken),
            GlanceServer(session, location),
            ScopeCache(),
            index.lease("sweep:1", seconds=60),
            before,
            guard=0.2,
            stats=stats,
            timings=DEFAULT_TIMINGS,
        )
        result = await sweep.run(None)
    assert (result.error_code, result.ended, result.images) == ("internal-error", 2, 7)
    assert result.failed is not None
    assert "the indexer's log has the cause" in result.error
    assert stats.sweeps == {("one", "internal-error"): 1}


async def test_a_requested_sweep_does_not_resume_an_earlier_one(
    index_url: str, server: StandIn
) -> None:
    """The earlier one may have passed the changed images already."""
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


async def test_checks_without_a_change_make_no_new_registry_version(
    index_url: str, server: StandIn
) -> None:
    """Else every gateway would read the registry again after each check of each location."""
    async with indexing(index_url, health_interval=0.05) as services:
        await services.registry.put("one", {"url": server.url})
        await swept(services, "one")
        version = (await services.index.claims.lookup([])).version
        seen = (await services.registry.show("one"))["health"]["at"]

        async def is_checked_again() -> bool:
            return bool((await services.registry.show("one"))["health"]["at"] > seen)

        await wait_until(is_checked_again, message="another check is shown")
        assert (await services.index.claims.lookup([])).version == version
        await server.stop()
        await wait_until(
            lambda: services.tables.table.by_name["one"].health is Health.DOWN,
            message="the change is seen",
        )
        assert (await services.index.claims.lookup([])).version > version


@pytest.mark.parametrize("set_back", [False, True])
async def test_a_clock_that_was_set_delays_no_sweep(server: StandIn, set_back: bool) -> None:
    """The status has times an hour ahead of the clock, or behind."""
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
