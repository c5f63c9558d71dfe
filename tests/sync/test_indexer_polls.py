"""Polls by the indexer: their times, their process, and their stored results."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import Outcome, Poll, format_id, parse_id
from resolver.resolution import Preferences
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS
from tests.support import faults
from tests.support.faults import Switch, on_pages
from tests.support.ids import make_ids
from tests.support.indexing import SETTINGS, indexing, swept, ticks
from tests.support.polling import PollRecorder, is_poll
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

ID, OTHER = [format_id(image_id) for image_id in make_ids(2)]
OFTEN: dict[str, Any] = {"poll_interval": 0.2, "health_interval": 3600}


@pytest.fixture
def polls(switch: Switch) -> PollRecorder:
    switch.fault = polls = PollRecorder()
    return polls


async def poll_of(services: Services, name: str = "one") -> Poll:
    record = (await services.index.records.load()).records[name]
    return await services.index.records.poll(record.location.number)


async def polled(services: Services, name: str = "one", *, since: float = 0) -> Poll:
    """The last poll, once one has succeeded after ``since``."""

    async def done() -> Poll | None:
        last = await poll_of(services, name)
        return last if (last.ended or 0) > since and not last.error else None

    found: Poll = await wait_until(done, message=f"{name} is polled")
    return found


async def outcome(services: Services, text: str) -> Outcome:
    return (await services.resolver.resolve(parse_id(text), Preferences())).outcome


@asynccontextmanager
async def polled_location(url: str, server: StandIn, **settings: Any) -> AsyncIterator[Services]:
    """A running indexer whose one location has been swept and polled."""
    async with indexing(url, **OFTEN | settings) as services:
        await services.registry.put("one", {"url": server.url})
        await swept(services, "one")
        await polled(services, since=time.time())
        yield services


async def test_a_location_is_polled_repeatedly(index_url: str, server: StandIn) -> None:
    async with polled_location(index_url, server) as services:
        server.add(id=ID)

        async def found() -> bool:
            return await outcome(services, ID) is Outcome.FOUND

        await wait_until(found)
        await wait_until(lambda: services.indexer.stats.polls["one", "ok"] >= 2)
        assert services.indexer.stats.sweeps == {("one", "ok"): 1}
        coverage = (await services.registry.show("one"))["coverage"]
        assert coverage["poll"].endswith("s ago")


async def test_a_poll_interval_of_zero_disables_polls(server: StandIn, polls: PollRecorder) -> None:
    async with indexing("memory:", poll_interval=0) as services:
        await services.registry.put("one", {"url": server.url})
        await swept(services, "one")
        await ticks(services.indexer, 3)
        assert polls.since == []
        assert (await services.registry.show("one"))["coverage"]["poll"] == "off"


async def test_polls_without_changes_make_no_new_registry_version(
    index_url: str, server: StandIn
) -> None:
    async with polled_location(index_url, server) as services:
        version = (await services.index.claims.lookup([])).version
        for _ in range(3):
            await polled(services, since=time.time())
        assert (await services.index.claims.lookup([])).version == version


@pytest.mark.redis
async def test_known_claims_are_not_written_again(
    redis_server: RedisServer, redis_url: str, server: StandIn
) -> None:
    """Neither by the overlap of polls nor by the next indexer."""
    with redis_server.client() as client:
        watch = client.pubsub(ignore_subscribe_messages=True)
        async with polled_location(redis_url, server) as services:
            for _ in range(20):
                server.add()

            async def claimed() -> bool:
                return (await services.index.census()).images == 20

            await wait_until(claimed)
            key = services.index.claims.buckets.key(0).decode()
            client.config_set("notify-keyspace-events", "Kh")
            watch.psubscribe(f"__keyspace@0__:{key.rstrip('0')}*")
            watch.get_message(timeout=1)
            for _ in range(2):
                again = await polled(services, since=time.time())
                assert again.images == 20
        async with indexing(redis_url, **OFTEN) as services:
            again = await polled(services, since=time.time())
            assert (again.images, again.claimed) == (20, 0)
            assert watch.get_message(timeout=0.1) is None
            server.add(id=ID)
            message = await wait_until(watch.get_message, message="a new claim is a write")
        client.config_set("notify-keyspace-events", "")
        watch.close()
    assert message["data"] == b"hset"


async def test_another_process_polls_from_where_the_last_one_ended(
    redis_url: str, server: StandIn, polls: PollRecorder
) -> None:
    async with polled_location(redis_url, server):
        pass
    async with open_services(Settings(redis_url=redis_url, **SETTINGS)) as services:
        last = await poll_of(services)
    server.add(id=ID, created=last.mark + 1)
    polls.since.clear()
    async with indexing(redis_url, **OFTEN) as services:
        await polled(services, since=last.ended or 0)
        assert polls.since[0] == int(last.mark - DEFAULT_TIMINGS.poll_overlap)
        assert await outcome(services, ID) is Outcome.FOUND


async def test_one_of_two_indexers_polls(
    redis_url: str, server: StandIn, polls: PollRecorder
) -> None:
    slow = {"poll_interval": 3600}
    async with indexing(redis_url, **slow) as one, indexing(redis_url, **slow) as two:
        await one.registry.put("one", {"url": server.url})
        await polled(one)
        for services in (one, two):
            await ticks(services.indexer, 3)
        assert len(polls.since) == 1
        done = [services.indexer.stats.polls.get(("one", "ok"), 0) for services in (one, two)]
        assert sorted(done) == [0, 1]


async def test_failed_polls_are_reported_and_the_next_one_covers_their_time(
    index_url: str, server: StandIn, polls: PollRecorder
) -> None:
    async with polled_location(index_url, server) as services:
        polls.fault = faults.status(500)

        async def is_reported() -> bool:
            coverage = (await services.registry.show("one"))["coverage"]
            return "the latest failed (server-error)" in coverage["poll"]

        await wait_until(is_reported)
        assert services.indexer.stats.polls["one", "server-error"] >= 1
        good = await poll_of(services)
        assert good.ended, "the last successful poll is still known"

        async def is_stale() -> bool:
            return not (await services.registry.show("one"))["coverage"]["covered"]

        await wait_until(is_stale, message="the last poll is too old")
        assert await outcome(services, OTHER) is Outcome.UNKNOWN
        server.add(id=ID)
        polls.fault = None
        after = await polled(services, since=good.ended or 0)
        assert after.error == ""
        assert (await services.registry.show("one"))["coverage"]["covered"] is True
        assert await outcome(services, ID) is Outcome.FOUND, "nothing was missed"
        assert await outcome(services, OTHER) is Outcome.ABSENT


async def test_a_moved_location_is_polled_from_its_own_start(
    server: StandIn, start_server: StartServer
) -> None:
    async with polled_location("memory:", server) as services:
        elsewhere = await start_server()
        await services.registry.patch("one", {"url": elsewhere.url})
        assert (await poll_of(services)).ended is None
        elsewhere.add(id=ID)

        async def found() -> bool:
            return await outcome(services, ID) is Outcome.FOUND

        await wait_until(found)


async def test_a_server_whose_listing_fails_is_polled(server: StandIn, switch: Switch) -> None:
    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_poll(request) or request.query.get("limit", "1") == "1":
            return await handler(request)
        return await on_pages(faults.status(500))(request, handler)

    switch.fault = fault
    async with indexing("memory:", **OFTEN) as services:
        await services.registry.put("one", {"url": server.url})
        await polled(services)
        server.add(id=ID)

        async def found() -> bool:
            return await outcome(services, ID) is Outcome.FOUND

        await wait_until(found)
        assert await outcome(services, OTHER) is Outcome.UNKNOWN
