"""One poll: which changes it claims and releases, and where the next one begins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import Location, Poll, Sweep, format_id, parse_id
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS
from tests.support import faults
from tests.support.clouds import Hold
from tests.support.faults import Switch
from tests.support.ids import make_ids
from tests.support.polling import PollRecorder, is_poll
from tests.support.sweeping import Sweeping, is_held
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

ID, OTHER = [format_id(image_id) for image_id in make_ids(2)]
HOUR = 3600.0
OVERLAP = DEFAULT_TIMINGS.poll_overlap


class PolledLocation:
    """One location, polled without an indexer."""

    def __init__(self, sweeping: Sweeping, location: Location) -> None:
        self.sweeping = sweeping
        self.location = location
        self.last = Poll()
        self.sweep = Sweep(started=time.time(), ended=time.time(), sees_all=True)

    async def poll(self, ensure_held: Callable[[], Awaitable[None]] = is_held) -> Poll:
        self.last = await self.sweeping.poll(self.location, self.last, self.sweep, ensure_held)
        return self.last

    async def claimed(self) -> set[str]:
        return await self.sweeping.claimed(self.location)


@pytest.fixture
def polls(switch: Switch) -> PollRecorder:
    switch.fault = polls = PollRecorder()
    return polls


@pytest.fixture
async def polling(sweeping: Sweeping, server: StandIn, polls: PollRecorder) -> PolledLocation:
    return PolledLocation(sweeping, await sweeping.register(server))


async def test_every_kind_of_new_image_is_claimed(polling: PolledLocation, server: StandIn) -> None:
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
    polling = PolledLocation(sweeping, await sweeping.register(server))
    await polling.poll()
    ids = {
        server.add().id,
        server.add(visibility="private", owner="elsewhere").id,
        server.add(visibility="community", owner="elsewhere").id,
    }
    await polling.poll()
    assert await polling.claimed() == ids


async def test_old_images_that_changed_are_claimed(
    polling: PolledLocation, server: StandIn
) -> None:
    server.fill(30, seed=1)
    changed = next(server.ids())
    await polling.poll()
    assert await polling.claimed() == set(), "they are older than the poll"
    server.update(changed, name="new")
    await polling.poll()
    assert await polling.claimed() == {changed}


async def test_changes_on_several_pages_are_claimed(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    for options in ({}, {"v1": True, "v2": False}):
        server = await start_server(page_cap=7, **options)
        polling = PolledLocation(sweeping, await sweeping.register(server, f"l{len(options)}"))
        await polling.poll()
        ids = {server.add(hidden=not n % 3 and not options).id for n in range(40)}
        assert (await polling.poll()).claimed == 40
        assert await polling.claimed() == ids


@pytest.mark.parametrize("v2", [True, False])
async def test_deletions_that_v1_lists_are_released(
    sweeping: Sweeping, start_server: StartServer, v2: bool
) -> None:
    server = await start_server(v1=True, v2=v2, old=True)
    polling = PolledLocation(sweeping, await sweeping.register(server))
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
    assert await sweeping.claimed(other) == set(gone), "claims of other locations stay"


async def test_v2_alone_lists_no_deletions(polling: PolledLocation, server: StandIn) -> None:
    await polling.poll()
    text = server.add().id
    await polling.poll()
    server.delete(text)
    assert (await polling.poll()).released == 0
    assert await polling.claimed() == {text}


async def test_a_claim_pinned_by_an_operator_is_not_released(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(v1=True, v2=False)
    polling = PolledLocation(sweeping, await sweeping.register(server))
    server.add(id=ID)
    server.delete(ID)
    number = polling.location.number
    await sweeping.index.records.pin_claim(number, parse_id(ID))
    await sweeping.index.claims.claim(number, [parse_id(ID)])
    await polling.poll()
    assert await polling.claimed() == {ID}


async def test_the_first_poll_begins_at_the_start_of_the_sweep(
    polling: PolledLocation, polls: PollRecorder, server: StandIn
) -> None:
    begun = time.time() - 500
    polling.sweep = Sweep(started=begun, ended=begun + 100, sees_all=True)
    within = server.add(created=begun + 50).id
    server.add(created=begun - OVERLAP - 10)
    await polling.poll()
    assert await polling.claimed() == {within}
    assert begun - OVERLAP - 3 <= polls.since[0] <= begun - OVERLAP


async def test_each_poll_overlaps_the_last_one(
    polling: PolledLocation, polls: PollRecorder, server: StandIn
) -> None:
    first = await polling.poll()
    assert time.time() - 2 <= first.mark <= time.time()
    late = server.add(
        created=first.mark - OVERLAP + 2
    ).id  # with the time of the last poll, but visible only now
    early = server.add(created=first.mark - OVERLAP - 5).id
    await polling.poll()
    assert polls.since[1] == int(first.mark - OVERLAP)
    assert await polling.claimed() == {late}
    assert early not in await polling.claimed()


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
async def test_polls_use_the_clock_of_the_server(
    polling: PolledLocation, polls: PollRecorder, server: StandIn, shift: float
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


async def test_changes_after_the_server_clock_is_set_back_are_read(
    polling: PolledLocation, server: StandIn
) -> None:
    """By the new time the last poll lies in the future. Later changes are still read."""
    now = time.time()
    polling.last = Poll(ended=now - 40, mark=now + HOUR)
    new = server.add(created=now - 30).id
    await polling.poll()
    assert await polling.claimed() == {new}
    assert abs(polling.last.mark - now) < 3


async def test_without_a_valid_date_header_our_clock_is_used(
    polling: PolledLocation, server: StandIn, switch: Switch
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


async def test_a_failed_poll_is_repeated_from_the_same_time(
    polling: PolledLocation, polls: PollRecorder, server: StandIn
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
    assert len(set(polls.since[1:])) == 1, "from the same time"


@pytest.mark.parametrize("fault", ["400", "403", "404", "500", "a page", "repeat"])
@pytest.mark.parametrize("v1", [False, True])
async def test_an_invalid_listing_fails_the_poll(
    sweeping: Sweeping, start_server: StartServer, switch: Switch, fault: str, v1: bool
) -> None:
    switch.fault = polls = PollRecorder()
    server = await start_server(v1=v1, v2=not v1, page_cap=3, middlewares=[switch.middleware])
    polling = PolledLocation(sweeping, await sweeping.register(server))
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


async def test_an_image_deleted_while_its_page_is_on_the_way_is_not_claimed(
    polling: PolledLocation, polls: PollRecorder, server: StandIn
) -> None:
    await polling.poll()
    for text in (ID, OTHER):
        server.add(id=text)
    polls.fault = hold = Hold(is_poll, responses=True)
    going = asyncio.create_task(polling.poll())
    await wait_until(lambda: hold.waiting, message="the page is made and not here yet")
    server.delete(ID)
    await polling.sweeping.index.observations.record_absent(polling.location.number, [parse_id(ID)])
    hold.open.set()
    await going
    assert await polling.claimed() == {OTHER}


async def test_an_image_deleted_between_page_and_claim_is_not_claimed(
    polling: PolledLocation, server: StandIn
) -> None:
    await polling.poll()
    server.add(id=ID)

    async def delete_meanwhile() -> None:
        absent = [parse_id(ID)]
        await polling.sweeping.index.observations.record_absent(polling.location.number, absent)

    after = await polling.poll(delete_meanwhile)
    assert (after.images, after.claimed) == (1, 0)
    assert await polling.claimed() == set()
