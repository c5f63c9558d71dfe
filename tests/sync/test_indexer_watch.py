"""Every gateway notices that no indexer is running, and that one runs again."""

from __future__ import annotations

import time

import pytest

from resolver.cli.output import health_text
from resolver.gateway.page.sections import location_rows
from resolver.index import Index
from resolver.models import Check, Health
from resolver.problems import Problem
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.registry.presentation import location_counts
from resolver.services import open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS, IndexerWatch
from resolver.sync.indexer_watch import CHECK_INTERVAL_SECONDS, MISSED_CHECKS
from tests.support.indexing import indexing, ticks
from tests.support.redis import RedisServer


def problems(watch: IndexerWatch) -> list[Problem]:
    return list(watch.problems())


async def checked(watch: IndexerWatch, times: int = MISSED_CHECKS) -> bool | None:
    for _ in range(times):
        await watch.check()
    return watch.is_running


def test_a_dead_indexer_is_noticed_within_a_minute() -> None:
    """Its lease expires first; then it is missed a few times."""
    assert DEFAULT_TIMINGS.lease + MISSED_CHECKS * CHECK_INTERVAL_SECONDS < 60


async def test_without_an_indexer_there_is_a_problem_and_no_coverage(index: Index) -> None:
    watch = IndexerWatch(index)
    assert (watch.is_running, problems(watch)) == (None, [])
    assert await checked(watch, MISSED_CHECKS - 1) is None, "another one may be about to take over"
    assert await checked(watch, 1) is False
    (problem,) = problems(watch)
    assert problem.code == "no-indexer"

    policy = FreshnessPolicy(600, no_indexer=watch.is_gone)
    tables = TableKeeper(index, policy)
    registry = Registry(index, tables, Settings())
    await registry.put("one", {"url": "https://one.example"})
    shown = await registry.show("one")
    assert "no indexer is running" in shown["coverage"]["why"]
    assert shown["health"]["current"] is False
    assert health_text(shown["health"]) == "was unknown"

    location = tables.table.by_name["one"].location
    at = time.time()
    await index.records.set_check(location.number, Check(at=at, health=Health.UP), location)
    table = await tables.fresh()
    assert location_counts(table, at) == {"all": 1, "up": 0, "down": 0, "covered": 0}
    rows = dict(location_rows(table.by_name.values(), (), at))
    assert "was up" in rows["location-one"]
    watch.is_running = True
    assert location_counts(table, at)["up"] == 1


async def test_while_the_index_is_lost_no_indexer_is_missed(index: Index) -> None:
    """Those that run wait for an index. `index-unavailable` says what is wrong."""
    watch = IndexerWatch(index)
    await index.client.command("DEL", "glr:{reg}:meta")
    assert await checked(watch) is None
    await index.create_if_missing()
    assert await checked(watch) is False


@pytest.mark.redis
async def test_a_running_indexer_is_seen_by_every_process(redis_url: str, server: StandIn) -> None:
    async with indexing(redis_url) as services:
        await services.registry.put("one", {"url": server.url})
        await ticks(services.indexer)
        async with open_services(Settings(redis_url=redis_url)) as gateway:
            watch = gateway.indexer_watch
            assert await checked(watch) is True
            assert problems(watch) == []
            assert (await gateway.registry.show("one"))["health"]["current"] is True


async def test_an_indexer_that_runs_again_ends_the_problem(index: Index) -> None:
    watch = IndexerWatch(index)
    lease = index.lease("health:0", seconds=30)
    assert await lease.acquire()
    assert await checked(watch) is True
    await lease.release()
    assert await checked(watch) is False
    (problem,) = problems(watch)
    assert problem.since > 0, "since the last time that one was seen"
    assert await lease.acquire()
    assert await checked(watch, 1) is True
    assert problems(watch) == []


@pytest.mark.redis
async def test_an_outage_of_redis_says_nothing_about_indexers(own_redis: RedisServer) -> None:
    async with open_services(Settings(redis_url=own_redis.url)) as gateway:
        watch = gateway.indexer_watch
        lease = gateway.index.lease("health:0", seconds=30)
        assert await lease.acquire()
        assert await checked(watch) is True
        own_redis.kill()
        assert await checked(watch) is True
