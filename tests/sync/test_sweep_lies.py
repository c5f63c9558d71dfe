"""Listings that are wrong without an error status, and changes while a listing is read."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer
from resolver.models import Progress, parse_id
from resolver.standin import Caller
from resolver.sync.sweep import Sweeper
from tests.support import faults
from tests.support.faults import Fault, Switch, is_page
from tests.support.sweeping import Sweeping, doubt
from tests.sync.conftest import StartServer

TOKENS = {"admin": Caller("admin", admin=True), "member": Caller("demo")}


def at_page(number: int, answer: Fault) -> Fault:
    """Replaces the page with this number, counted over both passes."""
    seen = 0

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal seen
        if is_page(request):
            seen += 1
            if seen == number:
                return await answer(request, handler)
        return await handler(request)

    return fault


@pytest.mark.parametrize("page", range(2, 14))  # the first request asks for the supported filters
@pytest.mark.parametrize("how", [faults.cut, faults.status(503), faults.body('{"images": [')])
async def test_a_listing_cut_at_any_page_releases_nothing(
    sweeping: Sweeping, start_server: StartServer, page: int, how: Fault
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(100, seed=page)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    for image_id in list(server.ids())[:3]:
        server.delete(
            image_id
        )  # even these stay claimed until a listing has ended without an error
    before = await sweeping.claimed(location)
    switch.fault = at_page(page, how)
    with pytest.raises(LocationUnavailable):
        await sweeping.sweep(location)
    assert await sweeping.claimed(location) == before


@pytest.mark.parametrize("page", range(1, 13))
async def test_a_page_hidden_by_a_policy_loses_no_claims(
    sweeping: Sweeping, start_server: StartServer, page: int
) -> None:
    """An empty page ends a listing without an error; the images are still there when asked for."""
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(100, seed=page)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    switch.fault = at_page(page, faults.body('{"images": []}'))
    with contextlib.suppress(LocationUnavailable):
        assert (await sweeping.sweep(location)).released == 0
    assert await sweeping.claimed(location) == set(server.ids())


@pytest.mark.parametrize("images", [2, 8, 200])
async def test_the_listing_of_another_server_must_be_confirmed(
    sweeping: Sweeping, start_server: StartServer, images: int
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware])
    server.fill(images, seed=1)
    other = await start_server()
    other.fill(images, seed=2)
    location = await sweeping.register(server)
    await sweeping.sweep(location)

    async def answered_by_other(request: web.Request, _: Handler) -> web.StreamResponse:
        async with (
            aiohttp.ClientSession() as http,
            http.get(other.url + request.path_qs) as reply,
        ):
            return web.Response(
                status=reply.status, body=await reply.read(), content_type=reply.content_type
            )

    switch.fault = answered_by_other
    with pytest.raises(LocationUnavailable, match="--confirm-shrink"):
        await sweeping.sweep(location)
    assert await sweeping.claimed(location) >= set(server.ids())


@pytest.mark.parametrize("options", [{}, {"old": True}, {"v1": True, "v2": False}])
async def test_replacing_a_credential_by_a_limited_one_releases_nothing(
    sweeping: Sweeping,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.setenv("ONE_TOKEN", "admin")
    server = await start_server(tokens=TOKENS, **options)
    server.fill(100, seed=1)
    for number in range(9):  # fewer than the shrink guard notices
        server.add(name=f"private-{number}", visibility="private", owner="admin")
    location = await sweeping.register(server, auth={"token_env": "ONE_TOKEN"})
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)
    assert len(before) == 109
    monkeypatch.setitem(os.environ, "ONE_TOKEN", "member")
    sweep = await sweeping.sweep(location)
    assert (sweep.images, sweep.released) == (100, 0)
    assert await sweeping.claimed(location) == before
    assert doubt(location, sweep)


async def test_changes_during_a_sweep_are_never_undone(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    """Images are created, deleted and claimed by hand, before and behind the listing."""
    server = await start_server(page_cap=10)
    server.fill(200, seed=4)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    ids = list(server.ids())
    claims, number = sweeping.index.claims, location.number
    by_hand: set[str] = set()
    created: set[str] = set()
    page = 0

    async def report(progress: Progress) -> None:
        nonlocal page
        page += 1
        if page > 20:
            return
        # As with an event: the server changes, then the index.
        made = server.add(name=f"made-{page}").id
        created.add(made)
        await claims.claim(number, [parse_id(made)])
        gone = ids[(page * 37) % 200]
        if server.get(gone) and not server.get(gone).deleted:  # type: ignore[union-attr]
            server.delete(gone)
            await claims.release(number, [parse_id(gone)])
        # An operator claims images that the server does not list.
        for first in ("00", "ff"):
            text = f"{first}{page:06x}-0000-4000-8000-000000000000"
            by_hand.add(text)
            await sweeping.index.records.pin_claim(number, parse_id(text))
            await claims.claim(number, [parse_id(text)])

    glance = GlanceServer(sweeping.session, location)
    sweeper = Sweeper(sweeping.index, glance, await glance.versions(), sweeping.scopes, guard=0.2)
    await sweeper.run(report)
    claimed = await sweeping.claimed(location)
    assert created <= claimed
    assert by_hand <= claimed
    # A deleted image may have been on a page read before: the next sweep releases it.
    sweep = await sweeping.sweep(location, confirm_shrink=True)
    assert await sweeping.claimed(location) == {image.id for image in server.images()}
    assert sweep.images == len(server)


async def test_a_claim_made_by_hand_outlives_sweeps_where_the_server_has_the_image(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    """The table in docs/disaster.md."""
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware])
    listed, hidden, nowhere = (str(uuid.UUID(int=n, version=4)) for n in range(3))
    server.add(id=listed)
    location = await sweeping.register(server)
    server.add(id=hidden)

    async def without_hidden(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if not is_page(request):
            return response
        assert isinstance(response, web.Response)
        page = json.loads(response.text or "")
        page["images"] = [row for row in page["images"] if row["id"] != hidden]
        return web.json_response(page)

    async def no_single_image(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_page(request):
            return web.Response(status=503)
        return await without_hidden(request, handler)

    for text in (listed, hidden, nowhere):
        await sweeping.index.claims.claim(location.number, [parse_id(text)])
    switch.fault = no_single_image
    with pytest.raises(LocationUnavailable):
        await sweeping.sweep(location, confirm_shrink=True)
    assert await sweeping.claimed(location) == {listed, hidden, nowhere}
    switch.fault = without_hidden
    await sweeping.sweep(location, confirm_shrink=True)
    assert await sweeping.claimed(location) == {listed, hidden}
