"""``GET /v2/images``: the images of several stand-in servers as one listing."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.standin import StandIn
from resolver.standin.call import Caller
from tests.gateway.conftest import Gateway
from tests.support.alikes import lists_by
from tests.support.clouds import Cloud
from tests.support.faults import Fault, body
from tests.support.listings import all_rows, pages, sort_value

KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at")
BEGAN = 1_700_000_000.0
VIRTUAL = "01234567-89ab-4def-8123-456789abcdef"


def new_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def add_random(rng: random.Random, server: StandIn, count: int, **fields: Any) -> None:
    for _ in range(count):
        status = rng.choice(["active", "active", "queued", "deactivated"])
        server.add(
            **{
                "id": new_id(rng),
                "name": rng.choice(["debian", "ubuntu", "Windows", "fedora 41", None]),
                "status": status,
                "data": b"x" * rng.randrange(4),
                "created": BEGAN + rng.randrange(40) + rng.random(),
                "disk_format": rng.choice(["raw", "qcow2"]),
                "tags": tuple(rng.sample(["a", "b", "c"], rng.randrange(3))),
                **fields,
            }
        )


async def three(cloud: Cloud, rng: random.Random, count: int = 30) -> dict[str, StandIn]:
    """The last is Glance 15."""
    servers = {name: await cloud.add(name, old=name == "three") for name in ("one", "two", "three")}
    for server in servers.values():
        add_random(rng, server, count)
    return servers


async def share(
    cloud: Cloud, rng: random.Random, image_id: str, *names: str, claimed: bool = True
) -> None:
    """An image at several locations, with other times at each."""
    for name in names:
        created = BEGAN + rng.randrange(40) + rng.random()
        cloud.servers[name].add(id=image_id, name="shared", created=created)
        if claimed:
            await cloud.claim(name, image_id)


@pytest.mark.parametrize("seed", range(6))
async def test_a_listing_is_the_sorted_union(gateway: Gateway, cloud: Cloud, seed: int) -> None:
    rng = random.Random(seed)
    servers = await three(cloud, rng)
    shared = [new_id(rng) for _ in range(8)]
    for image_id in shared:
        names = rng.sample(["one", "two", "three"], rng.choice([2, 3]))
        await share(cloud, rng, image_id, *names)
    expected = Counter(image_id for s in servers.values() for image_id in s.ids())
    for _ in range(4):
        keys = [(key, rng.random() < 0.5) for key in rng.sample(KEYS, rng.choice([1, 1, 2, 3]))]
        sort = ",".join(f"{name}:{'desc' if descends else 'asc'}" for name, descends in keys)
        limit = rng.choice([1, 3, 7, 25, 1000])
        rows = await all_rows(gateway.get, f"/v2/images?sort={sort}&limit={limit}")
        assert Counter(row["id"] for row in rows) == dict.fromkeys(expected, 1), (sort, limit)
        # Behind the time nothing can be compared: rows do not show microseconds.
        order = [*keys, ("created_at", keys[0][1] if len(keys) == 1 else True)]
        order = order[: [key for key, _ in order].index("created_at") + 1]
        assert rows == sorted(rows, key=lambda row: sort_value(row, order)), (sort, limit)
        for row in rows:
            assert len(row["resolver_locations"].split(",")) == expected[row["id"]]


async def test_a_row_is_that_of_the_best_owner(gateway: Gateway, cloud: Cloud) -> None:
    for name, priority in (("far", 5), ("near", 0)):
        await cloud.add(name, fields={"priority": priority})
        cloud.servers[name].add(id=VIRTUAL, name=f"of {name}", created=BEGAN + priority)
        cloud.servers[name].add(id=str(uuid.UUID(int=priority)), name="other", created=BEGAN)
        await cloud.claim(name, VIRTUAL)
    rows = await all_rows(gateway.get, "/v2/images?limit=1")
    (row,) = [row for row in rows if row["id"] == VIRTUAL]
    assert (row["name"], row["resolver_locations"]) == ("of near", "near,far")
    assert len(rows) == 3
    # Where its row does not match, the image is not there for this client.
    rows = await all_rows(gateway.get, "/v2/images?name=of+far&limit=1")
    assert [(row["name"], row["resolver_locations"]) for row in rows] == [("of far", "far")]
    # An owner where it can be downloaded comes before a better one where it cannot.
    cloud.servers["near"].update(VIRTUAL, status="deactivated")
    rows = await all_rows(gateway.get, "/v2/images?limit=1&status=in:active,deactivated")
    assert [r["name"] for r in rows if r["id"] == VIRTUAL] == ["of far"]
    # So does one where it will be able to.
    cloud.servers["far"].update(VIRTUAL, status="importing")
    (row,) = [row for row in await all_rows(gateway.get, "/v2/images") if row["id"] == VIRTUAL]
    assert (row["status"], row["resolver_locations"]) == ("importing", "far,near")


async def test_better_owners_are_asked_before_the_slowest_has_answered(
    gateway: Gateway, cloud: Cloud
) -> None:
    """The slow location lists nothing before it is asked about the other's image."""
    for name, priority in (("quick", 5), ("slow", 0)):
        await cloud.add(name, fields={"priority": priority})
        cloud.servers[name].add(id=VIRTUAL, name=f"of {name}", created=BEGAN + priority)
        cloud.servers[name].add(id=str(uuid.UUID(int=priority)), name="other", created=BEGAN)
        await cloud.claim(name, VIRTUAL)
    asked = asyncio.Event()

    async def waits_for_question(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query.get("id") == f"in:{VIRTUAL}":
            asked.set()
        await asked.wait()
        return await handler(request)

    cloud.set_fault("slow", waits_for_question)
    _, document = await gateway.get("/v2/images?limit=5")
    assert [row["name"] for row in document["images"]] == ["of slow", "other", "other"]
    (row,) = [row for row in document["images"] if row["id"] == VIRTUAL]
    assert row["resolver_locations"] == "slow,quick"


async def copies(cloud: Cloud, count: int = 40) -> list[str]:
    """Ids of images of `far`, newest first, of which `near` has every second one, as its oldest.
    `other` has images of its own."""
    rng = random.Random(7)
    near = await cloud.add("near", fields={"priority": 0})
    far = await cloud.add("far", fields={"priority": 5})
    other = await cloud.add("other")
    ids = [new_id(rng) for _ in range(count)]
    for number, image_id in enumerate(ids):
        far.add(id=image_id, name="of far", created=BEGAN + 1000 - number)
        for server in (near, other):
            server.add(id=new_id(rng), name="single", created=BEGAN + 1000 - number)
        if number % 2:
            near.add(id=image_id, name="of near", created=BEGAN - number)
            await cloud.claim("near", image_id)
        await cloud.claim("far", image_id)
    return ids


def wait_for_all_requests(cloud: Cloud, count: int) -> None:
    """Locations answer when that many requests are waiting."""
    waiting, all_wait = 0, asyncio.Event()

    async def waits(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal waiting
        waiting += 1
        if waiting == count:
            all_wait.set()
        async with asyncio.timeout(5):
            await all_wait.wait()
        return await handler(request)

    for name in cloud.servers:
        cloud.set_fault(name, waits)


async def test_a_next_page_asks_all_at_the_same_time(gateway: Gateway, cloud: Cloud) -> None:
    """The page before has seen some of its rows, so the link says which owners must be asked."""
    ids = await copies(cloud)
    _, document = await gateway.get("/v2/images?limit=20")
    for server in cloud.servers.values():
        server.requests.clear()
    wait_for_all_requests(cloud, 4)  # three listings and a question
    _, document = await gateway.get(document["next"])
    rows = [row["id"] for row in document["images"] if row["name"] == "of far"]
    assert rows == [image_id for image_id in ids[0::2] if image_id in rows]
    assert len(rows) >= 3
    assert "of near" not in {row["name"] for row in document["images"]}
    assert sum(s.requests["GET", "images"] for s in cloud.servers.values()) == 4


async def test_a_first_page_that_was_read_before_asks_all_at_the_same_time(
    gateway: Gateway, cloud: Cloud
) -> None:
    await copies(cloud)
    _, first = await gateway.get("/v2/images?limit=20")
    wait_for_all_requests(cloud, 4)
    _, again = await gateway.get("/v2/images?limit=20")
    assert again == first


async def test_wrong_guesses_of_a_page_change_nothing(gateway: Gateway, cloud: Cloud) -> None:
    """Between two pages an image is taken away, one is hidden, and one gets a better owner."""
    ids = await copies(cloud)
    near, far, other = cloud.servers["near"], cloud.servers["far"], cloud.servers["other"]
    _, first = await gateway.get("/v2/images?limit=10")
    unseen = [image_id for image_id in ids if image_id not in {r["id"] for r in first["images"]}]
    alone, shared = unseen[0::2][2:4], unseen[1::2][2:4]
    assert not {*alone} & {*near.ids()}
    near.delete(shared[0])
    near.update(shared[1], hidden=True)
    near.add(id=alone[0], name="of near", created=BEGAN - 500)
    await cloud.claim("near", alone[0])
    far.delete(alone[1])
    rows = first["images"] + await all_rows(gateway.get, first["next"])
    found = {row["id"]: row["name"] for row in rows}
    assert len(found) == len(rows)
    assert {*found} == {*near.ids(), *far.ids(), *other.ids()}
    assert [found[image_id] for image_id in shared] == ["of far", "of far"]
    assert found[alone[0]] == "of near"


async def test_a_copy_at_the_end_of_a_page_hides_no_rows_behind_it(
    gateway: Gateway, cloud: Cloud
) -> None:
    """All are of one second, in which rows do not show their order."""
    for name, priority in (("near", 0), ("far", 5)):
        server = await cloud.add(name, fields={"priority": priority})
        server.add(id=VIRTUAL, created=BEGAN + 0.9)
        await cloud.claim(name, VIRTUAL)
        for number in range(3):
            server.add(id=str(uuid.UUID(int=(15 << 124) + number + priority)), created=BEGAN + 0.1)
    expected = {image_id for server in cloud.servers.values() for image_id in server.ids()}
    for limit in (1, 2, 3):
        rows = await all_rows(gateway.get, f"/v2/images?limit={limit}")
        assert sorted(row["id"] for row in rows) == sorted(expected), limit


async def test_better_owners_are_asked_once_about_a_page(gateway: Gateway, cloud: Cloud) -> None:
    """They are asked about as many rows as are needed if none of those in doubt is shown."""
    rng = random.Random(2)
    near = await cloud.add("near", fields={"priority": 0})
    add_random(rng, near, 100, created=BEGAN - 1)  # all that is read of it
    shared = []
    for number in range(3):
        name = f"far{number}"
        far = await cloud.add(name, fields={"priority": 5})
        add_random(rng, far, 40)
        for _ in range(20):
            shared.append(new_id(rng))
            await share(cloud, rng, shared[-1], name)
            near.add(id=shared[-1], name="shared", created=BEGAN - 2)
            await cloud.claim("near", shared[-1])
    near.requests.clear()
    _, document = await gateway.get("/v2/images?limit=101")
    rows = [row["id"] for row in document["images"]]
    assert len(rows) == 101
    assert not {*rows} & {*shared}
    assert near.requests["GET", "images"] == 2  # its listing, and one question


async def test_an_image_that_is_not_claimed_is_one_row_of_a_page(
    gateway: Gateway, cloud: Cloud
) -> None:
    rng = random.Random(1)
    await three(cloud, rng, 5)
    await share(cloud, rng, VIRTUAL, "one", "two", claimed=False)
    _, document = await gateway.get("/v2/images")
    assert [row["id"] for row in document["images"]].count(VIRTUAL) == 1


async def test_rows_are_passed_on_as_their_owner_wrote_them(gateway: Gateway, cloud: Cloud) -> None:
    row = (
        '{ "zebra":"\\u00e9 ✓ 🐧", "a": 1.0,"big":123456789012345678901234567890,'
        '"deep":[{"x":null}],'
        f' "id":"{VIRTUAL}", "created_at": "2024-01-01T00:00:00Z", "size": 7 }}'
    )
    server = await cloud.add("one")
    cloud.set_fault("one", body(f'{{"first": "x", "images" : [ {row} ] , "schema": "s"}}'))
    async with gateway.http.get("/v2/images") as response:
        text = await response.text()
        assert response.status == 200
        assert response.content_type == "application/json"
    assert text == (
        f'{{"images": [{row[:-1]}, "resolver_locations": "one"}}], "first": "/v2/images", '
        '"schema": "/v2/schemas/images"}'
    )
    assert server.requests["GET", "images"] == 0
    # What a copy of a merged row says of its locations is not believed.
    cloud.set_fault("one", body(f'{{"images": [{row[:-1]}, "resolver_locations": "lie"}}]}}'))
    _, document = await gateway.get("/v2/images")
    assert document["images"][0]["resolver_locations"] == "one"


async def test_links_and_limits_are_those_of_glance(gateway: Gateway, cloud: Cloud) -> None:
    await three(cloud, random.Random(2), 20)
    _, document = await gateway.get("/v2/images")
    assert len(document["images"]) == 25
    assert document["first"] == "/v2/images"
    assert document["next"].startswith("/v2/images?marker=r1.")
    found = await pages(gateway.get, "/v2/images?limit=59&tag=a&tag=b&name=caf%C3%A9")
    assert found == [[]]
    _, document = await gateway.get("/v2/images?limit=2&tag=a&tag=c")
    assert document["first"] == "/v2/images?limit=2&tag=a&tag=c"
    assert document["next"].startswith("/v2/images?limit=2&tag=a&tag=c&marker=")
    assert all({"a", "c"} <= set(row["tags"]) for row in document["images"])
    response, _ = await gateway.get("/v2/images?limit=2&limit=x")
    assert response.status == 200, "a second one is a property, for each location too"
    _, document = await gateway.get("/v2/images?limit=0")
    assert document == {"images": [], "first": "/v2/images?limit=0", "schema": "/v2/schemas/images"}
    _, document = await gateway.get("/v2/images?limit=5000")
    assert len(document["images"]) == 60
    assert "next" not in document


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=x", "limit param must be an integer"),
        ("limit=-1", "limit param must be positive"),
        ("sort=owner", "Invalid sort key: owner."),
        ("sort=name:up", "Invalid sort direction: up"),
        ("sort=name&sort_key=id", "Old and new sorting syntax cannot be combined"),
        ("sort=name&sort=id", "sort is given twice: separate its keys with commas"),
        ("sort_key=id&sort_dir=asc&sort_dir=asc", "Number of sort dirs does not match"),
        ("visibility=some", "Invalid visibility value: some"),
        ("os_hidden=maybe", "Invalid value 'maybe' for 'os_hidden' filter."),
        ("created_at=gte:yesterday", 'Bad "created_at" query filter format.'),
        ("marker=nothing", "No image found with ID nothing"),
        (f"marker={VIRTUAL}", f"No image found with ID {VIRTUAL}"),
        ("marker=r1.eNo", "marker is neither an image id nor"),
        ("marker=r1.", "marker is neither an image id nor"),
        ("name=%ff", "the query is not UTF-8"),
    ],
)
async def test_invalid_requests_get_the_errors_of_glance(
    gateway: Gateway, cloud: Cloud, query: str, text: str
) -> None:
    for name in ("one", "two"):
        await cloud.add(name)
    response, problem = await gateway.get(f"/v2/images?{query}")
    assert response.status == 400
    assert text in problem["detail"]
    assert "one:" not in problem["detail"]  # all say the same


async def test_a_plain_id_is_a_marker(gateway: Gateway, cloud: Cloud) -> None:
    rng = random.Random(3)
    await three(cloud, rng)
    await share(cloud, rng, VIRTUAL, "one", "two")
    for sort in ("created_at:desc", "created_at:asc", "name:asc", "id:desc,name", "size"):
        whole = [row["id"] for row in await all_rows(gateway.get, f"/v2/images?sort={sort}")]
        for image_id in (whole[0], whole[40], whole[-1], VIRTUAL):
            rest = await all_rows(gateway.get, f"/v2/images?sort={sort}&marker={image_id}&limit=13")
            assert [row["id"] for row in rest] == whole[whole.index(image_id) + 1 :], sort


@pytest.mark.parametrize("seed", range(4))
async def test_pages_by_plain_ids_are_those_of_the_next_links(
    gateway: Gateway, cloud: Cloud, seed: int
) -> None:
    """Most images are of the same two seconds, so their rows do not show what orders them."""
    rng = random.Random(seed)
    servers = await three(cloud, rng, 3)
    for server in servers.values():
        for _ in range(12):
            server.add(id=new_id(rng), name=rng.choice("ab"), created=BEGAN + 2 * rng.random())
    for _ in range(4):
        await share(cloud, rng, new_id(rng), *rng.sample(sorted(servers), 2))
    for sort in ("created_at:desc", "created_at:asc", "name:asc", "name:desc,updated_at:asc"):
        listing = f"/v2/images?sort={sort}&visibility=public"
        whole = [row["id"] for row in await all_rows(gateway.get, listing)]
        limit = rng.choice([1, 2, 5])
        for end in range(limit, len(whole) + 1, limit):
            marker = whole[end - 1]
            _, page = await gateway.get(f"{listing}&limit={limit}&marker={marker}")
            assert [row["id"] for row in page["images"]] == whole[end : end + limit], sort


async def test_a_marker_may_be_an_id_that_the_filters_exclude(
    gateway: Gateway, cloud: Cloud
) -> None:
    servers = await three(cloud, random.Random(4), 0)
    ids = [new_id(random.Random(n)) for n in range(9)]
    for number, image_id in enumerate(ids):
        server = servers[("one", "two", "three")[number % 3]]
        server.add(id=image_id, name="ab"[number % 2], created=BEGAN + number)
    for sort in ("created_at:asc", "created_at:asc&created_at=gte:2001-01-01T00:00:00Z"):
        rows = await all_rows(gateway.get, f"/v2/images?name=a&sort={sort}&marker={ids[3]}&limit=1")
        assert [row["id"] for row in rows] == ids[4::2]


async def test_a_marker_with_another_sort_order_is_refused(gateway: Gateway, cloud: Cloud) -> None:
    await three(cloud, random.Random(4), 10)
    _, document = await gateway.get("/v2/images?limit=5")
    response, problem = await gateway.get(f"{document['next']}&sort=name:asc")
    assert response.status == 400
    assert "another order" in problem["detail"]


async def test_a_listing_goes_on_after_an_image_that_is_gone(
    gateway: Gateway, cloud: Cloud
) -> None:
    tokens = {"user": Caller("demo")}
    for name in ("one", "two"):
        server = await cloud.add(name, tokens=tokens)
        add_random(random.Random(name), server, 20)
    headers = {"X-Auth-Token": "user"}
    whole = [
        row["id"]
        for row in await all_rows(lambda p: gateway.get(p, headers=headers), "/v2/images?limit=9")
    ]
    assert len(whole) == 40
    _, first = await gateway.get("/v2/images?limit=9", headers=headers)
    for row in first["images"]:
        cloud.servers[row["resolver_locations"]].delete(row["id"])
    rest = await all_rows(lambda p: gateway.get(p, headers=headers), first["next"])
    assert [row["id"] for row in rest] == whole[9:]


async def test_locations_may_come_and_go_between_pages(gateway: Gateway, cloud: Cloud) -> None:
    rng = random.Random(5)
    servers = await three(cloud, rng, 10)
    _, first = await gateway.get("/v2/images?limit=12&sort=id:asc")
    add_random(rng, await cloud.add("four"), 10)
    await gateway.services.registry.remove("two")
    rest = await all_rows(gateway.get, first["next"])
    last = first["images"][-1]["id"]
    left = [i for name in ("one", "three", "four") for i in cloud.servers[name].ids() if i > last]
    assert [row["id"] for row in rest] == sorted(left)
    assert len(servers["two"]) == 10


async def test_a_catalog_that_every_location_has(gateway: Gateway, cloud: Cloud) -> None:
    """Of each image one row in eight is shown: that takes a few questions, not one for each row."""
    rng = random.Random(6)
    names = [f"l{number}" for number in range(8)]
    for name in names:
        await cloud.add(name)
    ids = [new_id(rng) for _ in range(60)]
    for image_id in ids:
        await share(cloud, rng, image_id, *names)
    for limit in (10, 60, 1000):
        for server in cloud.servers.values():
            server.requests.clear()
        found = await pages(gateway.get, f"/v2/images?limit={limit}")
        rows = [row["id"] for page in found for row in page]
        assert sorted(rows) == sorted(ids)
        requests = sum(s.requests["GET", "images"] for s in cloud.servers.values())
        assert requests <= 9 * len(names) * len(found), limit


async def test_names_are_merged_as_databases_sort_them(gateway: Gateway, cloud: Cloud) -> None:
    """MySQL compares letters without regard to case, the stand-ins as SQLite and PostgreSQL do."""
    names = {"one": ["apple", "Banana", "cherry"], "two": ["Avocado", "blueberry", "Zebra"]}
    for name, some in names.items():
        server = await cloud.add(name)
        for text in some:
            server.add(name=text)
    everything = [text for some in names.values() for text in some]

    async def listed(direction: str) -> list[str]:
        rows = await all_rows(gateway.get, f"/v2/images?limit=4&sort=name:{direction}")
        return [row["name"] for row in rows]

    assert await listed("asc") == sorted(everything)
    for direction, reverse in (("asc", False), ("desc", True)):
        for name in names:
            cloud.set_fault(name, sorts_without_case(reverse=reverse))
        assert await listed(direction) == sorted(everything, key=str.casefold, reverse=reverse)


def sorts_without_case(*, reverse: bool) -> Fault:
    return lists_by(lambda row: row["name"].casefold(), 1000, reverse=reverse)


async def test_a_large_page_is_sent_in_parts(gateway: Gateway, cloud: Cloud) -> None:
    """As one text, 16 MB of rows held up other requests for 50 ms."""
    rng = random.Random(5)
    servers = [await cloud.add("one"), await cloud.add("two")]
    expected = {}
    for n in range(14):
        image_id, properties = new_id(rng), {"long": "x" * 60_000, "n": str(n)}
        servers[n % 2].add(id=image_id, properties=properties)
        expected[image_id] = properties
    for limit, form in ((14, "chunked"), (1, None)):
        response, page = await gateway.get(f"/v2/images?limit={limit}")
        assert (response.status, response.content_type) == (200, "application/json")
        assert response.headers.get("Transfer-Encoding") == form
        assert len(page["images"]) == limit
        for row in page["images"]:
            assert expected[row["id"]].items() <= row.items()
            assert row["resolver_locations"] in ("one", "two")
        assert page["schema"] == "/v2/schemas/images"
        assert page["first"] == f"/v2/images?limit={limit}"
