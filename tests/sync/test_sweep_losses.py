"""Listings that lack what the index has: what is there is kept, the rest must be believable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.standin import StandIn
from tests.support import faults
from tests.support.faults import Fault, Switch, on_pages
from tests.support.sweeping import Sweeping
from tests.sync.conftest import StartServer


def left_out(ids: set[str]) -> Fault:
    return faults.images(lambda images: [i for i in images if i["id"] not in ids])


@pytest.mark.parametrize(
    "options",
    [{}, {"old": True}, {"v1": True, "v2": False}, {"page_cap": 10}, {"page_cap": 3}],
    ids=str,
)
async def test_what_is_left_out_but_still_there_is_kept(
    sweeping: Sweeping, start_server: StartServer, options: dict[str, Any]
) -> None:
    """Also on a server whose pages are smaller than the question about many at once."""
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], **options)
    server.fill(200, seed=6)
    server.add(hidden=not options.get("old") and not options.get("v1"))
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    everything = list(server.ids())
    gone, hushed = set(everything[5:10]), set(everything[::8])
    for image_id in gone:
        server.delete(image_id)
    switch.fault = on_pages(left_out(hushed))
    sweep = await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(everything) - gone
    assert sweep.released == len(gone)


@pytest.mark.parametrize("answer", ["empty", "400", "too many", "junk"])
async def test_a_server_that_does_not_understand_a_question_is_asked_one_by_one(
    sweeping: Sweeping, server: StandIn, switch: Switch, answer: str
) -> None:
    server.fill(100, seed=6)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    everything = list(server.ids())
    server.delete(everything[0])
    answers: dict[str, Fault] = {
        "empty": faults.status(200),
        "400": faults.status(400),
        "too many": faults.body(json.dumps({"images": [{"id": i} for i in everything]})),
    }
    hush = on_pages(left_out(set(everything[1:6])))

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "id" in request.query:
            return await answers.get(answer, faults.body("junk"))(request, handler)
        return await hush(request, handler)

    switch.fault = fault
    if answer == "junk":
        with pytest.raises(LocationUnavailable):
            await sweeping.sweep(location)
        assert await sweeping.claimed(location) == set(everything)
        return
    await sweeping.sweep(location)
    kept = set(everything) if answer == "too many" else set(everything[1:])
    assert await sweeping.claimed(location) == kept, "what it says is there is kept"


@pytest.mark.parametrize("code", [401, 403, 500, 300])
@pytest.mark.parametrize("options", [{"old": True}, {"v1": True, "v2": False}], ids=str)
async def test_no_clear_answer_about_an_image_releases_nothing(
    sweeping: Sweeping, start_server: StartServer, options: dict[str, Any], code: int
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], **options)
    server.fill(40, seed=6)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)
    for image_id in list(server.ids())[:3]:
        server.delete(image_id)

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        single = len(request.path) > len("/v2/images/") and not request.path.endswith("/detail")
        return web.Response(status=code) if single else await handler(request)

    switch.fault = fault
    with pytest.raises(LocationUnavailable):
        await sweeping.sweep(location)
    assert await sweeping.claimed(location) == before


async def test_an_image_hidden_between_the_two_passes_is_kept(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    """It is on neither list: hidden when the first came to it, and not when the second did."""
    server.fill(50, seed=6)
    moved = server.add(visibility="public")
    location = await sweeping.register(server)
    await sweeping.sweep(location)

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if faults.is_page(request) and request.query["limit"] != "1":
            server.update(moved.id, hidden="os_hidden" not in request.query)
        return await handler(request)

    switch.fault = fault
    sweep = await sweeping.sweep(location)
    assert (sweep.images, sweep.released) == (50, 0)
    assert await sweeping.claimed(location) == set(server.ids())


# The shrink guard


@pytest.mark.parametrize(
    ("images", "deleted", "guard", "believed"),
    [
        (100, 20, 0.2, True),
        (100, 21, 0.2, False),
        (12, 10, 0.2, True),  # small clouds may change
        (12, 11, 0.2, False),
        (100, 11, 0.0, False),
        (100, 99, 1.0, True),
        (5, 5, 1.0, False),  # an empty listing always needs an operator's word
        (1, 1, 0.2, False),
    ],
)
async def test_the_shrink_guard(
    sweeping: Sweeping, server: StandIn, images: int, deleted: int, guard: float, believed: bool
) -> None:
    server.fill(images, seed=7)
    location = await sweeping.register(server, "guarded")
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)
    for image_id in list(server.ids())[:deleted]:
        server.delete(image_id)
    if not believed:
        with pytest.raises(LocationUnavailable, match="sweep guarded --confirm-shrink") as caught:
            await sweeping.sweep(location, guard=guard)
        assert caught.value.problem_code == "shrink-guard"
        assert await sweeping.claimed(location) == before
    sweep = await sweeping.sweep(location, guard=guard, confirm_shrink=not believed)
    assert sweep.released == deleted
    assert await sweeping.claimed(location) == set(server.ids())


async def test_an_empty_page_in_the_middle_is_no_end(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(100, seed=8)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    switch.fault = on_pages(faults.status(200), later=True)
    with pytest.raises(LocationUnavailable, match="lacks 90 where the index has 100"):
        await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(server.ids())
    # Even told to believe it, it asks for each.
    assert (await sweeping.sweep(location, confirm_shrink=True)).released == 0
    assert await sweeping.claimed(location) == set(server.ids())
