"""Consuming a location's notifications from a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import aio_pika
import pamqp.encode
import pytest
from aio_pika.abc import AbstractQueue

from resolver.errors import InvalidLocation
from resolver.index import Index
from resolver.models import parse_id
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync.notification_consumer import NotificationConsumer
from tests.support.indexing import PROMPT, indexing, swept
from tests.support.notifications import Publisher, publishing
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

    async def queue_name(self) -> str:
        return f"glance-resolver.{await self.services.index.identity()}.{await self.number()}"

    async def claimed(self, text: str) -> bool:
        return await self.number() in await owners(self.services.index, text)


class Broker:
    """A real broker, a stand-in Glance server with an exchange there, and a Redis."""

    def __init__(self, url: str, server: StandIn, redis_url: str) -> None:
        self.url = url
        self.exchange = f"glance-{uuid.uuid4()}"
        self.server = server
        self.redis_url = redis_url

    def publishing(self) -> AbstractAsyncContextManager[Publisher]:
        return publishing(self.url, self.exchange)

    async def register(self, services: Services) -> Subscribed:
        notifications = {"url_env": "BROKER", "exchange": self.exchange}
        fields = {"url": self.server.url, "notifications": notifications}
        await services.registry.put("one", fields)
        return Subscribed(services, self.server)

    @asynccontextmanager
    async def subscribed(self, **options: Any) -> AsyncIterator[Subscribed]:
        """A running indexer that has registered the location and is connected to the broker.
        ``options`` are those of `indexing`."""
        async with indexing(self.redis_url, **options) as services:
            location = await self.register(services)
            await wait_until(location.connected, message="it is connected to the broker")
            yield location

    @asynccontextmanager
    async def queue(self, name: str) -> AsyncIterator[AbstractQueue]:
        """A queue of the broker, on a connection of its own."""
        async with await aio_pika.connect(self.url) as connection:
            yield await (await connection.channel()).get_queue(name)


@pytest.fixture
def broker(
    rabbit_server: RabbitServer, server: StandIn, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Broker:
    monkeypatch.setenv("BROKER", rabbit_server.url)
    return Broker(rabbit_server.url, server, redis_url)


@pytest.mark.rabbit
async def test_events_are_consumed(broker: Broker) -> None:
    async with broker.publishing() as glance, broker.subscribed() as location:
        await glance.publish(b"junk")
        await glance.send("image.upload", {"id": None})
        await glance.send("image.create", IMAGE)
        await glance.send("image.create", IMAGE)
        await wait_until(lambda: location.claimed(IMAGE), message="the claim")
        await glance.send("image.delete", IMAGE, bare=True)
        await wait_until(lambda: _not(location.claimed(IMAGE)), message="the release")
        assert 0 <= location.services.indexer.stats.event_lags["one"] < 60
        counts = location.services.indexer.stats.events
        assert counts["one", "other"] == 2
        # They are counted after the index has them.
        await wait_until(lambda: counts["one", "news"] + counts.get(("one", "old"), 0) == 3)


async def _not(value: Any) -> bool:
    return not await value


@pytest.mark.rabbit
async def test_notifications_wait_while_no_process_consumes_them(broker: Broker) -> None:
    async with broker.publishing() as glance:
        async with broker.subscribed():
            pass
        await glance.send("image.create", IMAGE)
        async with indexing(broker.redis_url) as services:
            location = Subscribed(services, broker.server)
            await wait_until(lambda: location.claimed(IMAGE), message="the claim")


async def consumes(location: Subscribed, glance: Publisher) -> None:
    """Waits until a notification makes a claim. It is sent again and again: some are lost without a
    queue, and a sweep that begins after a claim releases it, as the server does not list the image.
    """

    async def is_claimed() -> bool:
        await glance.send("image.create", IMAGE)
        return await location.claimed(IMAGE)

    await wait_until(is_claimed, message="the claim")


async def ignore(*_: Any) -> None:
    """A callback that does nothing."""


@pytest.mark.rabbit
async def test_a_notification_is_acknowledged_only_when_the_index_has_it(broker: Broker) -> None:
    write_begins = asyncio.Event()

    async def never_ends(*_: Any) -> int:
        write_begins.set()
        await asyncio.Event().wait()
        return 0

    async with broker.publishing() as glance:
        async with broker.subscribed() as location:
            number = await location.number()
        async with open_services(Settings(redis_url=broker.redis_url)) as services:
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
                PROMPT,
                count_events=lambda _, __: None,
                set_lag=lambda _: None,
                on_connected=ignore,
                ensure_held=ignore,
                secrets=services.cloud_credentials.secrets,
            )
            consuming = asyncio.create_task(consumer.run())
            await glance.send("image.create", IMAGE)
            await write_begins.wait()
            consuming.cancel()  # the process ends before the claim is written
            await asyncio.wait([consuming])
        async with indexing(broker.redis_url) as services:
            location = Subscribed(services, broker.server)
            await wait_until(lambda: location.claimed(IMAGE), message="the claim")


@pytest.mark.rabbit
async def test_a_lost_queue_causes_a_poll_and_a_sweep(broker: Broker) -> None:
    server = broker.server
    server.fill(20, seed=3)
    async with broker.publishing(), broker.subscribed(poll_interval=3600) as location:
        await swept(location.services, "one")
        polls = location.services.indexer.stats.polls
        await wait_until(lambda: polls.get(("one", "ok")), message="a first poll")
        gone, new = next(server.ids()), server.add().id
        server.delete(gone)
        async with broker.queue(await location.queue_name()) as queue:
            await queue.delete(if_unused=False, if_empty=False)
        await wait_until(
            lambda: _not(location.connected()), message="it is disconnected", timeout=15
        )
        await wait_until(location.connected, message="it is connected again", timeout=15)
        await wait_until(lambda: polls["one", "ok"] >= 2, message="a poll")
        await wait_until(lambda: location.claimed(new), message="the claim")
        await wait_until(lambda: _not(location.claimed(gone)), message="the release, by a sweep")


@pytest.mark.rabbit
async def test_an_unbound_queue_is_bound_again(broker: Broker) -> None:
    async with broker.publishing() as glance, broker.subscribed() as location:
        async with broker.queue(await location.queue_name()) as queue:
            await queue.unbind(broker.exchange, "notifications.*")
        await consumes(location, glance)


@pytest.mark.rabbit
async def test_a_time_without_a_connection_causes_a_sweep(broker: Broker) -> None:
    timings = replace(PROMPT, disconnect_gap=0.0)
    server = broker.server
    server.fill(20, seed=3)
    async with broker.publishing() as glance:
        async with broker.subscribed(timings=timings) as location:
            await swept(location.services, "one")
            queue_name = await location.queue_name()
        async with broker.queue(queue_name) as queue:  # as after a restart of the broker
            await queue.unbind(broker.exchange, "notifications.*")
        gone = next(server.ids())
        server.delete(gone)
        await glance.send("image.delete", gone)
        async with indexing(broker.redis_url, timings=timings) as services:
            location = Subscribed(services, server)
            await wait_until(lambda: _not(location.claimed(gone)), message="the release")


@pytest.mark.rabbit
async def test_a_queue_that_breaks_every_connection_is_deleted(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = replace(PROMPT, max_reconnect_delay=0.1)
    async with broker.publishing() as glance, broker.subscribed(timings=timings) as location:
        with monkeypatch.context() as patch:  # nanoseconds, where AMQP has seconds
            wrong = (1_763_900_000_000_000_000).to_bytes(8, "big")
            patch.setitem(pamqp.encode.METHODS, "timestamp", lambda _: wrong)
            poison = aio_pika.Message(b"{}", timestamp=1)
            await glance.publish_message(poison)
        await wait_until(
            lambda: _not(location.connected()), message="it is disconnected", timeout=15
        )
        await consumes(location, glance)


@pytest.mark.rabbit
async def test_a_stopped_consumer_is_reported(broker: Broker) -> None:
    async with broker.publishing():
        async with broker.subscribed():
            pass
        async with open_services(Settings(redis_url=broker.redis_url)) as services:
            location = Subscribed(services, broker.server)
            assert "(stopped)" in await location.events_status()


async def test_two_locations_cannot_have_the_same_notifications(server: StandIn) -> None:
    async with open_services(Settings()) as services:
        same = {"notifications": {"url_env": "BROKER"}}
        await services.registry.put("one", {"url": server.url, **same})
        await services.registry.patch("one", {"weight": 2})
        with pytest.raises(InvalidLocation, match="'one'"):
            await services.registry.put("two", {"url": "http://two.example", **same})


@pytest.mark.rabbit
async def test_a_removed_location_leaves_no_queue(broker: Broker) -> None:
    async with (
        broker.publishing(),
        broker.subscribed() as location,
        await aio_pika.connect(broker.url) as other,
    ):
        name = await location.queue_name()
        await location.services.registry.remove("one")

        async def is_gone() -> bool:
            try:
                await (await other.channel()).declare_queue(name, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return True
            return False

        await wait_until(is_gone, message="the queue is deleted")


@pytest.mark.rabbit
async def test_the_exchange_is_never_declared(broker: Broker) -> None:
    """Declared with other options, it would keep Glance from publishing."""
    async with indexing(broker.redis_url) as services:
        location = await broker.register(services)
        await wait_until(
            lambda: _has(location.events_status(), "no-exchange"), message="the failure is reported"
        )
        async with broker.publishing() as glance:
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


@pytest.mark.rabbit
@pytest.mark.parametrize(
    ("durable", "arguments"),
    [
        (True, {"x-queue-type": "quorum"}),
        (True, {"x-expires": 60_000}),
        (True, {"x-max-length": 1}),
        (True, {}),
        (False, {"x-expires": 24 * 3_600_000}),
    ],
)
async def test_a_queue_with_other_arguments_is_replaced(
    broker: Broker, durable: bool, arguments: dict[str, Any]
) -> None:
    """As left by another version, or of a virtual host whose default type of queue has changed."""
    server = broker.server
    server.fill(20, seed=3)
    async with broker.publishing() as glance:
        async with broker.subscribed() as location:
            await swept(location.services, "one")
            queue_name = await location.queue_name()
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(queue_name)
            await channel.declare_queue(queue_name, durable=durable, arguments=arguments)
        gone = next(server.ids())
        server.delete(gone)  # without a notification
        async with indexing(broker.redis_url) as services:
            location = Subscribed(services, server)
            await wait_until(location.connected, message="it is connected", timeout=15)
            await wait_until(
                lambda: _not(location.claimed(gone)), message="the release, by a sweep"
            )
            await consumes(location, glance)
        async with await aio_pika.connect(broker.url) as connection:
            expires = {"x-expires": 24 * 3_600_000}
            await (await connection.channel()).declare_queue(
                queue_name, durable=True, arguments=expires
            )  # the broker refuses other arguments than those it has
