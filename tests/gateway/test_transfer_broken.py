"""Exports and imports that break off, and exports while the buckets change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from resolver.errors import IndexUnavailable
from resolver.gateway.api.transfer import walk
from resolver.index import open_index
from resolver.models import Owner
from tests.gateway.conftest import ADMIN, Start
from tests.gateway.test_transfer import exported, fill, imported, small
from tests.support.ids import make_ids
from tests.support.wait import wait_until

__all__ = ["small"]

pytestmark = pytest.mark.usefixtures("small")


async def test_what_is_wrong_before_the_first_byte_is_a_problem_document(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    await gateway.location("one")

    async def fails(*_: object, **__: object) -> AsyncIterator[Any]:
        raise IndexUnavailable("Redis did not answer: gone")
        yield

    monkeypatch.setattr(gateway.services.index.claims, "read", fails)
    response, body = await gateway.get("/index/export", headers=ADMIN)
    assert (response.status, body["code"]) == (503, "index-unavailable")


async def test_an_export_that_stops_does_not_look_whole(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    await fill(gateway)
    claims = gateway.services.index.claims
    read = claims.read

    async def fails(first: int = 0, *rest: Any, **named: Any) -> AsyncIterator[Any]:
        if first > 100:
            raise IndexUnavailable("Redis did not answer: gone")
        async for one in read(first, *rest, **named):
            yield one

    monkeypatch.setattr(claims, "read", fails)
    got = b""

    async def gather() -> None:
        nonlocal got
        async with gateway.http.get("/index/export", headers=ADMIN) as response:
            async for data in response.content.iter_any():
                got += data

    with pytest.raises(aiohttp.ClientPayloadError):
        await gather()
    assert got.endswith(b"error Redis did not answer: gone\n")
    status, body = await imported(await start(), got)
    assert status == 400
    assert "the export stopped here: Redis did not answer: gone" in body["detail"]


async def test_a_client_may_go_away(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await start()
    await fill(gateway)
    async with gateway.http.get("/index/export", headers=ADMIN) as response:
        await response.content.readany()
        response.close()
    text = await exported(gateway)

    async def body() -> AsyncIterator[bytes]:
        yield text[: len(text) // 2]
        raise OSError("the cable was pulled")

    with pytest.raises(aiohttp.ClientError):
        await gateway.http.post("/index/import", data=body(), headers=ADMIN)
    await wait_until(lambda: "import broke off" in caplog.text)
    assert "Traceback" not in caplog.text
    assert (await gateway.get("/livez"))[0].status == 200


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (8, 13)])
async def test_every_image_once_when_the_buckets_change_meanwhile(
    index_url: str, old: int, new: int
) -> None:
    async with open_index(index_url, bits=old) as index:
        ids = make_ids(300)
        await index.claims.claim(1, ids)
        got: list[bytes] = []
        bits = set()
        async for rows in walk(index.claims):
            bits.add(index.bits)
            got += [image_id for image_id, _ in rows]
            if len(got) > 50 and index.bits == old:
                other = index.claims.layout.of(new)
                for image_id in ids:
                    value = bytes([Owner(1).number << 1])
                    await index.client.command(
                        "HSET", other.key(other.number(image_id)), other.field(image_id), value
                    )
                await index.client.command("HSET", "glr:{reg}:meta", "bits", new)
                gone = index.claims.layout.of(old)
                for bucket in range(gone.count):
                    await index.client.command("UNLINK", gone.key(bucket))
        assert bits == {old, new}
        assert got == sorted(ids)
