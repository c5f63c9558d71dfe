"""Faults of a server during a sweep release no image that still exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.glance import connect
from resolver.index import Index
from resolver.standin import Caller, StandIn
from tests.support import faults
from tests.support.faults import Switch, on_pages
from tests.support.sweeping import Sweeping
from tests.sync.conftest import StartServer


def strange_ids(images: list[Any]) -> list[Any]:
    return [{"id": "not-a-uuid"} for _ in images]


BAD = {
    "400": (faults.status(400), "bad-listing"),
    "401": (faults.status(401), "unauthorized"),
    "403": (faults.status(403), "bad-listing"),
    "404": (faults.status(404), "bad-listing"),
    "429": (faults.status(429), "rate-limited"),
    "500": (faults.status(500), "server-error"),
    "503": (faults.status(503), "server-error"),
    "300": (faults.status(300), "bad-listing"),
    "302": (faults.status(302, Location="/elsewhere"), "bad-listing"),
    "204": (faults.status(204), "bad-listing"),
    "cut": (faults.cut, "cut"),
    "html": (faults.body("<html>login</html>"), "junk"),
    "nothing": (faults.body(""), "junk"),
    "half": (faults.body('{"images": ['), "junk"),
    "deep": (faults.body("[" * 100_000), "junk"),
    "array": (faults.body("[]"), "junk"),
    "null": (faults.body('{"images": null}'), "junk"),
    "mapping": (faults.body('{"images": {}}'), "junk"),
    "strange ids": (faults.images(strange_ids), "bad-listing"),  # its marker is unknown: 400
}


@pytest.mark.parametrize("later", [False, True], ids=["first page", "later page"])
@pytest.mark.parametrize("name", BAD)
async def test_a_listing_that_fails_releases_nothing(
    sweeping: Sweeping, start_server: StartServer, name: str, later: bool
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(50, seed=1)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)
    server.delete(next(server.ids()))
    new = server.add(id="ffffffff-ffff-4fff-8fff-ffffffffffff")

    fault, code = BAD[name]
    switch.fault = on_pages(fault, later=later)
    for confirm in (False, True):  # a failure cannot be confirmed
        with pytest.raises(LocationUnavailable) as caught:
            await sweeping.sweep(location, confirm_shrink=confirm)
        assert caught.value.problem_code == code
        assert before <= await sweeping.claimed(location)

    switch.fault = None
    sweep = await sweeping.sweep(location)
    assert (sweep.released, new.id in await sweeping.claimed(location)) == (1, True)


@pytest.mark.parametrize("page", [10, 25])
async def test_a_page_that_repeats_itself_fails_the_sweep(
    sweeping: Sweeping, start_server: StartServer, page: int
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], page_cap=page)
    server.fill(50, seed=1)
    location = await sweeping.register(server)
    switch.fault = on_pages(faults.repeat)
    with pytest.raises(LocationUnavailable, match="repeats itself") as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "bad-listing"


async def test_a_server_that_does_not_answer_in_time_fails_the_sweep(
    index: Index, server: StandIn, switch: Switch
) -> None:
    server.fill(5, seed=1)
    async with connect(0.2) as session:
        sweeping = Sweeping(index, session)
        location = await sweeping.register(server)
        await sweeping.sweep(location)
        switch.fault = on_pages(faults.slow)
        with pytest.raises(LocationUnavailable, match="in time") as caught:
            await sweeping.sweep(location)
        assert caught.value.problem_code == "timeout"
        assert await sweeping.claimed(location) == set(server.ids())


async def test_a_server_that_cannot_be_reached_fails_the_sweep(
    sweeping: Sweeping, server: StandIn
) -> None:
    location = await sweeping.register(server)
    await server.stop()
    with pytest.raises(LocationUnavailable, match="cannot connect") as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "unreachable"


async def test_a_server_that_is_not_glance_fails_the_sweep(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(prefix="/image")
    location = await sweeping.register(server)
    server.prefix = "/elsewhere"
    with pytest.raises(LocationUnavailable, match=r"is .* the base URL of a Glance") as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "not-glance"


# Markers that are deleted while they are in use


@pytest.mark.parametrize("token", ["admin", "member"])
@pytest.mark.parametrize("lost", [1, 3, 5])
async def test_a_marker_that_is_deleted_is_replaced_by_an_earlier_one(
    sweeping: Sweeping,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    lost: int,
) -> None:
    """Glance answers 400 to it for all but admins."""
    monkeypatch.setenv("ONE_TOKEN", token)
    switch = Switch()
    tokens = {"admin": Caller("admin", admin=True), "member": Caller("demo")}
    server = await start_server(middlewares=[switch.middleware], tokens=tokens, page_cap=10)
    server.fill(45, seed=9)
    everything = list(server.ids())
    switch.fault = deleting(server, "marker", everything[10 - lost : 10])
    location = await sweeping.register(server, auth={"token_env": "ONE_TOKEN"}, sees_all=True)
    sweep = await sweeping.sweep(location)
    assert len(server) == 45 - lost, "they were deleted while they served as markers"
    assert sweep.images == 45
    assert await sweeping.claimed(location) == set(everything)
    switch.fault = None
    assert (await sweeping.sweep(location)).released == lost
    assert await sweeping.claimed(location) == set(server.ids())


def deleting(server: StandIn, when: str, ids: list[str]) -> Callable[..., Any]:
    """Deletes images just before the first request that has the parameter `when`."""
    left = list(ids)

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if when in request.query:
            while left:
                server.delete(left.pop())
        return await handler(request)

    return fault


async def test_the_sweep_fails_when_all_possible_markers_are_deleted(
    sweeping: Sweeping, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE_TOKEN", "member")
    switch = Switch()
    server = await start_server(
        middlewares=[switch.middleware], tokens={"member": Caller("demo")}, page_cap=10
    )
    server.fill(45, seed=9)
    switch.fault = deleting(server, "marker", list(server.ids())[:10])
    location = await sweeping.register(server, auth={"token_env": "ONE_TOKEN"}, sees_all=True)
    with pytest.raises(LocationUnavailable, match="answered 400") as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "bad-listing"
