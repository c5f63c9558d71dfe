"""How much a page of the merged listing reads of each location."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.standin import StandIn
from tests.gateway.conftest import Gateway
from tests.support.clouds import Cloud
from tests.support.listings import all_rows

BEGAN = 1_700_000_000.0
NAMES = ("a", "b", "c", "d", "e")


def new_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


async def locations(cloud: Cloud, order: Sequence[str]) -> None:
    """Locations whose rows follow one another in this order, the newest first."""
    rng = random.Random(3)
    for name in NAMES:
        await cloud.add(name)
    for number, name in enumerate(order):
        cloud.servers[name].add(id=new_id(rng), created=BEGAN - number)


async def near_and_far(cloud: Cloud) -> tuple[StandIn, StandIn]:
    """Two locations, of which the first is the better owner."""
    near = await cloud.add("near", fields={"priority": 0})
    return near, await cloud.add("far", fields={"priority": 5})


def record_sizes(cloud: Cloud) -> Mapping[str, list[int]]:
    """The ``limit`` of each reading of a location's listing from now on."""
    sizes: defaultdict[str, list[int]] = defaultdict(list)

    def recorder(name: str) -> None:
        async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
            if "id" not in request.query:
                sizes[name].append(int(request.query["limit"]))
            return await handler(request)

        cloud.set_fault(name, record)

    for name in cloud.servers:
        recorder(name)
    return sizes


async def test_of_a_large_page_each_location_is_asked_once_for_little_more_than_its_share(
    gateway: Gateway, cloud: Cloud
) -> None:
    rng = random.Random(4)
    await locations(cloud, rng.choices(NAMES, k=2000))
    sizes = record_sizes(cloud)
    _, document = await gateway.get("/v2/images?limit=400")
    assert len(document["images"]) == 400
    # 80 rows, and three times the standard deviation of 9.
    assert sizes == {name: [107] for name in NAMES}


async def test_of_a_small_page_each_location_is_asked_for_all(
    gateway: Gateway, cloud: Cloud
) -> None:
    await locations(cloud, ["a"] * 300 + [*NAMES] * 30)
    sizes = record_sizes(cloud)
    _, document = await gateway.get("/v2/images?limit=100")
    assert len(document["images"]) == 100
    assert sizes == {name: [100] for name in NAMES}


@pytest.mark.parametrize("some", ["a", "ab", "abc"])
async def test_a_page_of_few_locations_is_read_in_two_goes(
    gateway: Gateway, cloud: Cloud, some: str
) -> None:
    """What the first rows show of the shares says how many more are read, of all at once."""
    rng = random.Random(5)
    await locations(cloud, rng.choices(some, k=1000) + rng.choices(NAMES, k=500))
    sizes = record_sizes(cloud)
    _, document = await gateway.get("/v2/images?limit=400")
    assert len(document["images"]) == 400
    assert {name: len(asked) for name, asked in sizes.items()} == {
        name: 2 if name in some else 1 for name in NAMES
    }
    assert sum(sum(sizes[name]) for name in some) < 600


async def test_a_location_whose_rows_lie_together_is_asked_for_more_each_time(
    gateway: Gateway, cloud: Cloud
) -> None:
    await locations(cloud, [*NAMES] * 20 + ["a"] * 900)
    sizes = record_sizes(cloud)
    _, document = await gateway.get("/v2/images?limit=1000")
    assert len(document["images"]) == 1000
    assert len(sizes["a"]) <= 3
    assert sizes["a"] == sorted(sizes["a"])


@pytest.mark.parametrize("seed", range(3))
async def test_large_pages_are_the_sorted_union(gateway: Gateway, cloud: Cloud, seed: int) -> None:
    """Of locations with few rows and many, in runs and mixed, some of them at several."""
    rng = random.Random(seed)
    servers = [await cloud.add(name) for name in NAMES]
    for at in range(30):
        some = rng.sample(servers, rng.choice([1, 1, 2, 5]))
        for number in range(rng.choice([1, 20, 60])):
            image_id, created = new_id(rng), BEGAN + 100 * at + rng.random() * 100
            copies = rng.choices(servers, k=rng.choice([1, 1, 1, 3]))
            for server in {some[number % len(some)], *copies[1:]}:
                server.add(id=image_id, created=created + rng.choice([0, 0, rng.random() * 1500]))
                if len(copies) > 1:  # the owners of the others need not be known
                    await cloud.claim(NAMES[servers.index(server)], image_id)
    expected = {image_id for server in servers for image_id in server.ids()}
    for limit in (101, rng.randrange(102, 600)):
        rows = await all_rows(gateway.get, f"/v2/images?limit={limit}")
        times = [row["created_at"] for row in rows]
        assert times == sorted(times, reverse=True), limit
        assert sorted(row["id"] for row in rows) == sorted(expected), limit


async def test_the_last_location_that_has_rows_is_asked_for_whole_pages(
    gateway: Gateway, cloud: Cloud
) -> None:
    await locations(cloud, [*NAMES] * 40 + ["a"] * 700)
    sizes = record_sizes(cloud)
    rows = await all_rows(gateway.get, "/v2/images?limit=300")
    assert len(rows) == 900
    assert sizes["a"][-1] == 300
    assert sum(map(len, sizes.values())) <= 10


async def test_one_row_is_found_behind_many_that_are_not_shown(
    gateway: Gateway, cloud: Cloud
) -> None:
    """The better owner has them later in its listing."""
    rng = random.Random(6)
    near, far = await near_and_far(cloud)
    for number in range(300):
        image_id = new_id(rng)
        far.add(id=image_id, created=BEGAN - number)
        near.add(id=image_id, created=BEGAN - 1000 - number)
        for name in ("far", "near"):
            await cloud.claim(name, image_id)
    sizes = record_sizes(cloud)
    _, document = await gateway.get("/v2/images?limit=1")
    assert [row["resolver_locations"] for row in document["images"]] == ["near,far"]
    assert len(sizes["far"]) <= 7
    assert len(sizes["near"]) == 1


async def test_a_large_page_with_copies_is_read_in_two_goes_and_asks_once(
    gateway: Gateway, cloud: Cloud
) -> None:
    rng = random.Random(7)
    near, far = await near_and_far(cloud)
    for number in range(1000):
        image_id = new_id(rng)
        far.add(id=image_id, created=BEGAN - rng.randrange(1000))
        near.add(id=new_id(rng), created=BEGAN - rng.randrange(1000))
        if number % 2:
            near.add(id=image_id, created=BEGAN - 2000)
            await cloud.claim("near", image_id)
        await cloud.claim("far", image_id)
    near.requests.clear()
    sizes = record_sizes(cloud)
    _, document = await gateway.get("/v2/images?limit=200")
    assert len(document["images"]) == 200
    assert {name: len(asked) for name, asked in sizes.items()} == {"near": 2, "far": 2}
    questions = near.requests["GET", "images"] - len(sizes["near"])
    assert questions == 1, "all better owners are asked together"
