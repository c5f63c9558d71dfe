"""Notifications: what they say, in which order they count, and how the link to a broker behaves."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import aio_pika
import pamqp.encode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import InvalidLocation, LocationUnavailable
from resolver.glance import Notice, parse_notice
from resolver.glance.notifications import broker_urls
from resolver.index import Index
from resolver.models import parse_id
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import notification_consumer
from resolver.sync.deletion_log import REMEMBERED, DeletionLog, apply
from tests.support.indexing import indexing, swept
from tests.support.notifications import envelope, message, publishing
from tests.support.rabbit import RabbitServer
from tests.support.wait import wait_until

A = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
RAW = parse_id(A)
NOON = 1_800_000_000.25


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("wrap", [envelope, lambda bare: bare], ids=["oslo", "bare"])
def test_both_envelopes(wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    bare = message("image.create", {"id": A, "status": "queued", "deleted": False}, at=NOON)
    assert parse_notice(encoded(wrap(bare))) == Notice(RAW, 0, deleted=False, sent_at=NOON)


@pytest.mark.parametrize(
    ("event", "payload", "gone"),
    [
        ("image.create", {"id": A}, False),
        ("image.update", {"id": A, "status": "active"}, False),
        ("image.activate", {"id": A}, False),
        ("image.upload", {"id": A}, False),
        ("image.delete", {"id": A, "deleted": True}, True),
        ("image.delete", {"id": A, "status": "pending_delete"}, True),
        ("image.update", {"id": A, "deleted": True}, True),
        ("image.update", {"id": A, "status": "deleted"}, True),
    ],
)
def test_what_events_say(event: str, payload: dict[str, Any], gone: bool) -> None:
    notice = parse_notice(encoded(message(event, payload)))
    assert notice is not None
    assert notice.deleted is gone


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        encoded({"oslo.version": "2.0", "oslo.message": "no JSON"}),
        encoded({"oslo.version": "2.0", "oslo.message": 5}),
        encoded(message("image.upload", "Error: the store is full")),
        encoded(message("image.send", {"image_id": A, "bytes_sent": 5})),
        encoded(message("image.member.create", {"image_id": A, "member_id": "p"})),
        encoded(message("metadef_tag.create", {"id": A})),
        encoded(message("image.create", {"id": "no-uuid"})),
        encoded(message("image.create", {"id": None})),
        encoded(message("image.create", {})),
        encoded({"event_type": ["image.create"], "payload": {"id": A}}),
        encoded(message("image.create", {"id": A, "x": "y" * 2_000_000})),
    ],
    ids=lambda body: f"{len(body)} bytes",
)
def test_what_says_nothing_of_an_image(body: bytes) -> None:
    assert parse_notice(body) is None


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.binary())
def test_no_body_breaks_the_reader(body: Any) -> None:
    image_id = body if isinstance(body, bytes) else encoded(body)
    assert parse_notice(image_id) is None
    parse_notice(
        encoded(
            {"event_type": "image.create", "payload": {"id": A}, "timestamp": body}
            if not isinstance(body, bytes)
            else {}
        )
    )


def test_a_spelling_is_kept() -> None:
    notice = parse_notice(encoded(message("image.create", {"id": A.upper()})))
    assert notice is not None
    assert (notice.image_id, notice.letter_case != 0) == (RAW, True)


def notice(*, gone: bool = False, stamp: float = NOON, image_id: bytes = RAW) -> Notice:
    return Notice(image_id, 0, gone, stamp)


def test_what_is_older_than_the_latest_is_no_news() -> None:
    latest = DeletionLog()
    assert latest.is_news(notice(gone=True, stamp=NOON))
    assert not latest.is_news(notice(stamp=NOON - 1))
    assert not latest.is_news(notice(stamp=NOON)), "at the same moment the deletion comes last"
    assert latest.is_news(notice(stamp=NOON + 1)), "created again"
    assert latest.is_news(notice(gone=True, stamp=NOON)), "from a node whose clock is behind"


def test_only_so_many_images_are_remembered() -> None:
    latest = DeletionLog()
    for number in range(REMEMBERED + 10):
        latest.is_news(notice(image_id=number.to_bytes(16, "big"), gone=True))
    assert len(latest._left) == REMEMBERED


async def owners(index: Index, text: str = A) -> set[int]:
    (found,) = (await index.claims.lookup([parse_id(text)])).owners
    return {owner.number for owner in found}


async def test_events_in_any_order_end_the_same(index: Index) -> None:
    created, deleted = notice(stamp=NOON), notice(gone=True, stamp=NOON + 1)
    for order in ([created, deleted], [deleted, created], [created, deleted, created, deleted]):
        for batches in ([order], [[one] for one in order]):
            latest = DeletionLog()
            for batch in batches:
                await apply(index, 1, latest, batch)
            assert await owners(index) == set()


async def test_a_batch_that_comes_again_ends_as_it_did(index: Index) -> None:
    """Redis failed before it was acknowledged: an image that was created anew stays."""
    batch = [notice(gone=True, stamp=NOON), notice(stamp=NOON + 1)]
    latest = DeletionLog()
    for _ in range(2):
        await apply(index, 1, latest, batch)
        assert await owners(index) == {1}


async def test_a_delete_at_one_location_leaves_the_others(index: Index) -> None:
    await index.claims.claim(1, [RAW])
    await index.claims.claim(2, [RAW])
    assert await apply(index, 1, DeletionLog(), [notice(gone=True)]) == 1
    assert await owners(index) == {2}


async def test_a_listing_read_before_a_delete_does_not_undo_it(index: Index) -> None:
    asked = time.monotonic()
    await apply(index, 1, DeletionLog(), [notice(gone=True)])
    assert await index.observations.record_present(1, {RAW: 0}, asked) == 0
    assert await owners(index) == set()


def test_where_the_broker_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for given_, urls in (
        ("amqp://u:p@h/v", ["amqp://u:p@h/v"]),
        ("rabbit://u:p@h:5672/", ["amqp://u:p@h:5672/"]),
        ("rabbit://u:p@a:1,u:p@b:2/v", ["amqp://u:p@a:1/v", "amqp://u:p@b:2/v"]),
    ):
        monkeypatch.setenv("BROKER", given_)
        assert broker_urls({"url_env": "BROKER"}) == urls
    for wrong in ("http://h", "h:5672", ""):
        monkeypatch.setenv("BROKER", wrong)
        with pytest.raises(LocationUnavailable, match=r"(?i)broker"):
            broker_urls({"url_env": "BROKER"})


# With a real broker.


class Linked:
    """A stand-in Glance, its notifications, and a resolver that follows them."""

    def __init__(self, services: Services, server: StandIn) -> None:
        self.services = services
        self.server = server

    async def word(self) -> str:
        shown = await self.services.registry.show("one")
        return str(shown["coverage"]["events"])

    async def connected(self) -> bool:
        return (await self.word()).startswith("connected")

    async def number(self) -> int:
        table = await self.services.tables.current()
        return table.by_name["one"].location.number

    async def claimed(self, text: str) -> bool:
        return await self.number() in await owners(self.services.index, text)


@pytest.fixture
def exchange(rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BROKER", rabbit_server.url)
    return f"glance-{uuid.uuid4()}"


async def linked(services: Services, server: StandIn, exchange: str) -> Linked:
    await services.registry.put(
        "one",
        {"url": server.url, "notifications": {"url_env": "BROKER", "exchange": exchange}},
    )
    link = Linked(services, server)
    await wait_until(link.connected, message="the link to the broker")
    return link


@pytest.mark.rabbit
async def test_events_are_followed(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with (
        publishing(rabbit_server.url, exchange) as glance,
        indexing(redis_url) as services,
    ):
        link = await linked(services, server, exchange)
        await glance.publish(b"junk")
        await glance.send("image.upload", {"id": None})
        await glance.send("image.create", A)
        await glance.send("image.create", A)
        await wait_until(lambda: link.claimed(A), message="the claim")
        await glance.send("image.delete", A, bare=True)
        await wait_until(lambda: _not(link.claimed(A)), message="the release")
        counts = services.indexer.stats.events
        assert counts["one", "other"] == 2
        assert counts["one", "news"] + counts.get(("one", "old"), 0) == 3


async def _not(value: Any) -> bool:
    return not await value


@pytest.mark.rabbit
async def test_what_comes_while_nobody_reads_waits(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with publishing(rabbit_server.url, exchange) as glance:
        async with indexing(redis_url) as services:
            await linked(services, server, exchange)
        await glance.send("image.create", A)
        async with indexing(redis_url) as services:
            link = Linked(services, server)
            await wait_until(lambda: link.claimed(A), message="the claim")


@pytest.mark.rabbit
async def test_a_notification_is_acknowledged_only_when_the_index_has_it(
    rabbit_server: RabbitServer,
    exchange: str,
    server: StandIn,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with publishing(rabbit_server.url, exchange) as glance:
        async with indexing(redis_url) as services:
            await linked(services, server, exchange)
            came = asyncio.Event()

            async def never(*_: Any) -> int:
                came.set()
                await asyncio.Event().wait()
                return 0

            monkeypatch.setattr(services.index.claims, "claim", never)
            await glance.send("image.create", A)
            await came.wait()
        async with indexing(redis_url) as services:  # that one died before it was written
            link = Linked(services, server)
            await wait_until(lambda: link.claimed(A), message="the claim")


@pytest.mark.rabbit
async def test_a_queue_that_was_lost_is_followed_by_a_poll_and_a_sweep(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    server.fill(20, seed=3)
    async with (
        publishing(rabbit_server.url, exchange) as _,
        indexing(redis_url, poll_interval=3600) as services,
    ):
        link = await linked(services, server, exchange)
        await swept(services, "one")
        polls = services.indexer.stats.polls
        await wait_until(lambda: polls.get(("one", "ok")), message="a first poll")
        gone, new = next(server.ids()), server.add().id
        server.delete(gone)
        name = f"glance-resolver.{await services.index.identity()}.{await link.number()}"
        async with await aio_pika.connect(rabbit_server.url) as other:
            await (await other.channel()).queue_delete(name)
        await wait_until(lambda: _not(link.connected()), message="the loss", timeout=15)
        await wait_until(link.connected, message="the link again", timeout=15)
        await wait_until(lambda: polls["one", "ok"] >= 2, message="a poll")
        await wait_until(lambda: link.claimed(new), message="the claim")
        await wait_until(lambda: _not(link.claimed(gone)), message="the release, by a sweep")


async def queue_of(services: Services, link: Linked) -> str:
    return f"glance-resolver.{await services.index.identity()}.{await link.number()}"


@pytest.mark.rabbit
async def test_a_queue_that_was_untied_is_tied_again(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with (
        publishing(rabbit_server.url, exchange) as glance,
        indexing(redis_url) as services,
        await aio_pika.connect(rabbit_server.url) as other,
    ):
        link = await linked(services, server, exchange)
        queue = await (await other.channel()).get_queue(await queue_of(services, link))
        await queue.unbind(exchange, "notifications.*")

        async def again() -> bool:
            await glance.send("image.create", A)
            return await link.claimed(A)

        await wait_until(again, message="the claim", timeout=15)


@pytest.mark.rabbit
async def test_what_was_lost_while_nobody_was_linked_is_swept(
    rabbit_server: RabbitServer,
    exchange: str,
    server: StandIn,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notification_consumer, "UNLINKED", 0.0)
    server.fill(20, seed=3)
    async with publishing(rabbit_server.url, exchange) as glance:
        async with indexing(redis_url) as services:
            link = await linked(services, server, exchange)
            await swept(services, "one")
            queue = await queue_of(services, link)
        async with await aio_pika.connect(rabbit_server.url) as other:
            there = await (await other.channel()).get_queue(queue)
            await there.unbind(exchange, "notifications.*")  # as a broker does that restarts
        gone = next(server.ids())
        server.delete(gone)
        await glance.send("image.delete", gone)
        async with indexing(redis_url) as services:
            link = Linked(services, server)
            await wait_until(lambda: _not(link.claimed(gone)), message="the release")


@pytest.mark.rabbit
async def test_what_kills_every_link_is_dropped(
    rabbit_server: RabbitServer,
    exchange: str,
    server: StandIn,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notification_consumer, "LONGEST_PAUSE", 0.1)
    async with (
        publishing(rabbit_server.url, exchange) as glance,
        indexing(redis_url) as services,
    ):
        link = await linked(services, server, exchange)
        with monkeypatch.context() as patch:  # nanoseconds, where AMQP has seconds
            wrong = (1_763_900_000_000_000_000).to_bytes(8, "big")
            patch.setitem(pamqp.encode.METHODS, "timestamp", lambda _: wrong)
            poison = aio_pika.Message(b"{}", timestamp=1)
            await glance._exchange.publish(poison, routing_key="notifications.info")
        await wait_until(lambda: _not(link.connected()), message="the loss", timeout=15)

        async def heals() -> bool:
            await glance.send("image.create", A)
            return await link.claimed(A)

        await wait_until(heals, message="the claim", timeout=30)


@pytest.mark.rabbit
async def test_who_stops_says_so(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    async with publishing(rabbit_server.url, exchange):
        async with indexing(redis_url) as services:
            link = await linked(services, server, exchange)
        async with open_services(Settings(redis_url=redis_url)) as services:
            link = Linked(services, server)
            assert "(stopped)" in await link.word()


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
        link = await linked(services, server, exchange)
        name = f"glance-resolver.{await services.index.identity()}.{await link.number()}"
        await services.registry.remove("one")

        async def is_gone() -> bool:
            try:
                await (await other.channel()).declare_queue(name, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return True
            return False

        await wait_until(is_gone, message="the queue's end")


@pytest.mark.rabbit
async def test_an_exchange_is_never_made_by_us(
    rabbit_server: RabbitServer, exchange: str, server: StandIn, redis_url: str
) -> None:
    """Made otherwise than Glance does, it would keep Glance from publishing."""
    async with indexing(redis_url) as services:
        await services.registry.put(
            "one",
            {"url": server.url, "notifications": {"url_env": "BROKER", "exchange": exchange}},
        )
        link = Linked(services, server)
        await wait_until(lambda: _has(link.word(), "no-exchange"), message="the word")
        async with publishing(rabbit_server.url, exchange) as glance:
            await wait_until(link.connected, message="the link", timeout=20)
            await glance.send("image.create", A)
            await wait_until(lambda: link.claimed(A), message="the claim")


async def _has(text: Any, part: str) -> bool:
    return part in await text


async def test_no_broker_is_told_and_harms_nothing(server: StandIn) -> None:
    server.fill(5)
    async with indexing("memory:") as services:
        await services.registry.put(
            "one", {"url": server.url, "notifications": {"url_env": "NO_SUCH_VARIABLE"}}
        )
        await swept(services, "one")
        link = Linked(services, server)
        await wait_until(lambda: _has(link.word(), "no-credential"), message="the word")
        shown = await services.registry.show("one")
        assert shown["coverage"]["covered"] is True
        assert shown["notifications"] == {"url_env": "NO_SUCH_VARIABLE"}
