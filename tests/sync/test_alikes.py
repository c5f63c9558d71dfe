"""Servers that resemble Glance: swept like Glance, or the status says in a sentence why not."""

from __future__ import annotations

import operator
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer, Resume, list_images, server_time
from resolver.models import Location, Poll, Sweep, parse_id
from resolver.standin import StandIn
from tests.support import faults
from tests.support.alikes import (
    all_of,
    ignores,
    lists_by,
    refuses,
    shuffled,
    takes_for_properties,
    versions_at_root,
)
from tests.support.faults import Fault, Switch
from tests.support.sweeping import Sweeping, doubt
from tests.sync.conftest import StartServer

V2 = ("v2.15",)


def document(*ids: str) -> dict[str, Any]:
    """A list of versions as public clouds have it: absolute links, to another host."""
    return {
        "versions": [
            {
                "id": version,
                "status": "SUPPORTED",
                "updated": "2021-04-01T08:00:00Z",
                "links": [{"rel": "self", "href": f"https://images.elsewhere.example/{version}/"}],
            }
            for version in ids
        ]
    }


async def versions_of(sweeping: Sweeping, server: StandIn, **fields: Any) -> tuple[str, ...]:
    location = Location(name="one", url=server.url, **fields)
    return await GlanceServer(sweeping.session, location).versions()


@pytest.mark.parametrize("status", [200, 300])
@pytest.mark.parametrize("elsewhere", [400, 401, 403, 404, 405, 500, 503])
async def test_versions_are_read_at_the_root_if_not_found_elsewhere(
    sweeping: Sweeping, server: StandIn, switch: Switch, status: int, elsewhere: int
) -> None:
    listed = document("v2.8", "v2.2", "v1.0")
    switch.fault = versions_at_root(listed, status, elsewhere)
    assert await versions_of(sweeping, server) == ("v2.8", "v2.2", "v1.0")


async def test_upper_case_versions_are_accepted(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    switch.fault = versions_at_root(document("V2.4", "V2.0"))
    assert await versions_of(sweeping, server) == ("v2.4", "v2.0")


async def test_versions_are_read_with_the_credential_if_required(
    sweeping: Sweeping, server: StandIn, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLANCE_ALIKE_TOKEN", "secret-token")
    switch.fault = versions_at_root(document("v2.4"), token="secret-token")
    auth = {"token_env": "GLANCE_ALIKE_TOKEN"}
    assert await versions_of(sweeping, server, auth=auth) == ("v2.4",)
    with pytest.raises(LocationUnavailable) as caught:
        await versions_of(sweeping, server)
    assert caught.value.problem_code == "unauthorized"


async def test_without_versions_anywhere_the_error_names_the_path_of_glance(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    switch.fault = versions_at_root({"hello": "world"})
    with pytest.raises(LocationUnavailable, match="/versions answered 404") as caught:
        await versions_of(sweeping, server)
    assert caught.value.problem_code == "not-glance"


async def test_the_server_clock_is_read_from_the_versions_response(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    async def other_clock(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Date"] = "Tue, 01 Jun 2021 12:00:00 GMT"
        return response

    at_root = versions_at_root(document("v2.8"), elsewhere=503)
    switch.fault = all_of(other_clock, at_root)
    glance = GlanceServer(sweeping.session, Location(name="one", url=server.url))
    assert await server_time(glance) == 1622548800.0


ALIKES: dict[str, Fault] = {
    "public cloud": all_of(
        versions_at_root(document("v2.8", "v1.0")), ignores("os_hidden", "visibility")
    ),
    "no `sort`": takes_for_properties("sort"),
    "refuses `sort`": refuses("sort"),
    "`visibility=all` is a property": takes_for_properties("visibility"),
    "refuses `visibility`": refuses("visibility"),
    "ignores `visibility`": ignores("visibility"),
    "`os_hidden` is a property": takes_for_properties("os_hidden"),
    "refuses `os_hidden`": refuses("os_hidden"),
    "refuses `os_hidden` with 422": refuses("os_hidden", status=422),
    "ignores `os_hidden`": ignores("os_hidden"),
    "ignores `id`": ignores("id"),
}
UNSORTED: dict[str, Fault] = {
    "newest first": lists_by(lambda row: (row["name"] or "", row["id"]), 7),
    "descending": lists_by(lambda row: -int(row["id"].replace("-", ""), 16), 7),
    "one a page, in no order": lists_by(shuffled(1), 1),
    "two a page, in no order": lists_by(shuffled(2), 2),
    "all at once, in no order": lists_by(shuffled(3), 1000),
}


@pytest.mark.parametrize("name", [*ALIKES, *UNSORTED])
async def test_a_sweep_claims_every_image_and_releases_deleted_ones(
    sweeping: Sweeping, start_server: StartServer, switch: Switch, name: str
) -> None:
    cap = 10 if name in ALIKES else 1000
    server = await start_server(middlewares=[switch.middleware], page_cap=cap)
    server.fill(40, seed=8)
    for number in range(5):
        server.add(name=f"image-{number}", hidden=False)
    switch.fault = (ALIKES | UNSORTED)[name]
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(server.ids())
    assert (sweep.images, sweep.skipped) == (45, 0)
    gone = list(server.ids())[::9]
    for image_id in gone:
        server.delete(image_id)
    sweep = await sweeping.sweep(location)
    assert sweep.released == len(gone)
    assert await sweeping.claimed(location) == set(server.ids())


COMPLETE = {"no `sort`", "refuses `sort`", "ignores `id`"}
"""Those of `ALIKES` whose listing can be asked for every image."""

NO_SORT_KEY: dict[str, Fault] = {
    "`sort_key` is a property": takes_for_properties("sort_key"),
    "refuses `sort_key`": refuses("sort_key"),
    "refuses `sort_dir` with 422": refuses("sort_dir", status=422),
}


@pytest.mark.parametrize("name", [*ALIKES, *UNSORTED, *NO_SORT_KEY])
async def test_a_listing_that_may_leave_images_out_covers_nothing(
    sweeping: Sweeping, start_server: StartServer, switch: Switch, name: str
) -> None:
    """Each server has a community image of another project and a hidden one."""
    cap = 1000 if name in UNSORTED else 10
    server = await start_server(middlewares=[switch.middleware], page_cap=cap)
    server.fill(12, seed=8)
    listed = set(server.ids())
    others = {
        server.add(visibility="community", owner="another").id,
        server.add(hidden=True).id,
    }
    switch.fault = (ALIKES | UNSORTED | NO_SORT_KEY)[name]
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    claimed = await sweeping.claimed(location)
    assert listed <= claimed
    if name in ALIKES and name not in COMPLETE:
        assert "may leave images out" in sweep.listing_gap
        assert doubt(location, sweep) == sweep.listing_gap
    else:
        assert (claimed, sweep.listing_gap) == (listed | others, "")
        assert doubt(location, sweep) == ""


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_server_that_refuses_one_visibility_is_swept(
    sweeping: Sweeping, server: StandIn, switch: Switch, status: int
) -> None:
    server.fill(3, seed=8)

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query.get("visibility") == "community":
            return web.Response(status=status)
        return await handler(request)

    switch.fault = fault
    sweep = await sweeping.sweep(await sweeping.register(server))
    assert (sweep.images, sweep.listing_gap) == (3, "")


@pytest.mark.parametrize("fault", [takes_for_properties("limit"), refuses("limit")])
async def test_a_server_without_limit_is_not_swept_as_empty(
    sweeping: Sweeping, server: StandIn, switch: Switch, fault: Fault
) -> None:
    server.fill(3, seed=8)
    switch.fault = fault
    location = await sweeping.register(server)
    with pytest.raises(LocationUnavailable, match="does not know `limit`"):
        await sweeping.sweep(location)


async def test_a_sweep_is_not_continued_where_the_server_no_longer_sorts(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    server.fill(12, seed=8)
    location = await sweeping.register(server)
    switch.fault = takes_for_properties("sort_key")
    half = sorted(server.ids())[5]
    resume = Resume(parse_id(half), (half, half))
    glance = GlanceServer(sweeping.session, location)
    with pytest.raises(LocationUnavailable, match="lists otherwise than before"):
        await anext(list_images(glance, V2, resume))


async def test_a_server_that_ignores_the_id_filter_confirms_no_release(
    sweeping: Sweeping, start_server: StartServer, switch: Switch
) -> None:
    """What a page left out is asked for by id; an answer about other ids says nothing."""
    server = await start_server(middlewares=[switch.middleware])
    server.fill(12, seed=9)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    left_out = set(list(server.ids())[3:6])

    def without(rows: list[Any]) -> list[Any]:
        return [row for row in rows if row["id"] not in left_out]

    async def lists_less(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/v2/images":
            return await faults.images(without)(request, handler)
        return await handler(request)

    switch.fault = all_of(ignores("id"), lists_less)
    assert (await sweeping.sweep(location)).released == 0
    assert await sweeping.claimed(location) == set(server.ids())


async def test_the_error_says_that_a_server_ignores_markers(
    sweeping: Sweeping, start_server: StartServer, switch: Switch
) -> None:
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(25, seed=8)
    switch.fault = ignores("marker")
    location = await sweeping.register(server)
    with pytest.raises(LocationUnavailable, match="ignore `marker`"):
        await sweeping.sweep(location)


Polled = Callable[[Location], Awaitable[Poll]]


@pytest.fixture
def polled(sweeping: Sweeping) -> Polled:
    """Returns a function that polls a location after a sweep that listed three images."""

    async def poll_once(location: Location) -> Poll:
        swept = Sweep(started=time.time() - 60, ended=time.time() - 60, images=3, sees_all=True)
        return await sweeping.poll(location, swept=swept)

    return poll_once


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (ignores("updated_at"), "ignores the filter"),
        (takes_for_properties("updated_at"), "does not know the filter"),
        (refuses("updated_at"), "does not know the filter"),
    ],
)
async def test_a_poll_reports_that_it_cannot_see_changes(
    sweeping: Sweeping,
    server: StandIn,
    switch: Switch,
    polled: Polled,
    fault: Fault,
    why: str,
) -> None:
    server.fill(3, seed=8)  # old images
    location = await sweeping.register(server)
    switch.fault = fault
    with pytest.raises(LocationUnavailable, match=why) as caught:
        await polled(location)
    assert caught.value.problem_code == "no-changes"


async def test_a_poll_reads_changes_in_any_order(
    sweeping: Sweeping, server: StandIn, switch: Switch, polled: Polled
) -> None:
    server.fill(3, seed=8)
    location = await sweeping.register(server)
    new = {server.add(name=f"image-{number}").id for number in range(9)}
    switch.fault = lists_by(operator.itemgetter("name"), 2)
    assert (await polled(location)).claimed == 9
    assert await sweeping.claimed(location) == new


async def test_an_empty_server_is_polled(
    sweeping: Sweeping, server: StandIn, polled: Polled
) -> None:
    location = await sweeping.register(server)
    result = await polled(location)
    assert (result.error, result.images) == ("", 0)
