"""Consuming a location's notifications from a real broker."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any, cast

import aio_pika
import pamqp.encode
import pytest

from resolver.errors import InvalidLocation
from resolver.index import Index
from resolver.models import parse_id
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS, IndexerTimings
from resolver.sync.notification_consumer import NotificationConsumer
from tests.support.indexing import indexing, swept
from tests.support.notifications import publishing
from tests.support.rabbit import RabbitServer
from tests.support.wait import wait_until

IMAGE = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


async def owners(index: Index, text: str) -> set[int]:
    (found,) = (await index.claims.lookup([parse_id(text)])).owners
    return {owner.number for owner in found}


class Subscribed:
    """A stand-in Glance server whose notifications a resolver consumes."""

    def __init__(self, services: Services, server: StandIn) -> None:
        self.services = services
        self.server = server

    async def events_status(self) -> str:
        shown = await self.services.registry.show("one")
        return str(shown["coverage"]["events"])

    async def connected(self) -> bool:
        return (await self.events_status()).startswith("connected")

    async def number(self) -> int:
        table = await self.services.tables.current()
        return table.by_name["one"].location.number

    async def claimed(self, text: str) -> bool:
        return await self.number() in await owners(self.services.index, text)


@pytest.fixture
def exchange(rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BROKER", rabbit_server.url)
    return f"glance-{uuid.uuid4()}"


async def subscribed(services: Services, server: StandIn, exchange: str) -> Subscribed:
    await services.registry.put(
        "one",
        {"url": server.url, "notifications": {"url_env": "BROKER", "exchange": exchange}},
    )
    location = Subscribed(services, server)
    await wait_until(location.connected, message="it is connected to the broker")
    return location


@pytest.mark.rabbit
async def test_events_are_consumed(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with (
        publishing(rabbit_server.url, exchange) as glance,
        indexing(redis_url) as services,
    ):
        location = await subscribed(services, server, exchange)
        await glance.publish(b"junk")
        await glance.send("image.upload", {"id": None})
        await glance.send("image.create", IMAGE)
        await glance.send("image.create", IMAGE)
        await wait_until(lambda: location.claimed(IMAGE), message="the claim")
        await glance.send("image.delete", IMAGE, bare=True)
        await wait_until(lambda: _not(location.claimed(IMAGE)), message="the release")
        counts = services.indexer.stats.events
        assert counts["one", "other"] == 2
        assert counts["one", "news"] + counts.get(("one", "old"), 0) == 3


async def _not(value: Any) -> bool:
    return not await value


@pytest.mark.rabbit
async def test_notifications_wait_while_no_process_consumes_them(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with publishing(rabbit_server.url, exchange) as glance:
        async with indexing(redis_url) as services:
            await subscribed(services, server, exchange)
        await glance.send("image.create", IMAGE)
        async with indexing(redis_url) as services:
            location = Subscribed(services, server)
            await wait_until(lambda: location.claimed(IMAGE), message="the claim")


async def ignore(*_: Any) -> None:
    """A callback that does nothing."""


@pytest.mark.rabbit
async def test_a_notification_is_acknowledged_only_when_the_index_has_it(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    write_begins = asyncio.Event()

    async def never_ends(*_: Any) -> int:
        write_begins.set()
        await asyncio.Event().wait()
        return 0

    async with publishing(rabbit_server.url, exchange) as glance:
        async with indexing(redis_url) as services:
            location = await subscribed(services, server, exchange)
            number = await location.number()
        async with open_services(Settings(redis_url=redis_url)) as services:
            index = services.index
            hanging = SimpleNamespace(
                identity=index.identity,
                records=index.records,
                claims=index.claims,
                observations=SimpleNamespace(record_present=never_ends),
            )
            consumer = NotificationConsumer(
                cast(Index, hanging),
                (await services.tables.current()).by_number[number],
                DEFAULT_TIMINGS,
                count_events=lambda _, __: None,
                on_connected=ignore,
                ensure_held=ignore,
            )
            consuming = asyncio.create_task(consumer.run())
            await glance.send("image.create", IMAGE)
            await write_begins.wait()
            consuming.cancel()  # the process ends before the claim is written
            await asyncio.wait([consuming])
        async with indexing(redis_url) as services:
            location = Subscribed(services, server)
            await wait_until(lambda: location.claimed(IMAGE), message="the claim")


@pytest.mark.rabbit
async def test_a_lost_queue_causes_a_poll_and_a_sweep(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    server.fill(20, seed=3)
    async with (
        publishing(rabbit_server.url, exchange) as _,
        indexing(redis_url, poll_interval=3600) as services,
    ):
        location = await subscribed(services, server, exchange)
        await swept(services, "one")
        polls = services.indexer.stats.polls
        await wait_until(lambda: polls.get(("one", "ok")), message="a first poll")
        gone, new = next(server.ids()), server.add().id
        server.delete(gone)
        name = f"glance-resolver.{await services.index.identity()}.{await location.number()}"
        async with await aio_pika.connect(rabbit_server.url) as other:
            await (await other.channel()).queue_delete(name)
        await wait_until(
            lambda: _not(location.connected()), message="it is disconnected", timeout=15
        )
        await wait_until(location.connected, message="it is connected again", timeout=15)
        await wait_until(lambda: polls["one", "ok"] >= 2, message="a poll")
        await wait_until(lambda: location.claimed(new), message="the claim")
        await wait_until(lambda: _not(location.claimed(gone)), message="the release, by a sweep")


async def queue_of(services: Services, location: Subscribed) -> str:
    return f"glance-resolver.{await services.index.identity()}.{await location.number()}"


@pytest.mark.rabbit
async def test_an_unbound_queue_is_bound_again(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with (
        publishing(rabbit_server.url, exchange) as glance,
        indexing(redis_url) as services,
        await aio_pika.connect(rabbit_server.url) as other,
    ):
        location = await subscribed(services, server, exchange)
        queue = await (await other.channel()).get_queue(await queue_of(services, location))
        await queue.unbind(exchange, "notifications.*")

        async def is_claimed_again() -> bool:
            await glance.send("image.create", IMAGE)
            return await location.claimed(IMAGE)

        await wait_until(is_claimed_again, message="the claim", timeout=15)


@pytest.mark.rabbit
async def test_a_time_without_a_connection_causes_a_sweep(
    rabbit_server: RabbitServer,
    exchange: str,
    server: StandIn,
    redis_url: str,
) -> None:
    timings = IndexerTimings(disconnect_gap=0.0)
    server.fill(20, seed=3)
    async with publishing(rabbit_server.url, exchange) as glance:
        async with indexing(redis_url, timings=timings) as services:
            location = await subscribed(services, server, exchange)
            await swept(services, "one")
            queue = await queue_of(services, location)
        async with await aio_pika.connect(rabbit_server.url) as other:
            bound = await (await other.channel()).get_queue(queue)
            await bound.unbind(exchange, "notifications.*")  # as after a restart of the broker
        gone = next(server.ids())
        server.delete(gone)
        await glance.send("image.delete", gone)
        async with indexing(redis_url, timings=timings) as services:
            location = Subscribed(services, server)
            await wait_until(lambda: _not(location.claimed(gone)), message="the release")


@pytest.mark.rabbit
async def test_a_queue_that_breaks_every_connection_is_deleted(
    rabbit_server: RabbitServer,
    exchange: str,
    server: StandIn,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timings = IndexerTimings(max_reconnect_delay=0.1)
    async with (
        publishing(rabbit_server.url, exchange) as glance,
        indexing(redis_url, timings=timings) as services,
    ):
        location = await subscribed(services, server, exchange)
        with monkeypatch.context() as patch:  # nanoseconds, where AMQP has seconds
            wrong = (1_763_900_000_000_000_000).to_bytes(8, "big")
            patch.setitem(pamqp.encode.METHODS, "timestamp", lambda _: wrong)
            poison = aio_pika.Message(b"{}", timestamp=1)
            await glance.publish_message(poison)
        await wait_until(
            lambda: _not(location.connected()), message="it is disconnected", timeout=15
        )

        async def heals() -> bool:
            await glance.send("image.create", IMAGE)
            return await location.claimed(IMAGE)

        await wait_until(heals, message="the claim", timeout=30)


@pytest.mark.rabbit
async def test_a_stopped_consumer_is_reported(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with publishing(rabbit_server.url, exchange):
        async with indexing(redis_url) as services:
            location = await subscribed(services, server, exchange)
        async with open_services(Settings(redis_url=redis_url)) as services:
            location = Subscribed(services, server)
            assert "(stopped)" in await location.events_status()


async def test_two_locations_cannot_have_the_same_notifications(server: StandIn) -> None:
    async with open_services(Settings()) as services:
        same = {"notifications": {"url_env": "BROKER"}}
        await services.registry.put("one", {"url": server.url, **same})
        await services.registry.patch("one", {"weight": 2})
        with pytest.raises(InvalidLocation, match="'one'"):
            await services.registry.put("two", {"url": "http://two.example", **same})


@pytest.mark.rabbit
async def test_a_removed_location_leaves_no_queue(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with (
        publishing(rabbit_server.url, exchange) as _,
        indexing(redis_url) as services,
        await aio_pika.connect(rabbit_server.url) as other,
    ):
        location = await subscribed(services, server, exchange)
        name = await queue_of(services, location)
        await services.registry.remove("one")

        async def is_gone() -> bool:
            try:
                await (await other.channel()).declare_queue(name, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return True
            return False

        await wait_until(is_gone, message="the queue's end")


@pytest.mark.rabbit
async def test_the_exchange_is_never_declared(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    """Declared with other options, it would keep Glance from publishing."""
    async with indexing(redis_url) as services:
        await services.registry.put(
            "one",
            {"url": server.url, "notifications": {"url_env": "BROKER", "exchange": exchange}},
        )
        location = Subscribed(services, server)
        await wait_until(
            lambda: _has(location.events_status(), "no-exchange"), message="the failure is reported"
        )
        async with publishing(rabbit_server.url, exchange) as glance:
            await wait_until(location.connected, message="it is connected", timeout=20)
            await glance.send("image.create", IMAGE)
            await wait_until(lambda: location.claimed(IMAGE), message="the claim")


async def _has(text: Any, part: str) -> bool:
    return part in await text


async def test_a_missing_broker_is_reported_and_sweeps_continue(server: StandIn) -> None:
    server.fill(5)
    async with indexing("memory:") as services:
        await services.registry.put(
            "one", {"url": server.url, "notifications": {"url_env": "NO_SUCH_VARIABLE"}}
        )
        await swept(services, "one")
        location = Subscribed(services, server)
        await wait_until(
            lambda: _has(location.events_status(), "no-credential"),
            message="the failure is reported",
        )
        shown = await services.registry.show("one")
        assert shown["coverage"]["covered"] is True
        assert shown["notifications"] == {"url_env": "NO_SUCH_VARIABLE"}
