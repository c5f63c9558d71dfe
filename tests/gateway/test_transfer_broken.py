"""Exports and imports that break off, and a walk over the index while its buckets change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from resolver.index import open_index, walk
from resolver.models import Owner
from resolver.settings import Settings
from tests.gateway.conftest import ADMIN, TOKEN, Gateway, Start
from tests.gateway.instrumented import instrumented_gateway
from tests.gateway.test_transfer import exported, fill, imported
from tests.support.ids import make_ids, make_v7_ids
from tests.support.instrumented_client import InstrumentedClient
from tests.support.wait import wait_until

SETTINGS = Settings(port=0, role="gateway", admin_tokens=(f"ops={TOKEN}",), probe=False)


async def test_an_error_before_the_first_byte_is_a_problem_document() -> None:
    client = InstrumentedClient()
    async with instrumented_gateway(client, SETTINGS) as gateway:
        await gateway.location("one")
        client.fails = lambda: client.counts["HGETALL"] > 0
        response, body = await gateway.get("/index/export", headers=ADMIN)
        assert (response.status, body["code"]) == (503, "index-unavailable")


async def test_an_export_that_stops_does_not_look_complete(start: Start) -> None:
    client = InstrumentedClient()
    received = b""

    async def receive(gateway: Gateway) -> None:
        nonlocal received
        async with gateway.http.get("/index/export", headers=ADMIN) as response:
            async for data in response.content.iter_any():
                received += data

    async with instrumented_gateway(client, SETTINGS) as gateway:
        await fill(gateway)
        client.counts.clear()
        client.fails = lambda: client.counts["HGETALL"] > 100
        with pytest.raises(aiohttp.ClientPayloadError):
            await receive(gateway)
    *_, last = received.splitlines()
    assert last.startswith(b"error Redis ")
    status, body = await imported(await start(), received)
    assert status == 400
    assert "the export stopped here: Redis " in body["detail"]
    assert body["applied"]["claims"] > 0


async def test_a_client_may_disconnect(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await start()
    await fill(gateway)
    async with gateway.http.get("/index/export", headers=ADMIN) as response:
        await response.content.readany()
        response.close()
    text = await exported(gateway)

    async def body() -> AsyncIterator[bytes]:
        yield text[: len(text) // 2]
        raise OSError("connection lost")

    with pytest.raises(aiohttp.ClientError):
        await gateway.http.post("/index/import", data=body(), headers=ADMIN)
    await wait_until(lambda: "import body incomplete" in caplog.text)
    assert "Traceback" not in caplog.text
    assert (await gateway.get("/livez"))[0].status == 200


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (8, 13)])
async def test_a_walk_returns_every_image_once_while_the_buckets_change(
    index_url: str, old: int, new: int
) -> None:
    async with open_index(index_url, bits=old) as index:
        ids = [*sorted(make_ids(300)), *make_v7_ids(100)]
        await index.claims.claim(1, ids)
        walked: list[bytes] = []
        bits = set()
        async for rows in walk(index.claims):
            bits.add(index.bits)
            walked += [image_id for image_id, _ in rows]
            if len(walked) > 50 and index.bits == old:
                other = index.claims.layout.of(new)
                for image_id in ids:
                    value = bytes([Owner(1).number << 1])
                    await index.client.command(
                        "HSET", other.key(other.number(image_id)), other.field(image_id), value
                    )
                await index.client.command("HSET", "glr:{reg}:meta", "bits", other.code)
                gone = index.claims.layout.of(old)
                for bucket in range(gone.count):
                    await index.client.command("UNLINK", gone.key(bucket))
        assert bits == {old, new}
        assert walked[:300] == ids[:300]
        assert sorted(walked[300:]) == ids[300:]
