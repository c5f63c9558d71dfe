"""Redis restored from an older snapshot, and a process that was away while Redis lost its data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from resolver.models import format_id
from resolver.standin import StandIn
from tests.faults.process import process
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
    """At once, as if Redis had been away for a moment."""
    with client.pipeline(transaction=True) as pipe:
        pipe.flushall()
        for key, value in saved.items():
            pipe.restore(key, 0, value)
        pipe.execute()


async def test_a_location_that_an_older_snapshot_lacks_is_registered_again(
    own_redis: RedisServer, servers: Servers
) -> None:
    given = {name: {"url": servers[name].url} for name in ("one", "two")}
    async with process(own_redis.url, {"one": given["one"]}) as one:
        await wait_until(lambda: one.finds(IN_ONE), 10)
    with own_redis.client() as client:
        saved = snapshot(client)
        async with process(own_redis.url, given) as one:
            await wait_until(lambda: one.finds(IN_TWO), 10)
            restore(client, saved)
            seen: set[str] = set()

            async def again() -> bool:
                _, body = await one.get(f"/resolve/{IN_TWO}")
                seen.add(body["outcome"])
                found: bool = body["outcome"] == "found"
                return found and "two" in (await one.services.tables.fresh()).by_name

            await wait_until(again, 10)
            assert seen <= {"found", "unknown"}, "it is there all the while"


async def test_a_location_that_was_not_given_is_missed(
    own_redis: RedisServer, servers: Servers
) -> None:
    async with process(own_redis.url, {"one": {"url": servers["one"].url}}) as one:
        await wait_until(lambda: one.finds(IN_ONE), 10)
        with own_redis.client() as client:
            saved = snapshot(client)
            await one.call("PUT", "/locations/two", url=servers["two"].url)
            await wait_until(lambda: one.finds(IN_TWO), 10)
            restore(client, saved)

        async def missed() -> bool:
            status, body = await one.get(f"/resolve/{IN_TWO}")
            assert status != 404, body
            return body.get("missing") == ["two"]

        await wait_until(missed, 10)
        await one.call("PUT", "/locations/two", url=servers["two"].url)
        await wait_until(lambda: one.finds(IN_TWO), 10)
        await one.call("DELETE", "/locations/two")

        async def absent() -> bool:
            status, _ = await one.get(f"/resolve/{IN_TWO}")
            return status == 404

        await wait_until(absent, 10, "what an operator removed is not missed")


async def test_a_number_that_is_given_again_names_nobody_else(
    own_redis: RedisServer, servers: Servers
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(own_redis.port))
        given = {"one": {"url": servers["one"].url}}
        other = await stack.enter_async_context(process(own_redis.url, given))
        one = await stack.enter_async_context(process(proxy.url, role="gateway"))
        await wait_until(lambda: one.finds(IN_ONE), 10)
        client = stack.enter_context(own_redis.client())
        saved = snapshot(client)
        await other.call("PUT", "/locations/two", url=servers["two"].url)
        await wait_until(lambda: one.finds(IN_TWO), 10)
        assert await one.finds(IN_TWO)
        before = one.services.tables.table
        proxy.delay = 60  # it sees none of what follows
        restore(client, saved)
        await wait_until(
            lambda: "two" not in other.services.tables.table.by_name, 10, "the older state"
        )
        await other.call("PUT", "/locations/three", url=servers["three"].url)
        after = await other.services.tables.fresh()
        assert after.version > before.version, "one version is never two tables"
        proxy.delay = 0
        proxy.cut()
        await wait_until(lambda: one.finds(IN_THREE), 10)
        _, body = await one.get(f"/resolve/{IN_TWO}")
        assert "three" not in {owner["location"] for owner in body["owners"]}
        status, body = await one.get(f"/resolve/{IN_TWO}")
        assert status != 404, body


async def test_who_was_away_undoes_nothing(own_redis: RedisServer, servers: Servers) -> None:
    given = {name: {"url": server.url} for name, server in servers.items()}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(own_redis.port))
        there = await stack.enter_async_context(process(own_redis.url, given))
        away = await stack.enter_async_context(process(proxy.url, given, role="gateway"))
        await wait_until(lambda: away.finds(IN_ONE), 10)
        await wait_until(lambda: len(away.services.tables.table) == 3)
        before = await there.services.index.identity()
        proxy.delay = 60
        own_redis.flush()
        await wait_until(lambda: there.services.index.identity_seen != before, 10)
        await wait_until(lambda: there.finds(IN_ONE), 10)
        await there.call("PATCH", "/locations/one", state="maintenance", reason="fire")
        await there.call("DELETE", "/locations/two")
        proxy.delay = 0
        proxy.cut()
        await wait_until(lambda: away.services.index.identity_seen != before, 10)
        await wait_until(lambda: away.services.bootstrap.registered_index != before, 10)
        for each in (there, away):
            table = await each.services.tables.fresh()
            assert {p.name: str(p.location.state) for p in table.by_name.values()} == {
                "one": "maintenance",
                "three": "active",
            }
