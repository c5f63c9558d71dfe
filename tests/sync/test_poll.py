"""Polls: what changed at a location since the last, read often and written once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.glance import GlanceServer
from resolver.index import Index
from resolver.models import Location, Outcome, Poll, Sweep, format_id, parse_id
from resolver.resolution import Preferences
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync.poll import OVERLAP, poll
from tests.support import faults
from tests.support.clouds import Hold
from tests.support.faults import Fault, Switch, on_pages
from tests.support.ids import make_ids
from tests.support.indexing import SETTINGS, indexing, swept, ticks
from tests.support.redis import RedisServer
from tests.support.sweeping import Sweeping
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

ID, OTHER, THIRD = [format_id(image_id) for image_id in make_ids(3)]
HOUR = 3600.0
OFTEN: dict[str, Any] = {"poll_interval": 0.2, "health_interval": 3600}


def is_poll(request: web.Request) -> bool:
    """A page of what changed, rather than a question what the server knows."""
    query = request.query
    return "changes-since" in query or ("updated_at" in query and query.get("limit") != "1")


class Polls:
    """Notes the pages of polls that a server is asked for, and shifts its clock."""

    def __init__(self, shift: float = 0.0) -> None:
        self.since: list[float] = []
        """What each first page asked for, in the server's time."""
        self.shift = shift
        self.fault: Fault | None = None

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_poll(request):
            query = request.query
            moment = query.get("changes-since") or query["updated_at"].removeprefix("gte:")
            if "marker" not in query and query.get("os_hidden") != "true":
                self.since.append(datetime.fromisoformat(moment).timestamp())
            if self.fault is not None:
                return await self.fault(request, handler)
        response = await handler(request)
        now = datetime.fromtimestamp(time.time() + self.shift, UTC)
        response.headers["Date"] = format_datetime(now, usegmt=True)
        return response


async def nothing() -> None:
    pass


class Polling:
    """One location, polled without an indexer."""

    def __init__(self, sweeping: Sweeping, location: Location) -> None:
        self.sweeping = sweeping
        self.location = location
        self.last = Poll()
        self.sweep = Sweep(started=time.time(), ended=time.time(), sees_all=True)

    async def poll(self) -> Poll:
        server = GlanceServer(self.sweeping.session, self.location)
        versions = await server.versions()
        self.last = await poll(
            self.sweeping.index, server, versions, self.last, self.sweep, nothing
        )
        return self.last

    async def claimed(self) -> set[str]:
        return await self.sweeping.claimed(self.location)


@pytest.fixture
def polls(switch: Switch) -> Polls:
    switch.fault = polls = Polls()
    return polls


@pytest.fixture
async def polling(sweeping: Sweeping, server: StandIn, polls: Polls) -> Polling:
    return Polling(sweeping, await sweeping.register(server))


async def test_every_kind_of_new_image_is_claimed(polling: Polling, server: StandIn) -> None:
    await polling.poll()
    ids = {
        server.add().id,
        server.add(visibility="private", owner="elsewhere").id,
        server.add(visibility="community", owner="elsewhere").id,
        server.add(hidden=True).id,
        server.add(hidden=True, visibility="community", owner="elsewhere").id,
        server.add(status="queued", data=b"").id,
        server.add(id=ID.upper()).id,
    }
    after = await polling.poll()
    assert await polling.claimed() == ids
    assert (after.images, after.claimed, after.released) == (len(ids), len(ids), 0)


@pytest.mark.parametrize("options", [{"old": True}, {"v1": True, "old": True}])
async def test_new_images_of_an_old_server(
    sweeping: Sweeping, start_server: StartServer, options: dict[str, Any]
) -> None:
    server = await start_server(**options)
    polling = Polling(sweeping, await sweeping.register(server))
    await polling.poll()
    ids = {
        server.add().id,
        server.add(visibility="private", owner="elsewhere").id,
        server.add(visibility="community", owner="elsewhere").id,
    }
    await polling.poll()
    assert await polling.claimed() == ids


async def test_old_images_that_changed_are_claimed(polling: Polling, server: StandIn) -> None:
    server.fill(30, seed=1)
    changed = next(server.ids())
    await polling.poll()
    assert await polling.claimed() == set(), "they are older than the poll"
    server.update(changed, name="new")
    await polling.poll()
    assert await polling.claimed() == {changed}


async def test_more_changes_than_a_page_has(sweeping: Sweeping, start_server: StartServer) -> None:
    for options in ({}, {"v1": True, "v2": False}):
        server = await start_server(page_cap=7, **options)
        polling = Polling(sweeping, await sweeping.register(server, f"l{len(options)}"))
        await polling.poll()
        ids = {server.add(hidden=not n % 3 and not options).id for n in range(40)}
        assert (await polling.poll()).claimed == 40
        assert await polling.claimed() == ids


@pytest.mark.parametrize("v2", [True, False])
async def test_deletions_that_v1_tells_of_are_released(
    sweeping: Sweeping, start_server: StartServer, v2: bool
) -> None:
    server = await start_server(v1=True, v2=v2, old=True)
    polling = Polling(sweeping, await sweeping.register(server))
    await polling.poll()
    kept = server.add().id
    gone = [server.add().id, server.add(visibility="private", owner="elsewhere").id]
    await polling.poll()
    assert await polling.claimed() == {kept, *gone}
    other = await sweeping.register(server, "other")
    await sweeping.index.claims.claim(other.number, [parse_id(text) for text in gone])
    for text in gone:
        server.delete(text)
    after = await polling.poll()
    assert after.released == len(gone)
    assert await polling.claimed() == {kept}
    assert await sweeping.claimed(other) == set(gone), "another's claims are its own"


async def test_v2_alone_tells_no_deletions(polling: Polling, server: StandIn) -> None:
    await polling.poll()
    text = server.add().id
    await polling.poll()
    server.delete(text)
    assert (await polling.poll()).released == 0
    assert await polling.claimed() == {text}


async def test_what_an_operator_claimed_is_left(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(v1=True, v2=False)
    polling = Polling(sweeping, await sweeping.register(server))
    server.add(id=ID)
    server.delete(ID)
    number = polling.location.number
    await sweeping.index.records.pin_claim(number, parse_id(ID))
    await sweeping.index.claims.claim(number, [parse_id(ID)])
    await polling.poll()
    assert await polling.claimed() == {ID}


async def test_the_first_poll_begins_where_the_sweep_began(
    polling: Polling, polls: Polls, server: StandIn
) -> None:
    begun = time.time() - 500
    polling.sweep = Sweep(started=begun, ended=begun + 100, sees_all=True)
    within = server.add(created=begun + 50).id
    server.add(created=begun - OVERLAP - 10)
    await polling.poll()
    assert await polling.claimed() == {within}
    assert begun - OVERLAP - 3 <= polls.since[0] <= begun - OVERLAP


async def test_each_begins_somewhat_before_where_the_last_ended(
    polling: Polling, polls: Polls, server: StandIn
) -> None:
    first = await polling.poll()
    assert time.time() - 2 <= first.mark <= time.time()
    late = server.add(created=first.mark - OVERLAP + 2).id  # stamped then, visible now
    early = server.add(created=first.mark - OVERLAP - 5).id
    await polling.poll()
    assert polls.since[1] == int(first.mark - OVERLAP)
    assert await polling.claimed() == {late}
    assert early not in await polling.claimed()


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
async def test_the_server_s_clock_counts(
    polling: Polling, polls: Polls, server: StandIn, shift: float
) -> None:
    polls.shift = shift
    polling.sweep = Sweep(started=time.time() - 10, ended=time.time(), sees_all=True)
    during = server.add(created=time.time() + shift - 5).id
    first = await polling.poll()
    assert abs(first.mark - (time.time() + shift)) < 3
    assert await polling.claimed() == {during}
    new = server.add(created=time.time() + shift).id
    old = server.add(created=time.time() + shift - 300).id
    await polling.poll()
    assert await polling.claimed() == {during, new}
    assert old not in await polling.claimed()


async def test_a_server_whose_clock_is_set_back(polling: Polling, server: StandIn) -> None:
    """By its new time the last poll lies ahead. What has changed since is read all the same."""
    now = time.time()
    polling.last = Poll(ended=now - 40, mark=now + HOUR)
    new = server.add(created=now - 30).id
    await polling.poll()
    assert await polling.claimed() == {new}
    assert abs(polling.last.mark - now) < 3


async def test_a_server_that_does_not_tell_the_time(
    polling: Polling, server: StandIn, switch: Switch
) -> None:
    async def timeless(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Date"] = "soon"
        return response

    switch.fault = timeless
    first = await polling.poll()
    assert abs(first.mark - time.time()) < 3
    new = server.add().id
    await polling.poll()
    assert await polling.claimed() == {new}


async def test_what_fails_half_way_is_read_again(
    polling: Polling, polls: Polls, server: StandIn
) -> None:
    first = await polling.poll()
    ids = {server.add().id, server.add(hidden=True).id}

    async def visible_only(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query.get("os_hidden"):
            return await faults.status(503)(request, handler)
        return await handler(request)

    polls.fault = visible_only
    with pytest.raises(Exception, match="503"):
        await polling.poll()
    polls.fault = None
    assert polling.last is first
    await polling.poll()
    assert await polling.claimed() == ids
    assert len(set(polls.since[1:])) == 1, "from the same moment"


@pytest.mark.parametrize("fault", ["400", "403", "404", "500", "a page", "repeat"])
@pytest.mark.parametrize("v1", [False, True])
async def test_what_is_no_listing_claims_and_releases_nothing(
    sweeping: Sweeping, start_server: StartServer, switch: Switch, fault: str, v1: bool
) -> None:
    switch.fault = polls = Polls()
    server = await start_server(v1=v1, v2=not v1, page_cap=3, middlewares=[switch.middleware])
    polling = Polling(sweeping, await sweeping.register(server))
    await polling.poll()
    for _ in range(10):
        server.add()
    polls.fault = {
        "a page": faults.body("<h1>Welcome</h1>"),
        "repeat": faults.repeat,
    }.get(fault) or faults.status(int(fault))
    async with asyncio.timeout(10):
        with pytest.raises(Exception, match=r"answer|listing|JSON|repeats"):
            await polling.poll()


async def test_an_image_deleted_while_its_listing_was_under_way(
    polling: Polling, polls: Polls, server: StandIn
) -> None:
    await polling.poll()
    for text in (ID, OTHER):
        server.add(id=text)
    polls.fault = hold = Hold(is_poll, answers=True)
    going = asyncio.create_task(polling.poll())
    await wait_until(lambda: hold.waiting, message="the page is made and not here yet")
    server.delete(ID)
    await polling.sweeping.index.observations.record_absent(polling.location.number, [parse_id(ID)])
    hold.open.set()
    await going
    assert await polling.claimed() == {OTHER}


async def test_an_image_deleted_between_page_and_claim(
    polling: Polling, server: StandIn, index: Index
) -> None:
    await polling.poll()
    server.add(id=ID)
    claim = index.claims.claim

    async def crossing(number: int, ids: Any) -> int:
        if list(ids):
            await index.observations.record_absent(number, list(ids))
        return await claim(number, ids)

    index.claims.claim = crossing  # type: ignore[method-assign]
    after = await polling.poll()
    assert after.claimed == 0
    assert await polling.claimed() == set()


# With an indexer


async def poll_of(services: Services, name: str = "one") -> Poll:
    record = (await services.index.records.load()).records[name]
    return await services.index.records.poll(record.location.number)


async def polled(services: Services, name: str = "one", *, since: float = 0) -> Poll:
    """The last poll, once one has ended well since then."""

    async def done() -> Poll | None:
        last = await poll_of(services, name)
        return last if (last.ended or 0) > since and not last.error else None

    found: Poll = await wait_until(done, message=f"{name} is polled")
    return found


async def outcome(services: Services, text: str) -> Outcome:
    return (await services.resolver.resolve(parse_id(text), Preferences())).outcome


@asynccontextmanager
async def polled_location(url: str, server: StandIn, **settings: Any) -> AsyncIterator[Services]:
    """An indexer at work, whose one location was swept and polled."""
    async with indexing(url, **OFTEN | settings) as services:
        await services.registry.put("one", {"url": server.url})
        await swept(services, "one")
        await polled(services, since=time.time())
        yield services


async def test_polls_come_by_themselves(index_url: str, server: StandIn) -> None:
    async with polled_location(index_url, server) as services:
        server.add(id=ID)

        async def found() -> bool:
            return await outcome(services, ID) is Outcome.FOUND

        await wait_until(found)
        await wait_until(lambda: services.indexer.stats.polls["one", "ok"] >= 2)
        assert services.indexer.stats.sweeps == {("one", "ok"): 1}
        coverage = (await services.registry.show("one"))["coverage"]
        assert coverage["poll"].endswith("s ago")


async def test_polls_that_are_off(server: StandIn, polls: Polls) -> None:
    async with indexing("memory:", poll_interval=0) as services:
        await services.registry.put("one", {"url": server.url})
        await swept(services, "one")
        await ticks(services.indexer, 3)
        assert polls.since == []
        assert (await services.registry.show("one"))["coverage"]["poll"] == "off"


async def test_polls_that_tell_nothing_new_are_no_new_version(
    index_url: str, server: StandIn
) -> None:
    async with polled_location(index_url, server) as services:
        version = (await services.index.claims.lookup([])).version
        for _ in range(3):
            await polled(services, since=time.time())
        assert (await services.index.claims.lookup([])).version == version


@pytest.mark.redis
async def test_what_is_known_is_not_written_again(
    redis_server: RedisServer, redis_url: str, server: StandIn
) -> None:
    """Not by the overlap of polls, nor by another indexer that comes after."""
    with redis_server.client() as client:
        watch = client.pubsub(ignore_subscribe_messages=True)
        async with polled_location(redis_url, server) as services:
            for _ in range(20):
                server.add()

            async def claimed() -> bool:
                return (await services.index.claims.census()).images == 20

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
            told = await wait_until(watch.get_message, message="a new claim is a write")
        client.config_set("notify-keyspace-events", "")
        watch.close()
    assert told["data"] == b"hset"


async def test_another_process_goes_on_where_one_ended(
    redis_url: str, server: StandIn, polls: Polls
) -> None:
    async with polled_location(redis_url, server):
        pass
    async with open_services(Settings(redis_url=redis_url, **SETTINGS)) as services:
        last = await poll_of(services)
    server.add(id=ID, created=last.mark + 1)
    polls.since.clear()
    async with indexing(redis_url, **OFTEN) as services:
        await polled(services, since=last.ended or 0)
        assert polls.since[0] == int(last.mark - OVERLAP)
        assert await outcome(services, ID) is Outcome.FOUND


async def test_two_indexers_poll_once(redis_url: str, server: StandIn, polls: Polls) -> None:
    slow = {"poll_interval": 3600}
    async with indexing(redis_url, **slow) as one, indexing(redis_url, **slow) as two:
        await one.registry.put("one", {"url": server.url})
        await polled(one)
        for services in (one, two):
            await ticks(services.indexer, 3)
        assert len(polls.since) == 1
        done = [services.indexer.stats.polls.get(("one", "ok"), 0) for services in (one, two)]
        assert sorted(done) == [0, 1]


async def test_polls_that_fail_are_told_and_recovered_from(
    index_url: str, server: StandIn, polls: Polls
) -> None:
    async with polled_location(index_url, server) as services:
        polls.fault = faults.status(500)

        async def told() -> bool:
            coverage = (await services.registry.show("one"))["coverage"]
            return "the latest failed (server-error)" in coverage["poll"]

        await wait_until(told)
        assert services.indexer.stats.polls["one", "server-error"] >= 1
        good = await poll_of(services)
        assert good.ended, "when the last good one was is still known"

        async def doubted() -> bool:
            return not (await services.registry.show("one"))["coverage"]["covered"]

        await wait_until(doubted, message="for three intervals nothing was read")
        assert await outcome(services, OTHER) is Outcome.UNKNOWN
        server.add(id=ID)
        polls.fault = None
        after = await polled(services, since=good.ended or 0)
        assert after.error == ""
        assert (await services.registry.show("one"))["coverage"]["covered"] is True
        assert await outcome(services, ID) is Outcome.FOUND, "nothing was missed"
        assert await outcome(services, OTHER) is Outcome.ABSENT


async def test_a_moved_location_is_polled_from_its_own_beginning(
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


async def test_pages_of_a_poll_are_no_sweep(server: StandIn, switch: Switch) -> None:
    """A server whose whole listing fails is polled all the same."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_poll(request) or request.query.get("limit") == "1":
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
