"""The index as a stream, exported from one gateway and imported into another."""

from __future__ import annotations

import gzip
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from resolver.index import Index
from resolver.models import Location, format_id, letter_case_of
from resolver.registry.export_format import Writer
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.ids import make_ids
from tests.support.wait import wait_until

PATHS = [("GET", "/index/export"), ("POST", "/index/import")]


@pytest.fixture
async def gateway(start: Start, index_url: str) -> Gateway:
    """On each backend."""
    return await start(redis_url=index_url, index_bits=6)


async def exported(gateway: Gateway) -> bytes:
    async with gateway.http.get("/index/export", headers=ADMIN) as response:
        assert response.status == 200
        return await response.read()


async def imported(gateway: Gateway, text: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    async def body() -> AsyncIterator[bytes]:
        for i in range(0, len(text), 1000):
            yield text[i : i + 1000]

    async with gateway.http.post(
        "/index/import", data=body(), headers={**ADMIN, **headers}
    ) as response:
        return response.status, await response.json(content_type=None)


Contents = dict[str, dict[bytes, int]]


async def contents(index: Index) -> Contents:
    """For each location, its images and their letter case."""
    found: Contents = {}
    for name, record in (await index.records.load()).records.items():
        found[name] = {}
        async for _, claims in index.claims.of_location(record.location.number):
            found[name] |= {image_id: claim.letter_case for image_id, claim in claims.items()}
    return found


IMAGES = 5000
"""Enough for an export of seven blocks."""


async def fill(gateway: Gateway, count: int = IMAGES) -> Contents:
    """Registers three locations, with images at one, two or three of them, some spelled in upper
    case, some with ids that are not random, and claims of a location that is removed."""
    rng = random.Random(4)
    every_id = [*make_ids(count - count // 5), *make_ids(count // 5, seed=2, version=None)]
    numbers = {name: await gateway.location(name) for name in ("one", "two", "three", "removed")}
    for number in numbers.values():
        ids = {
            image_id: letter_case_of(format_id(image_id).upper()) if rng.random() < 0.1 else 0
            for image_id in every_id
            if rng.random() < 0.5
        }
        await gateway.services.index.claims.claim(number, ids)
    await gateway.services.registry.remove("removed")
    return await contents(gateway.services.index)


async def test_an_import_restores_what_was_exported(gateway: Gateway, start: Start) -> None:
    before = await fill(gateway)
    assert sorted(before) == ["one", "three", "two"]
    assert any(before["one"].values())
    text = await exported(gateway)
    other = await start(index_bits=8)
    await other.location("elsewhere")  # so that the numbers of the locations differ
    images = len(set().union(*before.values()))
    claims = sum(map(len, before.values()))
    done = {
        "locations": 3,
        "registered": ["one", "three", "two"],
        "without_auth": [],
        "updated": [],
        "different": [],
        "images": images,
        "claims": claims,
        "new": claims,
    }
    assert await imported(other, text) == (200, done)
    assert await contents(other.services.index) == {**before, "elsewhere": {}}
    await other.services.registry.remove("elsewhere")
    assert await exported(other) == text


async def test_repeating_an_import_changes_nothing(gateway: Gateway) -> None:
    before = await fill(gateway)
    await gateway.services.registry.patch("one", {"weight": 7})
    text = await exported(gateway)
    await gateway.services.registry.patch("one", {"weight": 8})
    version = (await gateway.services.index.claims.lookup([])).version
    for _ in range(2):
        status, done = await imported(gateway, text)
        assert (status, done["new"], done["registered"]) == (200, 0, [])
    assert await contents(gateway.services.index) == before
    assert (await gateway.services.index.claims.lookup([])).version == version
    assert (await gateway.services.registry.show("one"))["weight"] == 8


async def test_existing_claims_stay(gateway: Gateway, start: Start) -> None:
    await fill(gateway)
    text = await exported(gateway)
    other = await start(index_bits=8)
    number = await other.location("one")
    mine = make_ids(10, seed=9)
    await other.services.index.claims.claim(number, mine)
    assert (await imported(other, text))[0] == 200
    assert set(mine) < set((await contents(other.services.index))["one"])


async def test_an_empty_index(gateway: Gateway, start: Start) -> None:
    text = await exported(gateway)
    assert text.count(b"\n") == 3
    status, done = await imported(await start(), text)
    assert (status, done["images"], done["locations"]) == (200, 0, 0)


async def test_gzip_as_content_encoding(start: Start) -> None:
    gateway = await start()
    await fill(gateway)
    text = await exported(gateway)
    other = await start()
    members = gzip.compress(text[:100]) + gzip.compress(text[100:])
    status, _ = await imported(other, members, **{"Content-Encoding": "gzip"})
    assert status == 200
    assert await exported(other) == text


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_an_admin_token_is_required(start: Start, method: str, path: str) -> None:
    gateway = await start()
    for headers in ({}, {"Authorization": "Bearer wrong-token"}):
        response, body = await gateway.call(method, path, headers=headers)
        assert (response.status, body["code"]) == (401, "unauthorized")
    off = await start(admin_tokens="")
    response, body = await off.call(method, path, headers=ADMIN)
    assert (response.status, body["code"]) == (403, "admin-disabled")


async def test_no_secret_is_exported(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRANKFURT_TOKEN", "keystone-token")
    gateway = await start()
    await gateway.location("one", auth={"token_env": "FRANKFURT_TOKEN"})
    text = await exported(gateway)
    assert b'"auth": {"token_env": "FRANKFURT_TOKEN"}' in text
    assert b"keystone-token" not in text
    assert ADMIN["Authorization"].split()[1].encode() not in text


async def test_the_error_for_a_changed_or_cut_export_names_the_line(start: Start) -> None:
    gateway = await start()
    before = await fill(gateway)
    lines = (await exported(gateway)).splitlines(keepends=True)
    seals = [i for i, line in enumerate(lines) if line.startswith(b"sum ")]
    middle = seals[5] + 2
    digit = b"0" if lines[middle][30:31] != b"0" else b"1"
    changed = lines[middle][:30] + digit + lines[middle][31:]
    for text, line in (
        (b"".join([*lines[:middle], changed, *lines[middle + 1 :]]), seals[6] + 1),
        (b"".join(lines[:middle]), middle + 1),
        (b"".join(lines[:-1]), len(lines)),
    ):
        other = await start()
        status, body = await imported(other, text)
        assert (status, body["code"], body["line"]) == (400, "invalid-export", line)
        assert f"line {line}: " in body["detail"]
        applied = body["applied"]
        assert f"{applied['images']} images with {applied['claims']} claims" in body["detail"]
        there = await contents(other.services.index)
        assert sum(map(len, there.values())) == applied["claims"] == applied["new"] > 0
        # The imported part is correct, and the complete file can be imported afterwards.
        assert all(ids.items() <= before[name].items() for name, ids in there.items())
        assert (await imported(other, b"".join(lines)))[0] == 200
        assert await contents(other.services.index) == before


async def test_nothing_is_imported_before_the_head_is_checked(start: Start) -> None:
    gateway = await start()
    await fill(gateway)
    text = await exported(gateway)
    head = text[: text.index(b"sum ")]
    for bad in (b"", b"nonsense", head, text.replace(b"https://two", b"https://twx", 1)):
        other = await start()
        status, body = await imported(other, bad)
        assert (status, body["code"]) == (400, "invalid-export")
        assert "nothing was imported" in body["detail"]
        assert (await other.services.index.records.load()).records == {}


async def test_a_location_with_another_url_is_refused(start: Start) -> None:
    gateway = await start()
    await fill(gateway)
    other = await start()
    await other.location("two", url="https://moved.example")
    status, body = await imported(other, await exported(gateway))
    assert (status, body["code"]) == (409, "other-location")
    assert "'two' is https://moved.example here and https://two.example:9292 in" in body["detail"]
    assert list((await other.services.index.records.load()).records) == ["two"]


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"allowed_hosts": "one.example"}, "https://two.example"),
        ({"require_https": True}, "http://two.example"),
        ({"public_url": "https://two.example"}, "https://two.example"),
    ],
)
async def test_imported_locations_are_checked_like_those_of_a_put(
    start: Start, settings: dict[str, Any], url: str
) -> None:
    locations = [Location(name="one", url="https://one.example"), Location(name="two", url=url)]
    writer = Writer(locations)
    other = await start(**settings)
    status, body = await imported(other, writer.head() + writer.end())
    assert (status, body["code"]) == (400, "invalid-location")
    assert "location two:" in body["detail"]
    assert (await other.services.index.records.load()).records == {}


async def test_an_import_leaves_no_claims_of_a_location_removed_meanwhile(start: Start) -> None:
    gateway = await start()
    await fill(gateway)
    text = await exported(gateway)
    other = await start()

    async def claimed() -> bool:
        return bool((await contents(other.services.index)).get("two"))

    async def body() -> AsyncIterator[bytes]:
        yield text[: len(text) // 2]
        await wait_until(claimed)
        await other.services.registry.remove("two")
        yield text[len(text) // 2 :]

    async with other.http.post("/index/import", data=body(), headers=ADMIN) as response:
        answer = await response.json(content_type=None)
    assert (response.status, answer["code"]) == (409, "conflict")
    assert "'two' was removed" in answer["detail"]
    assert "two" not in (await contents(other.services.index))
