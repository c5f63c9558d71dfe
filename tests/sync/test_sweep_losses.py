"""Listings that lack images: those that exist stay claimed, and the loss must be plausible."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable, ShrinkGuardTripped
from resolver.models import parse_id
from resolver.standin import StandIn
from tests.support import faults
from tests.support.backends import on_every_backend
from tests.support.faults import Fault, Switch, on_pages
from tests.support.sweeping import Sweeping
from tests.sync.conftest import StartServer


def without_images(ids: set[str]) -> Fault:
    return faults.images(lambda images: [image for image in images if image["id"] not in ids])


@pytest.mark.parametrize(
    "options",
    [{}, {"old": True}, {"v1": True, "v2": False}, {"page_cap": 10}, {"page_cap": 3}],
    ids=str,
)
async def test_images_missing_from_the_listing_but_present_stay_claimed(
    sweeping: Sweeping, start_server: StartServer, options: dict[str, Any]
) -> None:
    """Also on a server whose pages are smaller than a request about many ids."""
    switch = Switch()
    server = await start_server(middlewares=[switch.middleware], **options)
    server.fill(200, seed=6)
    server.add(hidden=not options.get("old") and not options.get("v1"))
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    everything = list(server.ids())
    deleted, left_out = set(everything[5:10]), set(everything[::8])
    for image_id in deleted:
        server.delete(image_id)
    switch.fault = on_pages(without_images(left_out))
    sweep = await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(everything) - deleted
    assert sweep.released == len(deleted)


async def test_a_sweep_starts_before_it_notices_what_redis_lost(
    sweeping: Sweeping, server: StandIn
) -> None:
    """If it seemed to have started after a loss, what was lost would seem to be claimed again."""
    location = await sweeping.register(server)
    watch = sweeping.index.server_watch
    losses, noticed_at = watch.losses, []

    async def noticing() -> int:
        noticed_at.append(time.time())
        return await losses()

    watch.losses = noticing  # type: ignore[method-assign]
    sweep = await sweeping.sweep(location)
    assert sweep.started is not None
    assert sweep.started <= noticed_at[0]


@pytest.mark.parametrize("answer", ["empty", "400", "too many", "junk"])
async def test_a_server_that_cannot_list_by_id_is_asked_about_each_image(
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
        "too many": faults.body(json.dumps({"images": [{"id": text} for text in everything]})),
    }
    incomplete = on_pages(without_images(set(everything[1:6])))

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "id" in request.query:
            return await answers.get(answer, faults.body("junk"))(request, handler)
        return await incomplete(request, handler)

    switch.fault = fault
    if answer == "junk":
        with pytest.raises(LocationUnavailable):
            await sweeping.sweep(location)
        assert await sweeping.claimed(location) == set(everything)
        return
    await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(everything[1:])


@pytest.mark.parametrize("code", [401, 403, 500, 300])
@pytest.mark.parametrize("options", [{"old": True}, {"v1": True, "v2": False}], ids=str)
async def test_an_unclear_answer_about_an_image_releases_nothing(
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


async def test_an_image_hidden_between_the_two_passes_stays_claimed(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    """It is on neither list: hidden during the first pass, and visible during the second."""
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


@on_every_backend
@pytest.mark.parametrize(
    ("images", "deleted", "guard", "is_plausible"),
    [
        (100, 20, 0.2, True),
        (100, 21, 0.2, False),
        (12, 10, 0.2, True),  # small clouds may change
        (12, 11, 0.2, False),
        (100, 11, 0.0, False),
        (100, 99, 1.0, True),
        (5, 5, 1.0, False),  # an empty listing must always be confirmed
        (1, 1, 0.2, False),
    ],
)
async def test_the_shrink_guard_stops_implausible_losses(
    sweeping: Sweeping, server: StandIn, images: int, deleted: int, guard: float, is_plausible: bool
) -> None:
    server.fill(images, seed=7)
    location = await sweeping.register(server, "guarded")
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)
    for image_id in list(server.ids())[:deleted]:
        server.delete(image_id)
    if not is_plausible:
        with pytest.raises(LocationUnavailable, match="sweep guarded --confirm-shrink") as caught:
            await sweeping.sweep(location, guard=guard)
        assert caught.value.problem_code == "shrink-guard"
        assert await sweeping.claimed(location) == before
    sweep = await sweeping.sweep(location, guard=guard, confirm_shrink=not is_plausible)
    assert sweep.released == deleted
    assert await sweeping.claimed(location) == set(server.ids())


@pytest.mark.parametrize(("images", "released", "deleted"), [(100, 15, 30), (60, 8, 60), (5, 4, 5)])
async def test_what_others_released_counts_towards_the_guard(
    sweeping: Sweeping, server: StandIn, images: int, released: int, deleted: int
) -> None:
    """A sweep alone would find few enough missing, since probes have released many before."""
    server.fill(images, seed=7)
    location = await sweeping.register(server)
    number, observations = location.number, sweeping.index.observations
    await sweeping.index.records.set_sweep(number, await sweeping.sweep(location))
    gone = list(server.ids())[:deleted]
    for image_id in gone:
        server.delete(image_id)
    for image_id in gone[:released]:
        assert await observations.record_absent(number, [parse_id(image_id)]) == 1
    before = await sweeping.claimed(location)
    with pytest.raises(LocationUnavailable, match=f"{released} of them released since") as caught:
        await sweeping.sweep(location)
    assert caught.value.problem_code == "shrink-guard"
    assert await sweeping.claimed(location) == before
    sweep = await sweeping.sweep(location, confirm_shrink=True)
    assert sweep.released == deleted - released
    assert await observations.released_since_sweep(number) == 0


async def test_restored_images_reset_the_shrink_guard(sweeping: Sweeping, server: StandIn) -> None:
    server.fill(20, seed=7)
    location = await sweeping.register(server)
    number, index = location.number, sweeping.index
    await index.records.set_sweep(number, await sweeping.sweep(location))
    images = [parse_id(image_id) for image_id in server.ids()]
    await index.observations.record_absent(number, images[:10])
    with pytest.raises(ShrinkGuardTripped):
        await index.observations.record_absent(number, images[10:])
    assert (await index.records.sweep(number)).guarded is not None
    sweep = await sweeping.sweep(location)
    assert (sweep.images, sweep.released, sweep.guarded) == (20, 0, None)
    await index.records.set_sweep(number, sweep)
    assert await index.observations.record_absent(number, images[10:11]) == 1


@on_every_backend
async def test_an_empty_page_in_the_middle_releases_nothing(
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
    # Even when this is confirmed, the server is asked about each image.
    assert (await sweeping.sweep(location, confirm_shrink=True)).released == 0
    assert await sweeping.claimed(location) == set(server.ids())
