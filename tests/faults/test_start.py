"""Processes that start without Redis, and a Redis that loses its data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
import redis

from resolver.errors import SettingsError
from resolver.index import open_index
from resolver.models import format_id
from resolver.standin import StandIn
from tests.faults.resolver_process import Process, StartupLocations, process
from tests.support.ids import make_ids
from tests.support.process import free_port
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis
FLUSHES = 12
IN_ONE, IN_TWO, NOWHERE, *_ = [format_id(image_id) for image_id in make_ids(10)]


@pytest.fixture
async def startup_locations() -> AsyncIterator[StartupLocations]:
    async with StandIn() as one, StandIn() as two:
        one.add(id=IN_ONE)
        two.add(id=IN_TWO)
        yield {"one": {"url": one.url}, "two": {"url": two.url}}


async def test_a_process_that_starts_without_redis_recovers(
    own_redis: RedisServer, startup_locations: StartupLocations
) -> None:
    own_redis.kill()
    async with process(own_redis.url, startup_locations) as resolver:
        assert "Redis did not answer" in await resolver.faults()
        for path in ("/healthcheck", "/metrics"):
            async with resolver.http.get(path) as response:
                assert response.status == 200
        status, body = await resolver.get(f"/resolve/{IN_ONE}")
        assert (status, body["code"]) == (503, "index-unavailable")
        assert (body["id"], body["outcome"], body["missing"]) == (IN_ONE, "unknown", [])
        own_redis.start()
        await wait_until(lambda: resolver.finds(IN_ONE))
        await wait_until(resolver.is_ready)


async def test_startup_locations_with_notifications_are_registered_too(
    own_redis: RedisServer, startup_locations: StartupLocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check that two locations have no common queue works before there is a table."""
    monkeypatch.setenv("BROKER", f"amqp://127.0.0.1:{free_port()}/")
    startup_locations["one"]["notifications"] = {"url_env": "BROKER"}
    async with process(own_redis.url, startup_locations) as resolver:
        assert await resolver.is_ready()
        await wait_until(lambda: resolver.finds(IN_ONE))
        before = await resolver.services.index.identity()
        own_redis.flush()
        await wait_until(lambda: resolver.services.index.identity_seen != before)
        await wait_until(lambda: resolver.finds(IN_ONE))
        startup_locations["two"]["notifications"] = startup_locations["one"]["notifications"]
    with pytest.raises(SettingsError, match="those of location 'one'"):
        async with process(own_redis.url, startup_locations):
            pass


async def test_a_wrong_password_is_reported(
    own_redis: RedisServer, startup_locations: StartupLocations
) -> None:
    with own_redis.client() as client:
        client.config_set("requirepass", "right")
    async with process(
        f"redis://:wrong@127.0.0.1:{own_redis.port}/0", startup_locations
    ) as resolver:
        assert "password" in await resolver.faults()
        with redis.Redis(port=own_redis.port, password="right") as client:
            client.config_set("requirepass", "wrong")
        await wait_until(lambda: resolver.finds(IN_TWO))


async def test_an_index_keeps_its_number_of_buckets(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_index(own_redis.url, bits=11):
        pass
    async with process(own_redis.url, index_bits=12) as resolver:
        assert resolver.services.index.bits == 11
        assert "RESOLVER_INDEX_BITS ignored" in caplog.text


async def test_another_format_of_the_index_is_an_error_at_start(own_redis: RedisServer) -> None:
    async with open_index(own_redis.url):
        pass
    with redis.Redis(port=own_redis.port) as client:
        client.hset("glr:{reg}:meta", "format", 99)
    with pytest.raises(SettingsError, match="format 99"):
        async with process(own_redis.url):
            pytest.fail("it started")


async def test_an_unknown_url_scheme_is_an_error_at_start() -> None:
    with pytest.raises(SettingsError, match="RESOLVER_REDIS_URL"):
        async with process("mysql://x"):
            pytest.fail("it started")


async def test_a_port_without_redis_is_reported() -> None:
    async with process(f"redis://127.0.0.1:{free_port()}") as resolver:
        assert "Redis did not answer" in await resolver.faults()


@pytest.mark.parametrize("how", ["flushed", "restarted"])
async def test_startup_locations_are_registered_again_and_swept(
    own_redis: RedisServer, startup_locations: StartupLocations, how: str
) -> None:
    async with AsyncExitStack() as stack:
        indexer = await stack.enter_async_context(
            process(own_redis.url, startup_locations, role="indexer")
        )
        gateway = await stack.enter_async_context(process(own_redis.url, role="gateway"))
        await wait_until(lambda: gateway.finds(IN_TWO))
        await gateway.admin("PATCH", "/locations/one", state="draining", reason="racks")
        await wait_until(lambda: indexer.services.tables.table.by_name["one"].location.reason)
        before = await indexer.services.index.identity()
        numbers = set(indexer.services.tables.table.by_number)
        if how == "flushed":
            own_redis.flush()
        else:
            own_redis.kill()
            own_redis.start()

        async def is_new_index() -> bool:
            status, body = await gateway.get(f"/resolve/{NOWHERE}")
            if status != 503:  # the startup locations are registered, and both lack the image
                assert (status, body["source"]) == (404, "probe")
                assert gateway.services.tables.table.identity != before
                assert {*gateway.services.tables.table.by_name} == {"one", "two"}
            _, body = await gateway.get(f"/resolve/{IN_TWO}")
            assert body["outcome"] == "found", body
            return gateway.services.index.identity_seen != before

        await wait_until(is_new_index)
        await wait_until(lambda: gateway.finds(IN_ONE))
        await wait_until(lambda: gateway.finds(IN_TWO))
        table = await gateway.services.tables.current()
        assert {p.name: str(p.location.state) for p in table.by_name.values()} == {
            "one": "draining",
            "two": "active",
        }
        assert not numbers & set(table.by_number), "numbers are never used twice"


async def test_known_images_resolve_at_each_moment_of_a_flush(
    own_redis: RedisServer, startup_locations: StartupLocations
) -> None:
    """From what was read before, then by asking the locations; also while the index is made again,
    when some requests still see none and others have seen the next."""
    async with process(own_redis.url, startup_locations) as resolver:
        for text in (IN_ONE, IN_TWO):
            await wait_until(partial(resolver.finds, text))
        wrong = []
        ended = asyncio.Event()

        async def ask(text: str) -> None:
            while not ended.is_set():
                status, body = await resolver.get(f"/resolve/{text}")
                if status != 200:
                    wrong.append(body)

        clients = [asyncio.create_task(ask(text)) for text in (IN_ONE, IN_TWO) * 4]
        for _ in range(FLUSHES):
            before = resolver.services.index.identity_seen
            own_redis.flush()
            await wait_until(partial(has_another_index, resolver, before))
            for text in (IN_ONE, IN_TWO):  # read from the new index, and so known again
                await wait_until(partial(resolver.finds, text))
        ended.set()
        await asyncio.gather(*clients)
        assert not [(w["missing"], w.get("detail"), w["source"]) for w in wrong]


def has_another_index(resolver: Process, before: str) -> bool:
    return resolver.services.index.identity_seen not in ("", before)


async def test_a_removed_startup_location_stays_removed(
    own_redis: RedisServer, startup_locations: StartupLocations
) -> None:
    async with process(own_redis.url, startup_locations) as resolver:
        await wait_until(lambda: resolver.finds(IN_ONE))
        await resolver.admin("DELETE", "/locations/two")
        await wait_until(lambda: len(resolver.services.tables.table) == 1)
        await resolver.get(f"/resolve/{IN_TWO}")
        before = await resolver.services.index.identity()
        own_redis.flush()
        await wait_until(lambda: resolver.services.index.identity_seen != before)
        await wait_until(lambda: resolver.finds(IN_ONE))
        assert list((await resolver.services.tables.current()).by_name) == ["one"]


async def test_a_removed_startup_location_stays_removed_after_a_restart(
    own_redis: RedisServer, startup_locations: StartupLocations
) -> None:
    async with process(own_redis.url, startup_locations) as resolver:
        await wait_until(lambda: resolver.finds(IN_TWO))
        await resolver.admin("DELETE", "/locations/two")
    async with process(own_redis.url, startup_locations) as resolver:
        await wait_until(lambda: resolver.finds(IN_ONE))
        await wait_until(lambda: resolver.is_absent(IN_TWO))
        _, body = await resolver.get("/status")
        codes = {(problem["code"], problem["location"]) for problem in body["problems"]}
        assert ("startup-location-removed", "two") in codes
        await resolver.admin("PUT", "/locations/two", **startup_locations["two"])
        await wait_until(lambda: resolver.finds(IN_TWO))


async def test_a_redis_that_is_too_late_for_requests_is_a_problem(
    own_redis: RedisServer, startup_locations: StartupLocations
) -> None:
    """It is early enough for everything else."""
    async with (
        Proxy(own_redis.port) as proxy,
        process(proxy.url, startup_locations) as resolver,
    ):
        await wait_until(lambda: resolver.finds(IN_ONE))
        assert await resolver.is_ready()
        proxy.delay = 0.6

        async def is_without_index() -> bool:
            await resolver.get(f"/resolve/{NOWHERE}")
            return resolver.services.resolver.breaker.error is not None

        await wait_until(is_without_index)
        assert "Redis did not answer" in await resolver.faults()
        proxy.delay = 0
        await wait_until(resolver.is_ready)


async def test_a_location_registered_by_hand_is_listed_as_missing(
    own_redis: RedisServer, startup_locations: StartupLocations
) -> None:
    """Redis lost it, so its images are not known to be absent."""
    url = startup_locations.pop("two")["url"]
    async with process(own_redis.url, startup_locations) as resolver:
        await resolver.admin("PUT", "/locations/two", url=url)
        await wait_until(lambda: resolver.finds(IN_TWO))
        before = await resolver.services.index.identity()
        own_redis.flush()
        await wait_until(lambda: resolver.services.index.identity_seen != before)
        for text in (IN_TWO, NOWHERE):
            status, body = await resolver.get(f"/resolve/{text}")
            assert (status, body["outcome"]) == (503, "unknown")
            assert "two" in body["missing"]
        await resolver.admin("PUT", "/locations/two", url=url)
        await wait_until(lambda: resolver.finds(IN_TWO))

        await wait_until(lambda: resolver.is_absent(NOWHERE))


async def test_a_process_without_startup_locations_waits_for_the_operator(
    own_redis: RedisServer,
) -> None:
    async with StandIn() as server, process(own_redis.url) as resolver:
        server.add(id=IN_ONE)
        await resolver.admin("PUT", "/locations/one", url=server.url)
        await wait_until(lambda: resolver.finds(IN_ONE))
        own_redis.flush()

        async def is_reported() -> bool:
            return "register them again" in await resolver.faults()

        await wait_until(is_reported)
        _, body = await resolver.get(f"/resolve/{IN_ONE}")
        assert (body["outcome"], body["source"]) == ("found", "stale")
        await resolver.admin("PUT", "/locations/one", url=server.url)
        await wait_until(lambda: resolver.finds(IN_ONE))

        await wait_until(resolver.is_ready)
