"""A gateway's answers while Redis does not answer: stale ones, probed ones, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from resolver.errors import IndexUnavailable
from resolver.models import format_id
from resolver.resolution import Resolver
from resolver.resolution.breaker import FAILURES_TO_OPEN
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.clock import Stopwatch
from tests.support.clouds import Cloud
from tests.support.ids import make_ids
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis
KNOWN, UNASKED, ABSENT, *_ = [format_id(image_id) for image_id in make_ids(10)]


OUTAGE_SECONDS = 1.5
STALE_FOR_SECONDS = 1.0
RETRY_SECONDS = 0.25
"""Between two attempts to use Redis again."""


@dataclass
class World:
    gateway: Gateway
    redis: RedisServer
    proxy: Proxy
    cloud: Cloud

    async def warm(self) -> None:
        """Asks until the answer comes from the gateway's cache."""

        async def is_cached() -> bool:
            _, body = await self.gateway.get(f"/resolve/{KNOWN}")
            return bool(body["source"] == "cache")

        await wait_until(is_cached)

    async def without_redis(self) -> None:
        """Asks until the gateway answers without Redis."""

        async def is_stale() -> bool:
            _, body = await self.gateway.get(f"/resolve/{KNOWN}")
            return bool(body.get("source") != "cache" and self.resolver.breaker.error)

        await wait_until(is_stale)

    @property
    def resolver(self) -> Resolver:
        return self.gateway.services.resolver


@asynccontextmanager
async def make_world(start: Start, redis: RedisServer, **settings: Any) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(redis.port))
        gateway = await start(
            **{"redis_url": proxy.url, "probe": True, "index_timeout": 0.25, **settings}
        )
        cloud = Cloud(gateway.services, stack)
        for name in ("one", "two"):
            await cloud.add(name)
        cloud.servers["one"].add(id=KNOWN)
        cloud.servers["two"].add(id=UNASKED)
        await gateway.claim("one", KNOWN)
        world = World(gateway, redis, proxy, cloud)
        await world.warm()
        yield world


@pytest.fixture
async def world(start: Start, own_redis: RedisServer) -> AsyncIterator[World]:
    async with make_world(start, own_redis) as world:
        yield world


def cut_off(world: World, how: str) -> None:
    if how == "killed":
        world.redis.kill()
    elif how == "silent":
        world.proxy.silent = True
    else:
        world.proxy.refuse = True
        world.proxy.cut()


FAULTS = ["killed", "silent", "cut"]


@pytest.mark.parametrize("how", FAULTS)
async def test_known_images_keep_resolving(world: World, how: str) -> None:
    gateway = world.gateway
    cut_off(world, how)
    begun, request = Stopwatch(), Stopwatch()
    while begun.elapsed < OUTAGE_SECONDS:
        request.restart()
        response, _ = await gateway.get(f"/v2/images/{KNOWN}")
        assert response.status == 307
        assert response.headers["Location"].startswith(world.cloud.servers["one"].url)
        assert request.own_seconds < 0.1, "no request waits for Redis"
        await asyncio.sleep(0.005)
    await world.without_redis()
    response, body = await gateway.get(f"/resolve/{KNOWN}")
    assert (response.status, body["source"]) == (200, "stale")
    assert body["age"] >= 1
    assert [owner["location"] for owner in body["owners"]] == ["one"]
    _, body = await gateway.get(f"/resolve/{KNOWN}/explain")
    assert (body["outcome"], body["source"]) == ("found", "stale")
    _, body = await gateway.get(f"/resolve/{UNASKED}")
    assert (body["outcome"], body["source"]) == ("found", "probe")
    response, body = await gateway.get(f"/resolve/{ABSENT}")
    assert (response.status, body["outcome"]) == (503, "unknown")
    assert response.headers["Retry-After"]
    assert "Redis did not answer" in body["detail"]
    _, rows = await gateway.call("POST", "/resolve", json=[KNOWN, UNASKED, ABSENT])
    assert [(row["outcome"], row["source"]) for row in rows] == [
        ("found", "stale"),
        ("found", "probe"),
        ("unknown", "stale"),
    ]


@pytest.mark.parametrize("how", ["silent", "cut"])
async def test_changes_during_an_outage_take_effect_when_redis_is_back(
    world: World, how: str
) -> None:
    cut_off(world, how)
    await world.without_redis()
    with world.redis.client() as client:
        for key in client.scan_iter("glr:[0-9A-Za-z]:*"):
            client.delete(key)
    world.cloud.servers["one"].delete(KNOWN)
    world.proxy.silent = world.proxy.refuse = False
    await wait_until(lambda: world.resolver.breaker.error is None)
    response, body = await world.gateway.get(f"/resolve/{KNOWN}")
    assert (response.status, body["outcome"]) == (404, "absent")


@pytest.mark.parametrize("state", ["removed", "maintenance", "excluded"])
async def test_stale_answers_never_offer_an_unusable_location(world: World, state: str) -> None:
    gateway = world.gateway
    headers = {}
    if state == "removed":
        await gateway.call("DELETE", "/locations/one", headers=ADMIN)
    elif state == "maintenance":
        fields = {"state": "maintenance", "reason": "disks"}
        await gateway.call("PATCH", "/locations/one", headers=ADMIN, json=fields)
    else:
        headers = {"X-Resolver-Exclude": "one"}
    if state != "excluded":  # the next request reads the changed table
        await gateway.get(f"/resolve/{UNASKED}")
    cut_off(world, "killed")
    for _ in range(5):
        response, body = await gateway.get(f"/v2/images/{KNOWN}", headers=headers)
        assert (response.status, body["outcome"]) == (503, "unknown")


async def test_a_fresh_request_is_not_answered_from_stale_claims(world: World) -> None:
    world.cloud.servers["one"].delete(KNOWN)
    cut_off(world, "killed")
    response, body = await world.gateway.get(f"/resolve/{KNOWN}?fresh=1")
    assert (response.status, body["outcome"]) == (503, "unknown")
    world.cloud.servers["two"].add(id=KNOWN)
    _, body = await world.gateway.get(f"/resolve/{KNOWN}?fresh=1")
    assert (body["owners"][0]["location"], body["source"]) == ("two", "probe")


async def test_one_request_at_a_time_tries_redis(world: World) -> None:
    cut_off(world, "killed")
    await world.without_redis()
    lookups = 0
    lookup = world.gateway.services.index.claims.lookup

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal lookups
        lookups += 1
        return await lookup(*args, **options)

    world.gateway.services.index.claims.lookup = counted  # type: ignore[method-assign]
    begun = Stopwatch()
    while begun.elapsed < 1 or not lookups:
        await asyncio.gather(*(world.gateway.get(f"/resolve/{KNOWN}") for _ in range(20)))
    assert lookups <= 2 + begun.elapsed / RETRY_SECONDS


async def test_a_stale_answer_is_given_no_longer_than_the_setting_allows(
    start: Start, own_redis: RedisServer
) -> None:
    async with make_world(start, own_redis, stale_for=STALE_FOR_SECONDS) as world:
        cut_off(world, "killed")
        await world.without_redis()

        async def is_unavailable() -> bool:
            response, body = await world.gateway.get(f"/resolve/{KNOWN}")
            assert response.status != 503 or response.headers["Retry-After"]
            return (response.status, body.get("code")) == (503, "index-unavailable")

        await wait_until(is_unavailable)


@pytest.mark.parametrize("change", ["removed", "maintenance", "released"])
async def test_changes_through_this_gateway_take_effect_at_once(world: World, change: str) -> None:
    """Redis answers again, and requests do not use it yet."""
    gateway, breaker = world.gateway, world.resolver.breaker
    for _ in range(FAILURES_TO_OPEN):
        breaker.record_failure(IndexUnavailable("Redis did not answer"))
    _, body = await gateway.get(f"/resolve/{KNOWN}")
    assert breaker.error is not None
    assert body["owners"][0]["location"] == "one"
    if change == "removed":
        await gateway.call("DELETE", "/locations/one", headers=ADMIN)
    elif change == "maintenance":
        fields = {"state": "maintenance", "reason": "disks"}
        await gateway.call("PATCH", "/locations/one", headers=ADMIN, json=fields)
    else:
        world.cloud.servers["one"].delete(KNOWN)
        await gateway.call("DELETE", f"/locations/one/images/{KNOWN}", headers=ADMIN)
    _, body = await gateway.get(f"/resolve/{KNOWN}")
    assert body.get("owners", []) == []
