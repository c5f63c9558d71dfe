"""Rows of a listing that name no image: skipped, counted and named, and the rest stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.glance import parse_notice
from resolver.models import format_id
from resolver.standin import StandIn
from tests.support import faults
from tests.support.faults import Fault, Switch, is_page
from tests.support.ids import make_ids
from tests.support.sweeping import Sweeping, doubt
from tests.sync.conftest import StartServer

UNDASHED = "7c9e6679742540de944be07fc1f90ae7"
TEXT_IDS = ["17", "from before UUIDs", UNDASHED, "{7c9e6679-7425-40de-944b-e07fc1f90ae7}"]
"""Ids that a database may hold and a server lists; it finds each by exactly this text."""

ROWS_WITHOUT_ID: list[Any] = [
    None,
    "no row at all",
    7,
    [],
    {},
    {"id": None, "status": "active"},
    {"id": 17},
    {"id": {"uuid": "7c9e6679-7425-40de-944b-e07fc1f90ae7"}},
    {"id": ["7c9e6679-7425-40de-944b-e07fc1f90ae7"]},
    {"name": "without an id"},
]

V1 = {"v1": True, "v2": False}


def inserted(rows: list[Any], *, first: bool) -> Fault:
    """These rows at the beginning or at the end of each page that has rows."""

    def change(images: list[Any]) -> list[Any]:
        if not images:
            return images
        return [*rows, *images] if first else [*images, *rows]

    return faults.on_pages(faults.images(change))


@pytest.mark.parametrize("options", [{}, V1])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("row", ROWS_WITHOUT_ID, ids=json.dumps)
async def test_a_row_without_an_id_is_skipped_at_any_position(
    sweeping: Sweeping,
    start_server: StartServer,
    switch: Switch,
    row: Any,
    first: bool,
    options: dict[str, Any],
) -> None:
    server = await start_server(middlewares=[switch.middleware], page_cap=10, **options)
    server.fill(25, seed=3)
    location = await sweeping.register(server)
    switch.fault = inserted([row], first=first)
    sweep = await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(server.ids())
    assert (sweep.images, sweep.skipped) == (25, 3), "one in each of three pages"
    shown = row["id"] if isinstance(row, dict) and "id" in row else row
    assert json.dumps(shown) in sweep.skipped_examples
    assert doubt(location, sweep) == ""


@pytest.mark.parametrize("cap", [1, 2, 3, 100])
async def test_ids_that_are_no_uuids_do_not_end_the_listing(
    sweeping: Sweeping, start_server: StartServer, cap: int
) -> None:
    """With a page of one row, each of them is a page of its own, and its id the marker."""
    server = await start_server(page_cap=cap)
    server.fill(9, seed=4)
    expected = set(server.ids())
    for text in TEXT_IDS:
        server.add(id=text)
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    assert await sweeping.claimed(location) == expected
    assert (sweep.images, sweep.skipped) == (9, len(TEXT_IDS))
    for text in TEXT_IDS:
        assert json.dumps(text) in sweep.skipped_examples


async def test_a_sweep_with_skipped_rows_still_releases_what_is_gone(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(page_cap=2)
    server.fill(9, seed=4)
    server.add(id="17")
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    gone = next(iter(set(server.ids()) - {"17"}))
    server.delete(gone)
    assert (await sweeping.sweep(location)).released == 1
    assert gone not in await sweeping.claimed(location)


@pytest.mark.parametrize(
    "change",
    [
        faults.body('{"images": ["a"]}'),
        faults.body('{"images": [{"id": 5}]}'),
        faults.images(lambda images: [{"name": "x"} for _ in images]),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_a_listing_that_loses_its_ids_releases_no_present_image(
    sweeping: Sweeping, start_server: StartServer, switch: Switch, change: Fault, later: bool
) -> None:
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(50, seed=1)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    switch.fault = faults.on_pages(change, later=later)
    with pytest.raises(LocationUnavailable, match="--confirm-shrink"):
        await sweeping.sweep(location)
    await sweeping.sweep(location, confirm_shrink=True)  # it asks for each image all the same
    assert await sweeping.claimed(location) == set(server.ids())


async def test_a_listing_without_image_ids_has_no_images(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(page_cap=1)
    for number in range(7):
        server.add(id=str(number))
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    assert (sweep.images, sweep.skipped) == (0, 7)


async def test_the_link_to_the_next_page_leads_past_rows_without_an_id(
    sweeping: Sweeping, start_server: StartServer, switch: Switch
) -> None:
    server = await start_server(middlewares=[switch.middleware], page_cap=2)
    server.fill(6, seed=5)
    expected = set(server.ids())

    async def second_page_has_no_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if not is_page(request) or request.query.get("marker") != sorted(expected)[1]:
            return response
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        document = json.loads(response.body)
        return web.json_response({**document, "images": [None, {"id": None}]})

    switch.fault = second_page_has_no_ids
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    lost = set(sorted(expected)[2:4])
    assert await sweeping.claimed(location) == expected - lost
    assert sweep.skipped == 2


async def test_a_repeated_page_without_images_is_an_error(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    location = await sweeping.register(server)
    switch.fault = faults.on_pages(faults.body('{"images": [{"id": "17"}]}'))
    with pytest.raises(LocationUnavailable, match="repeats itself"):
        await sweeping.sweep(location)


async def test_endless_skipped_rows_are_an_error(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    location = await sweeping.register(server)

    async def answer(request: web.Request, _: Handler) -> web.StreamResponse:
        following = int(request.query.get("marker", "0")) + 1
        return web.json_response({"images": [{"id": str(following)}]})

    switch.fault = faults.on_pages(answer)
    with pytest.raises(LocationUnavailable, match="repeats itself"):
        await sweeping.sweep(location)


async def test_examples_of_skipped_rows_are_short(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    server.fill(3, seed=6)
    location = await sweeping.register(server)
    switch.fault = inserted([{"id": "x" * 100_000}, "y" * 100_000] * 50, first=True)
    sweep = await sweeping.sweep(location)
    assert sweep.skipped == 100
    assert len(sweep.skipped_examples) < 300


@pytest.mark.parametrize("options", [{}, V1])
async def test_a_poll_skips_rows_without_an_id(
    sweeping: Sweeping, start_server: StartServer, switch: Switch, options: dict[str, Any]
) -> None:
    server = await start_server(middlewares=[switch.middleware], **options)
    location = await sweeping.register(server)
    new = format_id(make_ids(1)[0])
    server.add(id=new)
    switch.fault = inserted([None, {"id": "17"}, {"id": UNDASHED}], first=False)
    result = await sweeping.poll(location)
    assert result.claimed == 1
    assert await sweeping.claimed(location) == {new}


@pytest.mark.parametrize(
    "image_id", [*TEXT_IDS, None, 17, {}, [], f"urn:uuid:{format_id(bytes(16))}"]
)
def test_a_notification_without_an_image_id_is_ignored(image_id: Any) -> None:
    event = {"event_type": "image.create", "payload": {"id": image_id, "status": "active"}}
    assert parse_notice(json.dumps(event).encode()) is None


async def test_images_too_large_for_a_page_are_listed_in_small_pages(
    sweeping: Sweeping, server: StandIn
) -> None:
    ids = {format_id(image_id) for image_id in make_ids(300)}
    for image_id in ids:
        server.add(id=image_id, name="x" * 60_000)  # 18 MB in all
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    assert not sweep.error
    assert await sweeping.claimed(location) == ids
