"""A process older than what wrote the index: it serves what it can, and reports the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resolver.index import ProcessInfo
from resolver.index.index_format import FORMAT
from resolver.models import format_id
from resolver.services import open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.ids import make_ids

ID, OTHER, *_ = [format_id(image_id) for image_id in make_ids(3)]
REGISTRY = "glr:{reg}:"
REBUILD = ("POST", "/index/rebuild")


async def write_foreign_location(gateway: Gateway, record: str) -> None:
    client = gateway.services.index.client
    await client.command("HSET", REGISTRY + "locations", "bad", record)
    await client.command("INCR", REGISTRY + "version")


async def problems(gateway: Gateway) -> list[dict[str, Any]]:
    response, body = await gateway.get("/status")
    assert response.status == 200
    found: list[dict[str, Any]] = body["problems"]
    return found


async def test_an_unreadable_location_hides_no_other(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    await write_foreign_location(gateway, '7 {"api":"v9"}')
    assert (await gateway.get(f"/v2/images/{ID}"))[0].status == 307
    response, body = await gateway.get(f"/resolve/{OTHER}")
    assert (response.status, body["outcome"], body["missing"]) == (503, "unknown", ["bad"])
    assert "TypeError" not in json.dumps(body)
    (problem,) = await problems(gateway)
    assert (problem["code"], problem["location"]) == ("unreadable-record", "bad")


async def test_a_location_that_cannot_be_read_can_be_removed_and_not_changed(
    gateway: Gateway,
) -> None:
    await gateway.location("one")
    await write_foreign_location(gateway, "7 {}")
    for method in ("PUT", "PATCH"):
        response, body = await gateway.call(
            method, "/locations/bad", headers=ADMIN, json={"url": "http://127.0.0.1:9"}
        )
        assert (response.status, body["code"]) == (409, "unreadable-record")
    response, _ = await gateway.call("DELETE", "/locations/bad", headers=ADMIN)
    assert response.status == 204
    assert await problems(gateway) == []


async def test_a_read_only_process_serves_and_refuses_changes(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    index = gateway.services.index
    await index.client.command("HSET", REGISTRY + "meta", "writers", FORMAT + 1)
    await index.identity()
    assert (await gateway.get(f"/v2/images/{ID}"))[0].status == 307
    assert (await gateway.get("/readyz"))[0].status == 200
    (problem,) = await problems(gateway)
    assert problem["code"] == "version-skew"
    for method, path, body in (
        ("PUT", "/locations/two", {"url": "http://127.0.0.1:9"}),
        ("DELETE", "/locations/one", None),
        ("POST", "/locations/one/sweep", None),
        ("PUT", f"/locations/one/images/{OTHER}", None),
    ):
        response, answer = await gateway.call(method, path, headers=ADMIN, json=body)
        assert (response.status, answer["code"]) == (503, "index-read-only"), (method, path)
        assert "upgrade this process" in answer["detail"]


@pytest.mark.redis
async def test_a_read_only_process_starts_and_sweeps_nothing(start: Start, redis_url: str) -> None:
    newer = await start(redis_url=redis_url)
    await newer.location("one")
    index = newer.services.index
    await index.client.command("HSET", REGISTRY + "meta", "writers", FORMAT + 1)
    async with StandIn() as two:
        settings = Settings(redis_url=redis_url, admin_tokens="", port=0)
        async with open_services(settings, {"two": {"url": two.url}}) as older:
            assert older.bootstrap.fault == ""
            await older.indexer.tick()
            assert list((await older.tables.current()).by_name) == ["one"]
            assert older.indexer.stats.last_tick
    assert await index.client.command("GET", "glr:lease:health:0") is None


async def test_a_rebuild_that_older_processes_could_not_follow_is_refused(start: Start) -> None:
    """Only where an older version has made the index: its ids would be spread."""
    gateway = await start()
    index = gateway.services.index
    await index.client.command("HSET", REGISTRY + "meta", "bits", 8, "format", 1, "writers", 1)
    await index.identity()
    older = ProcessInfo(id="a", role="gateway", version="0.0.9", host="h", pid=1, since=1.0)
    await index.processes.announce(older)
    for bits in (8, 9):
        response, problem = await gateway.call(*REBUILD, json={"bits": bits}, headers=ADMIN)
        assert response.status == 409
        assert "0.0.9" in problem["detail"]
    assert await index.rebuild.requested() is None
    await index.processes.leave(older)
    response, _ = await gateway.call(*REBUILD, json={"bits": 8}, headers=ADMIN)
    assert response.status == 202
    assert await index.rebuild.requested() == 8
