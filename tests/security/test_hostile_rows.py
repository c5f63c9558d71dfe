"""A row in Redis that no version of the resolver writes costs that row, and no other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from resolver.index import UNREADABLE, Index, open_index
from resolver.index.record_codec import ParseCache
from resolver.index.registry_snapshot import parse_snapshot
from resolver.models import Location, Owner, parse_id
from resolver.registry.table import MAX_NAMED
from tests.gateway.conftest import ADMIN, Gateway, Start

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OTHER = "ffffffff-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REGISTRY = "glr:{reg}:"

FIELDS = {"url": "https://evil.example", "region": "", "api": "auto", "priority": 100, "weight": 1}
FIELDS |= {"state": "active", "reason": "", "sees_all": None, "auth": None, "notifications": None}
FIELDS |= {"created": 0.0, "updated": 0.0}


def row(number: object = 9, **fields: object) -> str:
    return f"{number} {json.dumps({**FIELDS, **fields})}"


HOSTILE_LOCATIONS: dict[str, tuple[bytes | str, bytes | str]] = {
    "wrong type": ("evil", '9 {"url": 1}'),
    "name with a line break": (b"evil\r\nX-A: b", row()),
    "name that is no UTF-8": (b"\xff\xfe", row()),
    "name of 100 kB": ("e" * 100_000, row()),
    "empty name": ("", row()),
    "the number of what cannot be read": ("evil", row(-1)),
    "number 0": ("evil", row(0)),
    "the number of a mark": ("evil", row(1 << 19)),
    "region with a line break": ("evil", row(region="a\r\nb: c")),
    "region with a direction mark": ("evil", row(region="\u202eevil")),
    "half a surrogate pair": ("evil", row(region="\ud800")),
    "unknown field with half a pair": ("evil", row(newer="\ud800")),
    "reason of 100 kB": ("evil", row(reason="a" * 100_000)),
    "infinite rate": ("evil", row(rate=float("inf"))),
    "rate that is no number": ("evil", row(rate=float("nan"))),
    "weight below 0": ("evil", row(weight=-1)),
    "priority of 400 digits": ("evil", row(priority=10**400)),
    "created in the year 30000": ("evil", row(created=1e12)),
    "deep": ("evil", "9 " + "[" * 60_000),
}

HOSTILE_STATUSES: dict[str, tuple[str, str]] = {
    "time that cannot be shown": ("check", '{"at": 1e300, "health": "up"}'),
    "no number": ("sweep", '{"started": NaN, "ended": NaN}'),
    "images of 400 digits": ("sweep", f'{{"images": 1{"0" * 400}}}'),
    "error of 100 kB": ("poll", json.dumps({"error": "a" * 100_000})),
    "half a surrogate pair": ("sweep", '{"error": "\\ud800"}'),
    "list": ("feed", "[]"),
}

VERSIONS = '{"at": 1.0, "health": "up", "versions": ["v2.\u00b2", "v2.", "v2.1234567", "v2.5"]}'


async def change(gateway: Gateway, *command: Any) -> None:
    client = gateway.services.index.client
    await client.command(*command)
    await client.command("INCR", REGISTRY + "version")


async def assert_that_one_works(gateway: Gateway) -> None:
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert (response.status, response.headers["Location"]) == (
        307,
        f"https://one.example:9292/v2/images/{ID}",
    )
    for path in ("/locations", "/locations/one", "/audit", "/members", "/index", "/readyz"):
        assert (await gateway.get(path, headers=ADMIN))[0].status == 200, path
    for path in ("/versions", "/metrics", "/status", f"/resolve/{ID}", f"/resolve/{ID}/explain"):
        assert (await gateway.get(path))[0].status == 200, path
    async with gateway.http.get("/index/export", headers=ADMIN) as response:
        assert (await response.text()).splitlines()[-1].startswith("end ")


@pytest.fixture
async def serving_one(start: Start) -> Gateway:
    gateway = await start(index_timeout=30)
    await gateway.location("one")
    await gateway.claim("one", ID)
    return gateway


@pytest.mark.parametrize("kind", HOSTILE_LOCATIONS)
async def test_a_hostile_record_of_a_location(serving_one: Gateway, kind: str) -> None:
    name, record = HOSTILE_LOCATIONS[kind]
    await change(serving_one, "HSET", REGISTRY + "locations", name, record)
    await assert_that_one_works(serving_one)
    _, status = await serving_one.get("/status")
    (problem,) = (row for row in status["problems"] if row["code"] == "unreadable-record")
    assert len(problem["location"]) < 100
    assert problem["location"].isprintable()
    response, body = await serving_one.get(f"/resolve/{OTHER}")
    assert (response.status, body["missing"]) == (503, [problem["location"]])
    assert await serving_one.location("two") > 1, "others can be registered meanwhile"


@pytest.mark.parametrize(
    ("key", "field", "code"),
    [("locations", "x{}", "unreadable-record"), ("meta", "location:x{}", "location-lost")],
)
async def test_of_many_hostile_rows_some_are_named(
    serving_one: Gateway, key: str, field: str, code: str
) -> None:
    rows = (argument for n in range(3000) for argument in (field.format(n), "99"))
    await change(serving_one, "HSET", REGISTRY + key, *rows)
    await serving_one.services.tables.fresh()
    await assert_that_one_works(serving_one)
    _, status = await serving_one.get("/status")
    texts = [row["text"] for row in status["problems"] if row["code"] == code]
    assert len(texts) == MAX_NAMED + 1
    assert sum("2,900 more locations" in text for text in texts) == 1
    async with serving_one.http.get("/metrics") as response:
        metrics = await response.text()
    assert metrics.count("glance_resolver_location_not_offered{") <= MAX_NAMED
    response, body = await serving_one.get(f"/resolve/{OTHER}")
    assert (response.status, len(body["missing"])) == (503, MAX_NAMED)
    assert await serving_one.location("two") > 1, "others can be registered meanwhile"


async def test_others_get_turns_while_many_hostile_rows_are_parsed() -> None:
    rows = {b"x%d" % n: b'9 {"url": 1}' for n in range(20_000)}
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(count_turns())
    snapshot = await parse_snapshot([b"5", rows, {}, {}, []], ParseCache())
    others.cancel()
    assert len(snapshot.unreadable) == len(rows)
    assert turns > 1


@pytest.mark.parametrize("kind", HOSTILE_STATUSES)
async def test_a_hostile_status_of_a_location(serving_one: Gateway, kind: str) -> None:
    what, text = HOSTILE_STATUSES[kind]
    await change(serving_one, "HSET", REGISTRY + "status", f"1:{what}", text)
    response, _ = await serving_one.get(f"/v2/images/{ID}")
    assert response.status == 307
    for path in ("/locations/one", "/status", "/metrics", "/index"):
        assert (await serving_one.get(path, headers=ADMIN))[0].status == 200, path
    _, status = await serving_one.get("/status")
    assert "unreadable-record" in {row["code"] for row in status["problems"]}


@pytest.mark.parametrize("other", ["evil", "another"])  # before and after that of `one`
async def test_a_row_with_the_number_of_another_costs_itself(
    serving_one: Gateway, other: str
) -> None:
    assert (await serving_one.services.registry.view("one")).location.number == 1
    await serving_one.location(other)
    await change(serving_one, "HSET", REGISTRY + "locations", other, row(1))
    await assert_that_one_works(serving_one)
    _, status = await serving_one.get("/status")
    (problem,) = (row for row in status["problems"] if row["code"] == "unreadable-record")
    assert problem["location"] == other
    response, body = await serving_one.get(f"/resolve/{OTHER}")
    assert (response.status, body["missing"]) == (503, [other])


async def test_where_nothing_says_whose_number_it_is_no_row_counts(serving_one: Gateway) -> None:
    await serving_one.location("two")
    meta = REGISTRY + "meta"
    await change(serving_one, "HDEL", meta, "location:one", "location:two")
    await change(serving_one, "HSET", REGISTRY + "locations", "two", row(1))
    response, body = await serving_one.get(f"/resolve/{ID}")
    assert (response.status, sorted(body["missing"])) == (503, ["one", "two"])


async def test_a_wrong_number_of_buckets_costs_nothing_once_it_is_corrected(
    serving_one: Gateway,
) -> None:
    """All buckets are read for what operators are shown: for 28 bits that takes an hour."""
    meta, index = REGISTRY + "meta", serving_one.services.index
    bits = await index.client.command("HGET", meta, "bits")
    await index.client.command("HSET", meta, "bits", "128")
    await index.claims.layout.refresh()
    counting = asyncio.ensure_future(index.census())
    sweeping = asyncio.ensure_future(index.claim_counts.spans(1, 0.0))
    await asyncio.sleep(0)
    await index.client.command("HSET", meta, "bits", bits)
    assert (await asyncio.wait_for(counting, 60)).images == 1
    assert (await asyncio.wait_for(sweeping, 60)).total == 1


async def test_malformed_versions_in_redis_are_ignored(serving_one: Gateway) -> None:
    await change(serving_one, "HSET", REGISTRY + "status", "1:check", VERSIONS)
    await assert_that_one_works(serving_one)


@pytest.mark.parametrize(
    "command",
    [
        ("SADD", REGISTRY + "removed", b"\xff\r\n"),
        ("HSET", REGISTRY + "meta", b"location:\xff\r\n", "5"),
        ("HSET", REGISTRY + "meta", "location:a b", "5"),
        ("HSET", REGISTRY + "status", b"\xff", b"\xff"),
        ("HSET", REGISTRY + "progress", "1", '{"started": 1e300}'),
        ("HSET", REGISTRY + "progress", "9" * 5000, "{}"),
        ("HSET", REGISTRY + "wanted", "9" * 5000, "{}"),
        ("SADD", REGISTRY + "retired", "9" * 5000),
        ("ZADD", REGISTRY + "processes", "2e10", '{"version": [' + "1," * 100_000 + "1]}"),
        ("ZADD", REGISTRY + "versions", "2e10", b"\xff" * 100_000),
        ("ZADD", REGISTRY + "indexers", "2e10", b"\xff" * 100_000),
        ("LPUSH", REGISTRY + "audit", "[" * 100_000),
        (
            "LPUSH",
            REGISTRY + "audit",
            '{"at":1e300,"by":"","what":"","location":"","before":null,"after":null}',
        ),
        (
            "LPUSH",
            REGISTRY + "audit",
            '{"at":NaN,"by":"","what":"","location":"","before":null,"after":null}',
        ),
    ],
)
async def test_other_hostile_rows(serving_one: Gateway, command: tuple[Any, ...]) -> None:
    await change(serving_one, *command)
    await assert_that_one_works(serving_one)


async def test_numbers_that_no_location_has_cost_their_rows(index: Index) -> None:
    hostile = "9" * 5000
    for number in (hostile, "0", "600000", "7"):
        await index.client.command("SADD", REGISTRY + "retired", number)
        await index.client.command("HSET", REGISTRY + "wanted", number, "{}")
        await index.client.command("HSET", REGISTRY + "progress", number, '{"started": 1.0}')
    assert await index.records.retired() == [7]
    assert list(await index.records.requested_sweeps()) == [7]
    assert list(await index.records.progress()) == [7]


async def test_entries_that_are_too_long_cost_their_rows(index: Index) -> None:
    entry = {"at": 1.0, "by": "", "what": "x", "location": "", "before": None, "after": None}
    await index.audit.record("a", "b")
    for detail in ("x" * 1_000_000, [1] * 1_000_000):
        text = json.dumps({**entry, "after": {"a": detail}})
        await index.client.command("LPUSH", REGISTRY + "audit", text)
    assert [entry.what for entry in await index.audit.last(10)] == ["b"]


@pytest.mark.parametrize("at", [f"1{'0' * 400}", "NaN", "1e300", '"x"'])
async def test_a_hostile_sweep_request_confirms_no_shrink(index: Index, at: str) -> None:
    text = f'{{"confirm_shrink": true, "at": {at}}}'
    await index.client.command("HSET", REGISTRY + "wanted", "1", text)
    request = (await index.records.requested_sweeps())[1]
    assert request.confirm_shrink is False


async def owners_after(index: Index, *values: bytes) -> list[tuple[Owner, ...]]:
    """The owners of images with these values, and of one that location 1 claims."""
    ids = [parse_id(f"{n:08x}-0000-4000-8000-000000000000") for n in range(len(values))]
    buckets = index.claims.buckets
    for image_id, value in zip(ids, values, strict=True):
        key = buckets.key(buckets.number(image_id))
        await index.client.command("HSET", key, buckets.field(image_id), value)
    await index.claims.claim(1, [parse_id(ID)])
    return (await index.claims.lookup([*ids, parse_id(ID)], cache=True)).owners


async def test_hostile_owners_of_an_image(index: Index) -> None:
    await index.records.put(Location(name="one", url="https://one.example"), None)
    (many, endless, same, sound) = await owners_after(
        index, b"\x02" * 100_000, b"\xff" * 100_000, b"\x02\x04" * 500
    )
    assert (many, endless) == (UNREADABLE, UNREADABLE)
    assert same == (Owner(1), Owner(2))
    assert sound == (Owner(1),)


async def test_100_kb_of_invalid_owners_affect_only_their_image(serving_one: Gateway) -> None:
    index = serving_one.services.index
    buckets, image_id = index.claims.buckets, parse_id(OTHER)
    await index.client.command(
        "HSET", buckets.key(buckets.number(image_id)), buckets.field(image_id), b"\x02" * 100_000
    )
    response, body = await serving_one.get(f"/resolve/{OTHER}")
    assert (response.status, body["outcome"]) == (503, "unknown")
    await assert_that_one_works(serving_one)


async def test_a_bucket_of_another_type_affects_only_its_images(index_url: str) -> None:
    async with open_index(index_url, bits=8) as index:
        broken = parse_id(OTHER)
        key = index.claims.buckets.key(index.claims.buckets.number(broken))
        await index.client.command("SET", key, "x")
        await index.claims.claim(1, [parse_id(ID)])
        found = await index.claims.lookup([broken, parse_id(ID)])
        assert found.owners == [UNREADABLE, (Owner(1),)]
