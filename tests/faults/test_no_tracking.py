"""A Redis that reports no changes: known images outlive it all the same, and it is reported."""

from __future__ import annotations

import pytest

from resolver.index import ClaimCache, open_index
from resolver.models import Owner
from tests.gateway.conftest import Gateway, Start, start
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

__all__ = ["start"]

pytestmark = pytest.mark.redis

KNOWN, OTHER = make_ids(2)
ID = KNOWN.hex()
STALE_FOR_SECONDS = 0.5


def url_without_tracking(redis: RedisServer) -> str:
    redis.ask("ACL SETUSER", "plain", "reset", "on", ">pw", "~*", "+@all", "-client")
    return f"redis://plain:pw@{redis.address}/0"


async def problems(gateway: Gateway) -> dict[str, str]:
    _, body = await gateway.get("/status")
    return {problem["code"]: problem["action"] for problem in body["problems"]}


async def test_a_known_image_outlives_a_redis_that_hangs(
    start: Start, own_redis: RedisServer
) -> None:
    gateway = await start(redis_url=url_without_tracking(own_redis), probe=True)
    await gateway.location("one")
    await gateway.claim("one", ID)
    _, body = await gateway.get(f"/resolve/{ID}")
    assert (body["outcome"], body["source"]) == ("found", "index")
    assert "+client|tracking" in (await problems(gateway))["client-tracking"]
    text = await gateway.http.get("/metrics")
    assert "glance_resolver_without_tracking 1.0" in await text.text()
    own_redis.pause()
    try:
        _, body = await gateway.get(f"/resolve/{ID}")
        assert (body["outcome"], body["source"]) == ("found", "stale")
        response, _ = await gateway.get(f"/v2/images/{ID}")
        assert response.status == 307
    finally:
        own_redis.resume()

    async def from_redis() -> bool:
        _, body = await gateway.get(f"/resolve/{ID}")
        return bool(body["source"] == "index")

    await wait_until(from_redis, message="Redis is asked again")


async def test_without_tracking_cached_owners_expire_and_are_replaced_by_later_reads(
    own_redis: RedisServer,
) -> None:
    now = 100.0
    cache = ClaimCache(10, 60, STALE_FOR_SECONDS, clock=lambda: now)
    url = url_without_tracking(own_redis)
    async with open_index(url, bits=8, cache=cache) as index:
        await index.claims.claim(1, [KNOWN, OTHER])
        await index.claims.lookup([KNOWN, OTHER], cache=True)
        assert index.claims.cached(KNOWN) is None
        assert index.claims.cached_stale(KNOWN) == ((Owner(1),), 0.0)
        async with open_index(own_redis.url) as other:
            await other.claims.release(1, [KNOWN])
        await index.claims.lookup([KNOWN], cache=True)
        assert index.claims.cached_stale(KNOWN) is None
        assert index.claims.cached_stale(OTHER) == ((Owner(1),), 0.0)
        now += 2 * STALE_FOR_SECONDS
        assert index.claims.cached_stale(OTHER) is None
        for image_id in make_ids(50, seed=7):
            await index.claims.claim(1, [image_id])
            await index.claims.lookup([image_id], cache=True)
        assert cache.count <= cache.size


async def test_nothing_read_without_tracking_counts_as_current_later(
    own_redis: RedisServer,
) -> None:
    cache = ClaimCache(10, 60, 60)
    async with open_index(url_without_tracking(own_redis), bits=8, cache=cache) as index:
        await index.claims.claim(1, [KNOWN])
        await index.claims.lookup([KNOWN], cache=True)
        own_redis.ask("ACL SETUSER", "plain", "+client|tracking")
        own_redis.ask("CLIENT KILL", "USER", "plain")

        async def tracked() -> bool:
            await index.ping()
            await index.claims.lookup([])
            return index.tracking_current()

        await wait_until(tracked)
        assert index.claims.cached(KNOWN) is None
        assert index.claims.cached_stale(KNOWN) is not None
