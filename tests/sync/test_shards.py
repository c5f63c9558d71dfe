"""Health checks of many locations are shared among the indexers that live."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from resolver.index import open_index
from resolver.services import Services
from resolver.sync import IndexerTimings
from resolver.sync.shards import MAX_SHARDS, SHARD_LOCATIONS, own_shards, shard_count, shard_of
from tests.support.indexing import indexing
from tests.support.metric_names import metrics_text
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

LOCATIONS = 3 * SHARD_LOCATIONS
TIMINGS = IndexerTimings(tick=0.05, lease=1.0)


@pytest.mark.parametrize("locations", [0, 1, 49, 50, 99, 100, 1000, 100_000])
@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_each_shard_belongs_to_one_member(locations: int, members: int) -> None:
    count = shard_count(locations)
    assert 1 <= count <= MAX_SHARDS
    owners = Counter(s for n in range(members) for s in own_shards(count, n, members))
    assert owners == dict.fromkeys(range(count), 1)
    assert {shard_of(number, count) for number in range(1, locations)} <= set(range(count))


async def test_few_locations_are_one_shard() -> None:
    """The checker compares them with each other to find out whether it is at fault itself."""
    assert shard_count(2 * SHARD_LOCATIONS - 1) == 1


@pytest.mark.redis
async def test_members_see_each_other_in_the_same_order(redis_url: str) -> None:
    async with open_index(redis_url, bits=8) as index:
        members = [index.indexer_membership(seconds=30) for _ in range(4)]
        await asyncio.gather(*(member.announce() for member in members))
        seen = [await member.announce() for member in members]
        assert sorted(seen) == [(n, 4) for n in range(4)]
        await members[0].leave()
        left = [await member.announce() for member in members[1:]]
        assert sorted(left) == [(n, 3) for n in range(3)]
        # One that says nothing any more is forgotten after a while.
        brief = index.indexer_membership(seconds=0.05)
        await brief.announce()

        async def forgotten() -> bool:
            return (await members[1].announce())[1] == 3

        await wait_until(forgotten)


def watched(services: Services) -> set[int]:
    return {number for numbers in services.indexer.stats.watched.values() for number in numbers}


async def located(services: Services) -> set[str]:
    """Names of the locations that a process shows metrics of."""
    text = await metrics_text(services)
    lines = [line for line in text.splitlines() if "location_covered{" in line]
    return {line.partition('location="')[2].partition('"')[0] for line in lines}


@pytest.mark.redis
async def test_indexers_share_the_checks_and_the_metrics(
    redis_url: str, start_server: StartServer
) -> None:
    server = await start_server()
    settings = {"health_interval": 1, "sweep_interval": 86400}
    names = {f"l{n}": {"url": f"{server.url}/{n}"} for n in range(LOCATIONS)}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(indexing(redis_url, timings=TIMINGS, **settings))
        await first.registry.register(names)
        everything = set((await first.tables.current()).by_number)
        await wait_until(lambda: watched(first) == everything, message="one checks all")
        async with indexing(redis_url, timings=TIMINGS, **settings) as second:

            def are_shared() -> bool:
                mine, theirs = watched(first), watched(second)
                return bool(mine and theirs and not mine & theirs and mine | theirs == everything)

            await wait_until(are_shared, message="two share them")
            shown = [await located(services) for services in (first, second)]
            assert not shown[0] & shown[1]
            assert shown[0] | shown[1] == set(names)
            await wait_until(lambda: second.indexer.stats.checks, message="both check")
        await wait_until(lambda: watched(first) == everything, message="one checks all again")
