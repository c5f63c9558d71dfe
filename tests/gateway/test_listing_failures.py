"""``GET /v2/images`` where a location does not answer, refuses, or answers nonsense."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import Health, Sweep
from resolver.standin.call import Caller
from tests.gateway.conftest import Gateway, Start
from tests.support import faults
from tests.support.alikes import lists_by, refuses, shuffled
from tests.support.clouds import Cloud, cloud_of
from tests.support.listings import all_rows, pages
from tests.support.redis import RedisServer

ALLOW = {"X-Resolver-Partial": "allow"}


async def two(cloud: Cloud, count: int = 12, **options: Any) -> None:
    """Locations ``one`` and ``two``."""
    for name in ("one", "two"):
        server = await cloud.add(name, **options)
        for number in range(count):
            server.add(name=f"{name} {number}", created=1_700_000_000 + random.random() * 90)


def without_locations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "resolver_locations"} for row in rows]


def huge(*, rows: int) -> faults.Fault:
    """More rows than were asked for, 1 MB each."""

    async def fault(_: web.Request, __: Handler) -> web.StreamResponse:
        row = {"id": "01234567-89ab-4def-8123-456789abcdef", "x": "y" * 1_000_000}
        return web.json_response({"images": [row] * rows})

    return fault


async def no_glance(_: web.Request, __: Handler) -> web.StreamResponse:
    return web.Response(status=404, text="nothing here")


NONSENSE = [
    pytest.param(faults.body("<html>"), "it is not the JSON that Glance writes", id="HTML"),
    pytest.param(faults.body("[" * 100_000), "it is not the JSON", id="nested"),
    pytest.param(faults.body('{"images": [1]}'), "it is not the JSON", id="rows of numbers"),
    pytest.param(faults.body('{"images": [{"name": "x"}]}'), "it is not the JSON", id="no id"),
    pytest.param(faults.body('{"images": [{"id": "x"'), "it is not the JSON", id="ends early"),
    pytest.param(faults.body('{"images": [{"id": "x", "created_at": 1}]}'), "JSON", id="time"),
    pytest.param(faults.body('{"images": [{"id": 5}]}'), "it is not the JSON", id="number as id"),
    pytest.param(faults.body('{"images": {}}'), "it is not the JSON", id="rows as object"),
    pytest.param(faults.body("{}"), "it is not the JSON", id="no rows"),
    pytest.param(huge(rows=4), "its answer is longer than 2 MB", id="huge"),
    pytest.param(faults.endless, "its answer is longer than 2 MB", id="endless"),
    pytest.param(faults.slow, "it did not answer in time", id="silent"),
    pytest.param(faults.cut, "the answer broke off", id="cut"),
    pytest.param(faults.circle, "it answered 302", id="redirect"),
    pytest.param(faults.status(500), "it answered 500", id="500"),
    pytest.param(faults.status(429, **{"Retry-After": "40"}), "too many requests", id="429"),
    pytest.param(no_glance, "it answered 404", id="404"),
    pytest.param(lists_by(shuffled(1), 25), "its listing is out of order", id="unsorted"),
]


@pytest.mark.parametrize(("fault", "reason"), NONSENSE)
async def test_a_location_without_a_usable_answer_is_named(
    start: Start, fault: faults.Fault, reason: str
) -> None:
    # Each but the silent one answers, however busy this machine is.
    gateway = await start(listing_timeout=1 if fault is faults.slow else 10)
    async with cloud_of(gateway.services) as cloud:
        await two(cloud)
        cloud.set_fault("two", fault)
        response, problem = await gateway.get("/v2/images")
        assert (response.status, problem["code"]) == (503, "listing-incomplete")
        assert problem["missing"] == ["two"]
        assert reason in problem["detail"]
        assert int(response.headers["Retry-After"]) >= 5
        if "Retry-After" in reason:
            assert int(response.headers["Retry-After"]) >= 40
        response, document = await gateway.get("/v2/images", headers=ALLOW)
        assert (response.status, response.headers["X-Resolver-Missing"]) == (200, "two")
        assert {row["resolver_locations"] for row in document["images"]} == {"one"}
        assert len(document["images"]) == 12


async def test_a_location_that_lists_an_image_without_end_is_an_error(
    gateway: Gateway, cloud: Cloud
) -> None:
    """In other spellings, and it is shown from elsewhere: a listing was busy until its deadline."""
    image_id = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
    created = {"created_at": "2026-01-01T00:00:00Z", "status": "active"}
    letters = [at for at, letter in enumerate(image_id) if letter.isalpha()]
    asked = 0

    async def answer(request: web.Request, _: Handler) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        limit = int(request.query["limit"])
        rows = []
        for number in range(asked * 1000, asked * 1000 + limit):
            spelled = list(image_id)
            for bit, at in enumerate(letters):
                spelled[at] = spelled[at].upper() if number >> bit & 1 else spelled[at]
            rows.append({"id": "".join(spelled), **created})
        return web.json_response({"images": rows, "next": "/v2/images"})

    await cloud.add("one", fields={"priority": 1})
    await cloud.add("two", fields={"priority": 2})
    cloud.servers["one"].add(id=image_id, created=1_800_000_000.0)
    for name in ("one", "two"):
        await cloud.claim(name, image_id)
    cloud.set_fault("two", answer)
    response, problem = await gateway.get("/v2/images?limit=5")
    assert response.status == 503
    assert "its listing repeats itself" in problem["detail"]
    assert asked < 10


async def test_a_location_that_ignores_markers_is_an_error(gateway: Gateway, cloud: Cloud) -> None:
    await two(cloud, 60, page_cap=20)
    cloud.set_fault("two", faults.repeat)
    for sort in ("name:asc", "created_at:desc"):
        response, problem = await gateway.get(f"/v2/images?limit=110&sort={sort}")
        assert response.status == 503
        assert "it repeats itself" in problem["detail"]


async def test_the_setting_makes_every_listing_partial(start: Start) -> None:
    gateway = await start(listing_partial=True)
    async with cloud_of(gateway.services) as cloud:
        await two(cloud)
        cloud.set_fault("two", faults.status(503))
        response, _ = await gateway.get("/v2/images")
        assert (response.status, response.headers["X-Resolver-Missing"]) == (200, "two")
        cloud.set_fault("one", faults.status(503))
        response, problem = await gateway.get("/v2/images")
        assert (response.status, problem["missing"]) == (503, ["one", "two"])


async def test_a_location_left_out_of_the_first_page_stays_left_out(
    gateway: Gateway, cloud: Cloud
) -> None:
    await two(cloud)
    cloud.set_fault("two", faults.status(503))
    _, first = await gateway.get("/v2/images?limit=5", headers=ALLOW)
    cloud.set_fault("two", None)
    response, problem = await gateway.get(first["next"])
    assert (response.status, problem["missing"]) == (503, ["two"])
    assert "begin without a marker" in problem["detail"]
    response, second = await gateway.get(first["next"], headers=ALLOW)
    assert response.headers["X-Resolver-Missing"] == "two"
    assert {row["resolver_locations"] for row in second["images"]} == {"one"}


async def test_a_location_that_fails_on_a_later_page(gateway: Gateway, cloud: Cloud) -> None:
    await two(cloud, 200, page_cap=90)
    cloud.set_fault("two", faults.on_pages(faults.status(503), later=True))
    response, problem = await gateway.get("/v2/images?limit=400")
    assert (response.status, problem["missing"]) == (503, ["two"])
    response, document = await gateway.get("/v2/images?limit=400", headers=ALLOW)
    assert response.headers["X-Resolver-Missing"] == "two"
    mine = [row for row in document["images"] if row["resolver_locations"] == "one"]
    assert len(mine) == 200


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_by_all_locations_is_passed_on(
    gateway: Gateway, cloud: Cloud, status: int
) -> None:
    await two(cloud)

    async def refuse(_: web.Request, __: Handler) -> web.StreamResponse:
        page = "<html><body><h1>No</h1>\n  Glance&#x27;s reason.<br /><br />\n</body></html>"
        headers = {"WWW-Authenticate": 'Keystone uri="http://keystone.example"'}
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)

    for name in ("one", "two"):
        cloud.set_fault(name, refuse)
    for headers in ({}, ALLOW):
        response, problem = await gateway.get(
            "/v2/images", headers={"X-Auth-Token": "t", **headers}
        )
        assert response.status == status
        if status == 401:
            assert problem["detail"] == "Glance does not accept the token"
            assert response.headers["WWW-Authenticate"] == 'Keystone uri="http://keystone.example"'
        else:
            assert problem["detail"] == "Glance's reason."
    cloud.set_fault("two", None)
    response, problem = await gateway.get("/v2/images")
    assert response.status == status
    assert problem["detail"].startswith("one: ")
    response, _ = await gateway.get("/v2/images", headers=ALLOW)
    assert (response.status, response.headers["X-Resolver-Missing"]) == (200, "one")


async def test_a_filter_that_one_location_does_not_know_is_400_and_names_it(
    gateway: Gateway, cloud: Cloud
) -> None:
    await two(cloud)
    cloud.set_fault("two", refuses("owner"))
    response, problem = await gateway.get("/v2/images?owner=admin")
    assert (response.status, problem["detail"]) == (400, "two: it answered 400")
    cloud.set_fault("one", faults.status(503))
    response, problem = await gateway.get("/v2/images?owner=admin")
    assert response.status == 400  # the client must change its request, whatever else fails


async def test_each_location_applies_its_own_policy_to_the_clients_token(
    gateway: Gateway, cloud: Cloud
) -> None:
    await two(cloud, 0, tokens={"demo": Caller("demo"), "root": Caller("x", admin=True)})
    cloud.servers["one"].add(name="mine", visibility="private", owner="demo")
    cloud.servers["two"].add(name="theirs", visibility="private", owner="other")
    cloud.servers["two"].add(name="open")

    async def names(token: str) -> set[str]:
        _, document = await gateway.get("/v2/images", headers={"X-Auth-Token": token})
        return {row["name"] for row in document["images"]}

    assert await names("demo") == {"mine", "open"}
    assert await names("root") == {"mine", "theirs", "open"}
    response, _ = await gateway.get("/v2/images")
    assert response.status == 401


async def test_locations_out_of_service_excluded_and_without_v2(
    gateway: Gateway, cloud: Cloud
) -> None:
    await two(cloud, 3)
    await gateway.services.registry.patch("two", {"state": "maintenance"})
    response, document = await gateway.get("/v2/images")
    assert len(document["images"]) == 3
    assert response.headers["X-Resolver-Missing"] == "two"
    response, _ = await gateway.get("/v2/images", headers={"X-Resolver-Exclude": "two"})
    assert "X-Resolver-Missing" not in response.headers
    await gateway.services.registry.patch("two", {"state": "active"})
    response, document = await gateway.get("/v2/images", headers={"X-Resolver-Exclude": "two"})
    assert len(document["images"]) == 3
    await cloud.add("old", v1=True, v2=False)
    response, problem = await gateway.get("/v2/images")
    assert (response.status, problem["missing"]) == (503, ["old"])
    assert "serves only v1" in problem["detail"]
    response, document = await gateway.get("/v2/images", headers=ALLOW)
    assert (len(document["images"]), response.headers["X-Resolver-Missing"]) == (6, "old")
    response, _ = await gateway.get("/v2/images", headers={"X-Resolver-Exclude": "old"})
    assert response.status == 200


async def test_a_location_that_may_list_too_little_is_named(gateway: Gateway, cloud: Cloud) -> None:
    await two(cloud, 3)
    sweep = Sweep(started=1.0, ended=2.0, sees_all=True, guarded=3.0)
    await cloud.index.records.set_sweep(cloud.numbers["two"], sweep)
    response, document = await gateway.get("/v2/images")
    assert (len(document["images"]), response.headers["X-Resolver-Missing"]) == (6, "two")


async def test_without_a_location_there_is_no_listing(gateway: Gateway) -> None:
    response, problem = await gateway.get("/v2/images", headers=ALLOW)
    assert (response.status, problem["code"]) == (503, "no-location")


async def test_the_listing_can_be_turned_off(start: Start) -> None:
    gateway = await start(listing=False)
    async with cloud_of(gateway.services) as cloud:
        await two(cloud)
        response, problem = await gateway.get("/v2/images")
        assert (response.status, problem["code"]) == (404, "no-listing")
        assert "RESOLVER_LISTING" in problem["detail"]
        assert cloud.servers["one"].requests["GET", "images"] == 0


async def test_the_rank_of_the_first_page_holds_for_all(gateway: Gateway, cloud: Cloud) -> None:
    """Otherwise an image whose best owner changes in between is shown twice or never."""
    await two(cloud, 10)
    one, copy = cloud.servers["one"], cloud.servers["two"]
    for number, image_id in enumerate(list(one.ids())):
        copy.add(id=image_id, created=1_700_000_000 + 9 * number)
        for name in ("one", "two"):
            await cloud.claim(name, image_id)
    healths = [Health.UP, Health.DOWN]

    async def get(path: str) -> tuple[Any, Any]:
        healths.reverse()
        for name, health in zip(("one", "two"), healths, strict=True):
            number = cloud.numbers[name]
            status = (await gateway.services.tables.current()).by_name[name].status
            assert status.check is not None
            check = json.loads(json.dumps({"at": status.check.at + 1}))
            await cloud.index.records.set_check(
                number, type(status.check)(at=check["at"], health=health, versions=("v2.15",))
            )
        return await gateway.get(path)

    found = await all_rows(get, "/v2/images?limit=3")
    assert len(found) == len({row["id"] for row in found}) == 20


async def test_listings_are_rate_limited(start: Start) -> None:
    gateway = await start(client_rate=0.1)
    async with cloud_of(gateway.services) as cloud:
        await two(cloud, 1)
        statuses = [(await gateway.get("/v2/images"))[0].status for _ in range(2)]
    assert statuses == [200, 429]


@pytest.mark.redis
async def test_without_redis_each_image_is_still_one_row(
    start: Start, own_redis: RedisServer
) -> None:
    gateway = await start(redis_url=own_redis.url, index_timeout=0.1)
    async with cloud_of(gateway.services) as cloud:
        await two(cloud, 10)
        for number, image_id in enumerate(list(cloud.servers["one"].ids())):
            cloud.servers["two"].add(id=image_id, created=1_700_000_000 + 9 * number)
            for name in ("one", "two"):
                await cloud.claim(name, image_id)
        before = await pages(gateway.get, "/v2/images?limit=4")
        await asyncio.to_thread(own_redis.kill)
        after = await pages(gateway.get, "/v2/images?limit=4")
        assert [without_locations(page) for page in after] == [
            without_locations(page) for page in before
        ]
        found = [row["id"] for page in before for row in page]
        assert len(found) == len(set(found)) == 20


async def test_a_token_goes_to_locations_of_one_domain_only(gateway: Gateway, cloud: Cloud) -> None:
    for name, domain, region in (("a", "", "A"), ("b", "north", "B"), ("c", "north", "C")):
        server = await cloud.add(name, fields={"domain": domain, "region": region})
        server.add(name=name)
    response, problem = await gateway.get("/v2/images")
    assert response.status == 400
    assert "name a region" in problem["detail"]
    for path, headers, names in (
        ("/v2/images", {"X-Resolver-Region": "A"}, {"a"}),
        ("/v2/images", {"X-Resolver-Region": "C"}, {"b", "c"}),
        ("/region/B/v2/images", {}, {"b", "c"}),
        ("/v2/images", {"X-Resolver-Exclude": "a"}, {"b", "c"}),
    ):
        response, document = await gateway.get(path, headers=headers)
        assert {row["name"] for row in document["images"]} == names
        assert "X-Resolver-Missing" not in response.headers
    response, _ = await gateway.get("/v2/images", headers={"X-Resolver-Region": "none"})
    assert response.status == 400
    asked = {name: cloud.servers[name].requests["GET", "images"] for name in "abc"}
    assert asked == {"a": 1, "b": 3, "c": 3}
