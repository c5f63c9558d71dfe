"""The merged listing against real Glance servers: of one it is that Glance's own, of several it is
their sorted union."""

from __future__ import annotations

import asyncio
import html
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from yarl import URL

from resolver.gateway.server import serving
from resolver.models import parse_id
from resolver.services import open_services
from resolver.settings import Settings
from tests.glance.install import GlanceHome
from tests.support.glance import GlanceProcess
from tests.support.glance_images import insert_images, random_image
from tests.support.listings import sort_value

pytestmark = pytest.mark.glance

ADMIN, DEMO, NOBODY = "x", "u:demo:member,reader", "u:nobody:reader"
WITHOUT_ROLE, DEAD = "u:demo:nothing", "dead"
MAX_PAGES = 8
"""Compared of one listing."""

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 5))]
"""One in each run of the tests."""

Get = Any


@pytest.fixture(scope="module")
def glances(
    glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, GlanceProcess]]:
    """Three servers, the second with small pages. Some images are at two or three of them."""
    rng = random.Random(16)
    everywhere = [random_image(rng) for _ in range(6)]
    some = [random_image(rng) for _ in range(10)]
    servers = {}
    with ExitStack() as stack:
        for name, limit in (("one", 1000), ("two", 7), ("three", 1000)):
            server = GlanceProcess(glance_home, tmp_path_factory.mktemp(name), limit=limit)
            servers[name] = stack.enter_context(server)
            copies = [*everywhere, *rng.sample(some, 5)]
            images = [random_image(rng) for _ in range(60)]
            for image in copies:
                other = random_image(rng)
                images.append({**image, "created": other["created"], "updated": other["updated"]})
            insert_images(server.directory, images)
        yield servers


@asynccontextmanager
async def gateway_of(glances: dict[str, GlanceProcess]) -> AsyncIterator[Get]:
    """A function that sends a GET to a gateway with these locations, or to a base URL."""
    settings = Settings(port=0, role="gateway", probe=False, listing_timeout=60)
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(settings))
        base = await stack.enter_async_context(serving(services))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for name, server in glances.items():
            await services.registry.put(name, {"url": server.url})
            for image_id in await asyncio.to_thread(server.ids):
                await services.registry.claim(name, parse_id(image_id), 0)

        async def get(target: str, token: str, url: str = base) -> tuple[int, Any]:
            async with http.get(
                URL(url + target, encoded=True), headers={"X-Auth-Token": token}
            ) as response:
                is_json = response.content_type.endswith("json")
                return response.status, await (
                    response.json(content_type=None) if is_json else response.text()
                )

        yield get


def random_query(rng: random.Random, ids: list[str]) -> list[tuple[str, str]]:
    """Parameters as clients send them, some of them wrong."""
    operators = ["gt", "gte", "lt", "lte", "neq", "eq", "x"]
    times = ["2023-11-14T22:13:40Z", "2023-11-14T22:14:00", "2023-11-14", "never"]
    keys = ["name", "status", "container_format", "disk_format", "size", "id", "created_at"]
    keys += ["updated_at", "owner"]
    choices: list[list[tuple[str, str]]] = [
        [("name", rng.choice(["debian", "größe", "in:debian,größe", 'in:"a,b",debian', ""]))],
        [("status", rng.choice(["active", "in:active,queued", "neq:active"]))],
        [("visibility", rng.choice(["public", "private", "shared", "community", "all", "x"]))],
        [("os_hidden", rng.choice(["true", "false", "True", "x"]))],
        [("protected", rng.choice(["true", "false", "x"]))],
        [("tag", tag) for tag in rng.sample(["amphora", "x86", "64 bit"], rng.randrange(1, 3))],
        [("owner", rng.choice(["demo", "admin"]))],
        [
            ("member_status", rng.choice(["all", "pending", "accepted", "x"])),
            ("visibility", "shared"),
        ],
        [("size_min", rng.choice(["1", "x"]))],
        [("size_max", "10")],
        [("checksum", "d41d8cd98f00b204e9800998ecf8427e")],
        [("os_hash_value", "ab" * 64)],
        [("os_distro", "debian")],
        [("é", "ü 🐧")],
        [("id", f"in:{','.join(rng.sample(ids, 3))}")],
        [("disk_format", rng.choice(["in:qcow2,iso", "qcow2"]))],
        [("changes-since", "2020-01-01T00:00:00Z")],
        *(
            [(name, f"{rng.choice(operators)}:{rng.choice(times)}")]
            for name in ("created_at", "updated_at")
        ),
    ]
    query = [pair for pairs in rng.sample(choices, rng.choice([0, 0, 1, 1, 2])) for pair in pairs]

    def direction() -> str:
        return rng.choice(["asc", "desc"])

    syntax = rng.randrange(5)
    if syntax in (1, 2):
        parts = [
            f"{key}{rng.choice(['', ':' + direction()])}"
            for key in rng.sample(keys, rng.choice([1, 2]))
        ]
        query.append(("sort", ",".join(parts)))
    elif syntax in (3, 4):
        query += [("sort_key", key) for key in rng.sample(keys, rng.choice([1, 2]))]
        query += [("sort_dir", direction()) for _ in range(rng.randrange(3))]
    if rng.random() < 0.8:
        query.append(("limit", rng.choice(["0", "1", "2", "5", "25", "2000", "-1", "x"])))
    if rng.random() < 0.3:
        query.append(("marker", rng.choice([*rng.sample(ids, 4), "x"])))
    return query


def reason(body: str) -> str:
    """The sentence in Glance's error page."""
    match = re.search(r"</h1>(.*?)<br", body, re.DOTALL)
    assert match is not None, body
    return " ".join(html.unescape(match[1]).split())


Found = tuple[int, Any]
"""The status, and the pages or the reason."""


async def glance_pages(
    get: Get, url: str, query: list[tuple[str, str]], token: str, max_pages: int = 0
) -> Found:
    """All pages of a Glance's own listing; or its status and reason. Markers are set here: Glance's
    links lose all but the last of several tags."""
    pages: list[Any] = []
    while True:
        status, body = await get(f"/v2/images?{urlencode(query)}", token, url)
        if status != 200:
            return status, reason(body)
        pages.append(body["images"])
        if "next" not in body or len(pages) == max_pages:
            return status, pages
        query = [pair for pair in query if pair[0] != "marker"]
        query.append(("marker", body["images"][-1]["id"]))


async def merged_pages(
    get: Get, query: list[tuple[str, str]], token: str, max_pages: int = 0
) -> Found:
    """The same of the merged listing, without what it adds to rows."""
    pages: list[Any] = []
    target = f"/v2/images?{urlencode(query)}"
    while True:
        status, body = await get(target, token)
        if status != 200:
            return status, reason(body)
        pages.append(body["images"])
        for row in body["images"]:
            assert row.pop("resolver_locations")
        if "next" not in body or len(pages) == max_pages:
            return status, pages
        target = body["next"]


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_listing_of_one_glance_is_its_own(
    glances: dict[str, GlanceProcess], seed: int
) -> None:
    rng = random.Random(seed)
    one = glances["one"]
    ids = sorted(one.ids())
    tokens = [*(2 * [ADMIN, DEMO, NOBODY]), WITHOUT_ROLE, DEAD]
    statuses: Counter[int] = Counter()
    async with gateway_of({"one": one}) as get:
        for _ in range(60):
            query, token = random_query(rng, ids), rng.choice(tokens)
            theirs = await glance_pages(get, one.url, query, token, MAX_PAGES)
            ours = await merged_pages(get, query, token, MAX_PAGES)
            statuses[theirs[0]] += 1
            if theirs[0] == 200:
                assert ours == theirs, (query, token)
                continue
            if ours[0] == theirs[0] == 401:
                continue
            # Of several faults each may be the first that is found: the gateway finds its own.
            reasons = [theirs]
            for name in {name for name, _ in query}:
                alone = [pair for pair in query if pair[0] == name]
                reasons.append(await glance_pages(get, one.url, alone, ADMIN, 1))
            assert ours[0] != 200, (query, token)
            assert ours in reasons, (query, token)
    assert statuses[200] >= 15
    assert statuses[400] >= 10


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_listing_of_several_is_their_sorted_union(
    glances: dict[str, GlanceProcess], seed: int
) -> None:
    rng = random.Random(seed)
    keys = ["status", "container_format", "disk_format", "id", "created_at", "updated_at"]
    async with gateway_of(glances) as get:
        for _ in range(15):
            token = rng.choice([ADMIN, DEMO, NOBODY])
            filters = rng.choice(
                [
                    [],
                    [("visibility", "all")],
                    [("tag", "x86")],
                    [("status", "in:active,queued")],
                    [("name", "debian")],
                    [("created_at", "gte:2023-11-14T22:13:40Z")],
                    [("os_hidden", "true")],
                ]
            )
            order = [(key, rng.random() < 0.5) for key in rng.sample(keys, rng.choice([1, 2]))]
            sort = ",".join(f"{key}:{'desc' if descends else 'asc'}" for key, descends in order)
            # A Glance over SQLite loses rows behind a marker that has no size.
            query = [*filters, ("sort", sort), ("limit", rng.choice(["5", "13", "40", "1000"]))]
            expected: dict[str, list[Any]] = {}
            for server in glances.values():
                whole = [*filters, ("limit", "1000"), ("sort", "id:asc")]
                status, pages = await glance_pages(get, server.url, whole, token)
                assert status == 200, pages
                for row in (row for page in pages for row in page):
                    expected.setdefault(row["id"], []).append(row)
            status, pages = await merged_pages(get, query, token)
            assert status == 200, pages
            rows = [row for page in pages for row in page]
            assert Counter(row["id"] for row in rows) == dict.fromkeys(expected, 1), (query, token)
            assert all(row in expected[row["id"]] for row in rows)
            shown = order
            for position, (key, _) in enumerate(order):
                if key in ("created_at", "updated_at"):
                    shown = order[: position + 1]
                    break
            assert rows == sorted(rows, key=lambda row: sort_value(row, shown)), query
