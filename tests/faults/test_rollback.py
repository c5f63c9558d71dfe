"""Redis restored from an older snapshot, and a process that missed a loss of Redis's data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from resolver.models import format_id
from resolver.standin import StandIn
from tests.faults.resolver_process import process
from tests.support.ids import make_ids
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis
IN_ONE, IN_TWO, IN_THREE, *_ = [format_id(image_id) for image_id in make_ids(10)]
Servers = dict[str, StandIn]


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        made = {}
        for name, text in (("one", IN_ONE), ("two", IN_TWO), ("three", IN_THREE)):
            made[name] = await stack.enter_async_context(StandIn())
            made[name].add(id=text)
        yield made


def snapshot(client: redis.Redis[bytes]) -> dict[bytes, Any]:
    return {key: client.dump(key) for key in client.scan_iter("*{reg}*")}


def restore(client: redis.Redis[bytes], saved: dict[bytes, Any]) -> None:
    """In one transaction, as after a short outage."""
    with client.pipeline(transaction=True) as pipe:
        pipe.flushall()
        for key, value in saved.items():
            pipe.restore(key, 0, value)
        pipe.execute()


async def test_a_location_that_an_older_snapshot_lacks_is_registered_again(
    own_redis: RedisServer, servers: Servers
) -> None:
    startup_locations = {name: {"url": servers[name].url} for name in ("one", "two")}
    async with process(own_redis.url, {"one": startup_locations["one"]}) as resolver:
        await wait_until(lambda: resolver.finds(IN_ONE))
    with own_redis.client() as client:
        saved = snapshot(client)
        async with process(own_redis.url, startup_locations) as resolver:
            await wait_until(lambda: resolver.finds(IN_TWO))
            restore(client, saved)
            outcomes: set[str] = set()

            async def is_registered() -> bool:
                _, body = await resolver.get(f"/resolve/{IN_TWO}")
                outcomes.add(body["outcome"])
                found: bool = body["outcome"] == "found"
                return found and "two" in (await resolver.services.tables.fresh()).by_name

            await wait_until(is_registered)
            assert outcomes <= {"found", "unknown"}, "the image exists all the time"


async def test_a_lost_location_that_is_not_a_startup_location_is_listed_as_missing(
    own_redis: RedisServer, servers: Servers
) -> None:
    async with process(own_redis.url, {"one": {"url": servers["one"].url}}) as resolver:
        await wait_until(lambda: resolver.finds(IN_ONE))
        with own_redis.client() as client:
            saved = snapshot(client)
            await resolver.admin("PUT", "/locations/two", url=servers["two"].url)
            await wait_until(lambda: resolver.finds(IN_TWO))
            restore(client, saved)

        async def is_listed_as_missing() -> bool:
            status, body = await resolver.get(f"/resolve/{IN_TWO}")
            assert status != 404, body
            return body.get("missing") == ["two"]

        await wait_until(is_listed_as_missing)
        await resolver.admin("PUT", "/locations/two", url=servers["two"].url)
        await wait_until(lambda: resolver.finds(IN_TWO))
        await resolver.admin("DELETE", "/locations/two")

        await wait_until(
            lambda: resolver.is_absent(IN_TWO), message="a removed location is not missing"
        )


async def test_a_reused_number_gives_no_claims_to_another_location(
    own_redis: RedisServer, servers: Servers
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(own_redis.port))
        startup_locations = {"one": {"url": servers["one"].url}}
        other = await stack.enter_async_context(process(own_redis.url, startup_locations))
        resolver = await stack.enter_async_context(process(proxy.url, role="gateway"))
        await wait_until(lambda: resolver.finds(IN_ONE))
        client = stack.enter_context(own_redis.client())
        saved = snapshot(client)
        await other.admin("PUT", "/locations/two", url=servers["two"].url)
        await wait_until(lambda: resolver.finds(IN_TWO))
        assert await resolver.finds(IN_TWO)
        before = resolver.services.tables.table
        proxy.delay = 60  # it receives none of the following changes
        restore(client, saved)
        await wait_until(
            lambda: "two" not in other.services.tables.table.by_name, 10, "the older state"
        )
        await other.admin("PUT", "/locations/three", url=servers["three"].url)
        after = await other.services.tables.fresh()
        assert after.version > before.version, "one version is never two tables"
        proxy.delay = 0
        proxy.cut()
        await wait_until(lambda: resolver.finds(IN_THREE))
        _, body = await resolver.get(f"/resolve/{IN_TWO}")
        assert "three" not in {owner["location"] for owner in body["owners"]}
        status, body = await resolver.get(f"/resolve/{IN_TWO}")
        assert status != 404, body


async def test_a_process_that_lost_contact_undoes_no_change(
    own_redis: RedisServer, servers: Servers
) -> None:
    startup_locations = {name: {"url": server.url} for name, server in servers.items()}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(own_redis.port))
        connected = await stack.enter_async_context(process(own_redis.url, startup_locations))
        disconnected = await stack.enter_async_context(
            process(proxy.url, startup_locations, role="gateway")
        )
        await wait_until(lambda: disconnected.finds(IN_ONE))
        await wait_until(lambda: len(disconnected.services.tables.table) == 3)
        before = await connected.services.index.identity()
        proxy.delay = 60
        own_redis.flush()
        await wait_until(lambda: connected.services.index.identity_seen != before)
        await wait_until(lambda: connected.finds(IN_ONE))
        await connected.admin("PATCH", "/locations/one", state="maintenance", reason="fire")
        await connected.admin("DELETE", "/locations/two")
        proxy.delay = 0
        proxy.cut()
        await wait_until(lambda: disconnected.services.index.identity_seen != before)
        await wait_until(lambda: disconnected.services.bootstrap.registered_index != before)
        for process_ in (connected, disconnected):
            table = await process_.services.tables.fresh()
            assert {p.name: str(p.location.state) for p in table.by_name.values()} == {
                "one": "maintenance",
                "three": "active",
            }
