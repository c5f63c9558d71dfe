"""Asking locations about single images, and whether a 404 of theirs proves absence."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.glance import CloudCredentials, ImageProbe, RateLimits, ScopeCache, connect
from resolver.models import Location, letter_case_of, parse_id
from resolver.standin import StandIn
from resolver.standin.call import Caller
from tests.support import faults
from tests.support.clouds import Hold, is_image_request
from tests.support.faults import Switch
from tests.support.wait import wait_until

UPPER_ID = "0A1B2C3D-4E5F-4A6B-8C7D-9E0F1A2B3C4D"
IMAGE_ID = parse_id(UPPER_ID)
UPPER = letter_case_of(UPPER_ID)
V2 = ("v2.15",)
TOKEN_ENV = "GLANCE_TOKEN"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with connect(5) as session:
        yield session


@pytest.fixture
def scopes() -> ScopeCache:
    return ScopeCache()


@pytest.fixture
def probe(session: aiohttp.ClientSession, scopes: ScopeCache) -> ImageProbe:
    return ImageProbe(session, CloudCredentials(), RateLimits(), scopes)


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
async def server(switch: Switch) -> AsyncIterator[StandIn]:
    async with StandIn(
        middlewares=[switch.middleware],
        tokens={"strong": Caller("admin", admin=True), "weak": Caller("demo")},
    ) as server:
        yield server


@pytest.fixture
def location(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setenv(TOKEN_ENV, "strong")
    return Location(name="one", url=server.url, number=1, auth={"token_env": TOKEN_ENV})


def count_image_requests(server: StandIn) -> int:
    return server.requests["GET", "image"]


async def test_an_image_is_found_under_the_first_spelling_that_the_server_has(
    probe: ImageProbe, server: StandIn, location: Location
) -> None:
    server.add(id=UPPER_ID)
    answer = await probe.ask(location, V2, IMAGE_ID, (0, UPPER, 0))
    assert answer.letter_case == UPPER
    assert count_image_requests(server) == 2
    assert (await probe.ask(location, V2, IMAGE_ID, (UPPER, 0))).letter_case == UPPER
    assert count_image_requests(server) == 3, "the other spelling is not asked for"


async def test_each_spelling_is_asked_for_once_before_the_answer_is_no(
    probe: ImageProbe, server: StandIn, location: Location
) -> None:
    assert (await probe.ask(location, V2, IMAGE_ID, (0, 0, UPPER, 0))).letter_case is None
    assert count_image_requests(server) == 2


async def test_a_server_that_gives_no_clear_answer_raises(
    probe: ImageProbe, switch: Switch, location: Location
) -> None:
    async def proxy_without_glance(_: web.Request, __: Handler) -> web.StreamResponse:
        return web.Response(status=404, text="404 page not found")

    async def another_service(request: web.Request, _: Handler) -> web.StreamResponse:
        """A balancer leads to another service of OpenStack, whose requests have ids too."""
        headers = {"X-Openstack-Request-Id": "req-0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"}
        if request.path in ("/", "/versions"):
            return web.json_response({"versions": [{"id": "v2.1"}]}, headers=headers)
        fault = {"itemNotFound": {"code": 404, "message": "The resource could not be found."}}
        return web.json_response(fault, status=404, headers=headers)

    for fault, code in (
        (faults.status(503), "server-error"),
        (another_service, "not-glance"),
        (faults.status(403), "no-clear-answer"),
        (proxy_without_glance, "not-glance"),
    ):
        switch.fault = fault
        with pytest.raises(LocationUnavailable) as caught:
            await probe.ask(location, V2, IMAGE_ID, (0,))
        assert caught.value.problem_code == code


async def test_one_check_of_a_credential_serves_all_earlier_responses(
    probe: ImageProbe, server: StandIn, location: Location
) -> None:
    answers = [await probe.ask(location, V2, IMAGE_ID, (0,)) for _ in range(3)]
    scopes = await asyncio.gather(*(probe.scope(location, V2, answer) for answer in answers))
    assert [scope.sees_all for scope in scopes] == [True] * 3
    assert server.requests["GET", "tasks"] == 1


async def test_a_check_from_before_the_answer_proves_nothing(
    probe: ImageProbe, server: StandIn, location: Location
) -> None:
    """A credential may lose its rights at any time."""
    tokens = server.tokens = dict(server.tokens or {})
    assert (await probe.scope(location, V2, await probe.ask(location, V2, IMAGE_ID, (0,)))).sees_all
    tokens["strong"] = Caller("demo")
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    scope = await probe.scope(location, V2, answer)
    assert (scope.sees_all, scope.why) == (False, "it may not list tasks, which is for admins")


async def test_a_check_with_another_credential_proves_nothing(
    probe: ImageProbe, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_ENV, "weak")
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    monkeypatch.setenv(TOKEN_ENV, "strong")
    with pytest.raises(LocationUnavailable, match="replaced"):
        await probe.scope(location, V2, answer)


async def test_a_server_without_credentials_is_checked_once(
    probe: ImageProbe, location: Location
) -> None:
    async with StandIn() as server:
        open_location = replace(location, url=server.url, auth=None)
        for _ in range(3):
            answer = await probe.ask(open_location, V2, IMAGE_ID, (0,))
            assert (await probe.scope(open_location, V2, answer)).sees_all
        assert server.requests["GET", "tasks"] == 1


async def test_a_changed_location_has_its_scope_checked_again(
    probe: ImageProbe, server: StandIn, location: Location
) -> None:
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    assert (await probe.scope(location, V2, answer)).sees_all is True
    changed = replace(location, sees_all=False, updated=location.updated + 1)
    assert (await probe.scope(changed, V2, answer)).sees_all is False
    assert server.requests["GET", "tasks"] == 1


async def test_a_scope_that_cannot_be_read_raises(
    probe: ImageProbe, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    monkeypatch.delenv(TOKEN_ENV)
    with pytest.raises(LocationUnavailable) as caught:
        await probe.scope(location, V2, answer)
    assert caught.value.problem_code == "no-credential"


async def test_a_check_that_takes_longer_than_a_probe_serves_the_next_one(
    probe: ImageProbe, server: StandIn, switch: Switch, location: Location
) -> None:
    """Otherwise no image would ever be absent at a slow server."""
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request, handler: Handler) -> web.StreamResponse:
        reached.set()
        await goes_on.wait()
        return await handler(request)

    switch.fault = slow
    impatient = asyncio.create_task(probe.scope(location, V2, answer))
    await reached.wait()
    impatient.cancel()
    goes_on.set()
    assert (await probe.scope(location, V2, answer)).sees_all is True
    assert server.requests["GET", "tasks"] == 1


async def test_closing_ends_a_check_under_way(
    probe: ImageProbe, scopes: ScopeCache, switch: Switch, location: Location
) -> None:
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    hold = Hold(lambda _: True)
    switch.fault = hold
    waiting = asyncio.create_task(probe.scope(location, V2, answer))
    await wait_until(lambda: hold.waiting == 1)
    await scopes.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    hold.open.set()


async def test_an_answer_that_comes_as_a_check_ends_is_checked_again(
    probe: ImageProbe, server: StandIn, location: Location
) -> None:
    """In each turn of the loop another answer comes, so that one comes in the turn in which a check
    is done and still remembered. It is too new for that check."""
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    callers: list[asyncio.Task[Any]] = []
    with seconds_at_most(5):
        while sum(caller.done() for caller in callers) < 20:
            newest = replace(answer, at=time.monotonic())
            callers.append(asyncio.create_task(probe.scope(location, V2, newest)))
            await asyncio.sleep(0)
        scopes = await asyncio.gather(*callers)
    assert all(scope.sees_all for scope in scopes)


@contextmanager
def seconds_at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError after this time again and again, also where one coroutine after the
    other never ends its turn of the loop."""

    def end(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("body", [b"", b"<h1>Not Found</h1>", b'{"code": "IMG.0027"}'])
async def test_a_404_with_another_text_counts_if_the_server_lists_images(
    probe: ImageProbe, switch: Switch, location: Location, body: bytes
) -> None:
    """Servers that resemble Glance may not name the image."""

    async def in_other_words(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_image_request(request):
            return web.Response(status=404, body=body)
        return await handler(request)

    switch.fault = in_other_words
    assert (await probe.ask(location, V2, IMAGE_ID, (0,))).letter_case is None


async def test_a_404_of_another_service_proves_nothing(
    probe: ImageProbe, switch: Switch, location: Location
) -> None:
    """Not even where it has Glance's header and the credential's proof was cached."""
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    assert (await probe.scope(location, V2, answer)).sees_all

    async def tasks_of_another_service(
        request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        if request.path.startswith("/v2/tasks"):
            return web.Response(status=404, headers={"X-Openstack-Request-Id": "req-1"})
        return await handler(request)

    switch.fault = tasks_of_another_service
    assert (await probe.scope(location, V2, replace(answer, at=time.monotonic()))).sees_all is None


async def test_a_scope_read_without_known_versions_is_read_again(
    probe: ImageProbe, location: Location
) -> None:
    answer = await probe.ask(location, V2, IMAGE_ID, (0,))
    assert (await probe.scope(location, (), answer)).sees_all is None
    assert (await probe.scope(location, V2, answer)).sees_all is True
