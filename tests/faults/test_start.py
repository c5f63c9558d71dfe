"""Processes that start without Redis, and a Redis that comes back without its data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import redis

from resolver.errors import SettingsError
from resolver.index import open_index
from resolver.models import format_id
from resolver.standin import StandIn
from tests.faults.process import StartupLocations, process
from tests.support.ids import make_ids
from tests.support.redis import RedisServer, free_port
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis
IN_ONE, IN_TWO, NOWHERE, *_ = [format_id(image_id) for image_id in make_ids(10)]


@pytest.fixture
async def given() -> AsyncIterator[StartupLocations]:
    async with StandIn() as one, StandIn() as two:
        one.add(id=IN_ONE)
        two.add(id=IN_TWO)
        yield {"one": {"url": one.url}, "two": {"url": two.url}}


async def test_a_process_that_starts_without_redis_recovers(
    own_redis: RedisServer, given: StartupLocations
) -> None:
    own_redis.kill()
    async with process(own_redis.url, given) as one:
        assert "Redis did not answer" in await one.ready()
        for path in ("/healthcheck", "/metrics"):
            async with one.http.get(path) as response:
                assert response.status == 200
        status, body = await one.get(f"/resolve/{IN_ONE}")
        assert (status, body["code"]) == (503, "index-unavailable")
        assert (body["id"], body["outcome"], body["missing"]) == (IN_ONE, "unknown", [])
        own_redis.start()
        await wait_until(lambda: one.finds(IN_ONE), 10)
        assert await one.ready() == ""


async def test_those_that_send_notifications_are_registered_too(
    own_redis: RedisServer, given: StartupLocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else may have the same ones, which no table shows that is not there yet."""
    monkeypatch.setenv("BROKER", f"amqp://127.0.0.1:{free_port()}/")
    given["one"]["notifications"] = {"url_env": "BROKER"}
    async with process(own_redis.url, given) as one:
        assert await one.ready() == ""
        await wait_until(lambda: one.finds(IN_ONE), 10)
        before = await one.services.index.identity()
        own_redis.flush()
        await wait_until(lambda: one.services.index.identity_seen != before, 10)
        await wait_until(lambda: one.finds(IN_ONE), 10)
        given["two"]["notifications"] = given["one"]["notifications"]
    with pytest.raises(SettingsError, match="those of location 'one'"):
        async with process(own_redis.url, given):
            pass


async def test_a_wrong_password_is_told(own_redis: RedisServer, given: StartupLocations) -> None:
    with own_redis.client() as client:
        client.config_set("requirepass", "right")
    async with process(f"redis://:wrong@127.0.0.1:{own_redis.port}/0", given) as one:
        assert "password" in await one.ready()
        with redis.Redis(port=own_redis.port, password="right") as client:
            client.config_set("requirepass", "wrong")
        await wait_until(lambda: one.finds(IN_TWO), 10)


async def test_other_bits_are_told(own_redis: RedisServer) -> None:
    async with open_index(own_redis.url, bits=11):
        pass
    with pytest.raises(SettingsError, match="RESOLVER_INDEX_BITS=11, not 12"):
        async with process(own_redis.url, index_bits=12):
            pytest.fail("it started")
    own_redis.kill()
    async with process(own_redis.url, index_bits=12) as one:
        own_redis.start()
        async with open_index(own_redis.url, bits=11):
            pass

        async def told() -> bool:
            return "RESOLVER_INDEX_BITS=11, not 12" in await one.ready()

        # It may have made the index itself before.
        if one.services.index.identity_seen == "":
            await wait_until(told)


async def test_a_url_of_no_known_form_is_an_error_at_start() -> None:
    with pytest.raises(SettingsError, match="RESOLVER_REDIS_URL"):
        async with process("mysql://x"):
            pytest.fail("it started")


async def test_nowhere_is_no_reason_to_hang() -> None:
    async with process(f"redis://127.0.0.1:{free_port()}") as one:
        assert "Redis did not answer" in await one.ready()


@pytest.mark.parametrize("how", ["flushed", "restarted"])
async def test_locations_that_were_given_come_back_and_are_swept(
    own_redis: RedisServer, given: StartupLocations, how: str
) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(process(own_redis.url, given, role="indexer"))
        other = await stack.enter_async_context(process(own_redis.url, role="gateway"))
        await wait_until(lambda: other.finds(IN_TWO), 10)
        await other.call("PATCH", "/locations/one", state="draining", reason="racks")
        await wait_until(lambda: one.services.tables.table.by_name["one"].location.reason)
        before = await one.services.index.identity()
        numbers = set(one.services.tables.table.by_number)
        if how == "flushed":
            own_redis.flush()
        else:
            own_redis.kill()
            own_redis.start()

        async def new() -> bool:
            status, body = await other.get(f"/resolve/{NOWHERE}")
            if status != 503:  # those that were given are there again, and both said no
                assert (status, body["source"]) == (404, "probe")
                assert other.services.tables.table.identity != before
                assert {*other.services.tables.table.by_name} == {"one", "two"}
            _, body = await other.get(f"/resolve/{IN_TWO}")
            assert body["outcome"] == "found", body
            return other.services.index.identity_seen != before

        await wait_until(new, 10)
        await wait_until(lambda: other.finds(IN_ONE), 10)
        await wait_until(lambda: other.finds(IN_TWO), 10)
        table = await other.services.tables.current()
        assert {p.name: str(p.location.state) for p in table.by_name.values()} == {
            "one": "draining",
            "two": "active",
        }
        assert not numbers & set(table.by_number), "numbers are never given twice"


async def test_who_was_removed_does_not_come_back(
    own_redis: RedisServer, given: StartupLocations
) -> None:
    async with process(own_redis.url, given) as one:
        await wait_until(lambda: one.finds(IN_ONE), 10)
        await one.call("DELETE", "/locations/two")
        await wait_until(lambda: len(one.services.tables.table) == 1)
        await one.get(f"/resolve/{IN_TWO}")
        before = await one.services.index.identity()
        own_redis.flush()
        await wait_until(
            lambda: one.services.index.identity_seen != before, 10, "a new index"
        )
        await wait_until(lambda: one.finds(IN_ONE), 10)
        assert list((await one.services.tables.current()).by_name) == ["one"]


async def test_what_was_registered_by_hand_is_missed(
    own_redis: RedisServer, given: StartupLocations
) -> None:
    """It is not there any more, and nobody says that its images are absent."""
    url = given.pop("two")["url"]
    async with process(own_redis.url, given) as one:
        await one.call("PUT", "/locations/two", url=url)
        await wait_until(lambda: one.finds(IN_TWO), 10)
        before = await one.services.index.identity()
        own_redis.flush()
        await wait_until(
            lambda: one.services.index.identity_seen != before, 10, "a new index"
        )
        for text in (IN_TWO, NOWHERE):
            status, body = await one.get(f"/resolve/{text}")
            assert (status, body["outcome"]) == (503, "unknown")
            assert "two" in body["missing"]
        await one.call("PUT", "/locations/two", url=url)
        await wait_until(lambda: one.finds(IN_TWO), 10)

        async def absent() -> bool:
            return (await one.get(f"/resolve/{NOWHERE}"))[0] == 404

        await wait_until(absent)


async def test_who_was_given_nothing_waits_for_who_was(own_redis: RedisServer) -> None:
    async with StandIn() as server, process(own_redis.url) as one:
        server.add(id=IN_ONE)
        await one.call("PUT", "/locations/one", url=server.url)
        await wait_until(lambda: one.finds(IN_ONE), 10)
        own_redis.flush()

        async def told() -> bool:
            return "register them again" in await one.ready()

        await wait_until(told, 10)
        _, body = await one.get(f"/resolve/{IN_ONE}")
        assert (body["outcome"], body["source"]) == ("found", "stale")
        await one.call("PUT", "/locations/one", url=server.url)
        await wait_until(lambda: one.finds(IN_ONE), 10)

        async def ready() -> bool:
            return await one.ready() == ""

        await wait_until(ready)
