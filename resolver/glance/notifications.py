"""Glance's notifications: parsing them, and reading them from a location's RabbitMQ.

oslo.messaging publishes them to a topic exchange (``glance``) with the routing key
``<topic>.<priority>``, at most once. The resolver reads them from a durable queue of its own: they
wait there while it is away, and no other consumer loses any.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from resolver.errors import InvalidImageId, LocationUnavailable, installing
from resolver.glance.secret_sources import SecretSources
from resolver.image_facts import NOTHING_KNOWN, ImageFacts
from resolver.models import parse_stored_id
from resolver.turns import in_turns

if TYPE_CHECKING:
    from aio_pika.abc import (
        AbstractChannel,
        AbstractConnection,
        AbstractIncomingMessage,
        AbstractQueue,
    )

DEFAULT_EXCHANGE = "glance"
DEFAULT_TOPIC = "notifications"

PRESENT_EVENTS = frozenset(
    f"image.{what}"
    for what in ("create", "prepare", "upload", "activate", "update", "deactivate", "reactivate")
)
"""Events after which the image exists, unless its record says otherwise. Events about members and
downloads say nothing about that."""

DELETE_EVENT = "image.delete"

DELETED_STATUSES = frozenset({"deleted", "pending_delete"})
"""Statuses in which Glance shows an image to nobody."""

MAX_BATCH = 200
"""Notifications that are taken, written to the index and acknowledged together."""

BROKER_TIMEOUT_SECONDS = 10.0
"""To connect to a broker, and for each of its replies."""

CLOSE_TIMEOUT_SECONDS = 2.0

HEARTBEAT_SECONDS = 10

QUEUE_EXPIRY_SECONDS = 24 * 3600
"""After this time without a consumer the broker deletes the queue; a sweep then closes the gap."""

MAX_NOTIFICATION_BYTES = 128 * 1024
"""A notification with an image's whole record has some kB. Whatever is in this many is decoded in
less than 5 ms."""

log = structlog.get_logger()


class Notice(NamedTuple):
    """What one notification says about one image."""

    image_id: bytes
    letter_case: int
    deleted: bool
    sent_at: float
    """When Glance sent it, in seconds since 1970 by its clock; 0 where not known."""
    facts: ImageFacts = NOTHING_KNOWN
    """What else it says of the image."""


def parse_notice(body: bytes) -> Notice | None:
    """Parses a notification. None where it says nothing about an image, whatever it is.

    Accepts both envelopes: oslo.messaging's, with the message as JSON text in ``oslo.message``, and
    the bare message that the older driver sends.
    """
    if len(body) > MAX_NOTIFICATION_BYTES:
        return None
    try:
        message = json.loads(body)
        if isinstance(message, dict) and "oslo.message" in message:
            message = message["oslo.message"]
            if isinstance(message, str):
                message = json.loads(message)
        event, payload = message["event_type"], message["payload"]
        if event not in PRESENT_EVENTS and event != DELETE_EVENT:
            return None
        image_id, letter_case = parse_stored_id(payload["id"])
        is_deleted = payload.get("deleted") is True or payload.get("status") in DELETED_STATUSES
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidImageId):
        return None  # malformed, or the payload is a text, as after a failed upload
    return Notice(
        image_id,
        letter_case,
        event == DELETE_EVENT or is_deleted,
        _parse_time(message.get("timestamp")),
        ImageFacts.of(payload),
    )


async def parse_notices(bodies: Iterable[bytes]) -> list[Notice]:
    """Parses notifications, in turns with other tasks. Those that say nothing are left out."""
    parsed = [parse_notice(body) async for body in in_turns(bodies)]
    return [notice for notice in parsed if notice is not None]


def _parse_time(text: Any) -> float:
    """A notification's time, which is UTC without a time zone; 0 where it cannot be parsed."""
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


class Subscription:
    """The resolver's queue at one broker."""

    def __init__(
        self,
        channel: AbstractChannel,
        queue: AbstractQueue,
        binding: tuple[str, str],
        *,
        is_new: bool,
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._binding = binding
        """The exchange, and the pattern of the routing keys."""
        self.is_new = is_new
        """Whether the queue did not exist: notifications sent before are lost."""
        self._received: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        """None once the channel is closed."""

    async def start(self) -> None:
        """Binds the queue and begins to consume it."""
        await self._queue.bind(*self._binding, timeout=BROKER_TIMEOUT_SECONDS)
        self._channel.close_callbacks.add(lambda *_: self._received.put_nowait(None))
        await self._queue.consume(self._received.put, timeout=BROKER_TIMEOUT_SECONDS)

    async def next_batch(self, wait_seconds: float) -> list[AbstractIncomingMessage]:
        """The notifications that have arrived, in order; none after ``wait_seconds`` without any.

        Raises:
            LocationUnavailable: the broker is gone, or has deleted the queue.
        """
        try:
            async with asyncio.timeout(wait_seconds):
                received = [await self._received.get()]
        except TimeoutError:
            await self._check_queue()
            return []
        while len(received) < MAX_BATCH and not self._received.empty():
            received.append(self._received.get_nowait())
        if None in received:
            raise LocationUnavailable("the broker closed the connection", code="broker-lost")
        return [message for message in received if message is not None]

    async def _check_queue(self) -> None:
        """Restores the binding and checks that the queue is consumed: the broker does not report
        when somebody deletes or unbinds a queue."""
        await self._queue.bind(*self._binding, timeout=BROKER_TIMEOUT_SECONDS)
        declared = await self._channel.declare_queue(
            self._queue.name, passive=True, timeout=BROKER_TIMEOUT_SECONDS
        )
        if not declared.declaration_result.consumer_count:
            raise LocationUnavailable("the broker does not serve our queue", code="broker-lost")

    @staticmethod
    async def acknowledge(messages: list[AbstractIncomingMessage]) -> None:
        """Lets the broker delete these messages and all before them."""
        if messages:
            await messages[-1].ack(multiple=True)

    async def delete_queue(self) -> None:
        await self._queue.delete(if_unused=False, if_empty=False, timeout=BROKER_TIMEOUT_SECONDS)


def broker_urls(notifications: Mapping[str, str], secrets: SecretSources) -> list[str]:
    """The broker's URLs, read from where the location's ``notifications`` say they are.

    The secret is ``amqp://…``, ``amqps://…``, or Glance's own ``transport_url``: ``rabbit://…``,
    perhaps with several hosts.

    Raises:
        LocationUnavailable: there is no such URL. The message names the variable or file.
    """
    text = secrets.read(notifications.get("url_env"), notifications.get("url_file"), "broker URL")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("amqp", "amqps", "rabbit"):
        raise LocationUnavailable(
            "the broker's URL must begin with amqp://, amqps:// or rabbit://", code="no-broker"
        )
    hosts, slash, path = rest.partition("/")
    scheme = "amqp" if scheme == "rabbit" else scheme
    return [f"{scheme}://{host}{slash}{path}" for host in hosts.split(",") if host]


@contextlib.asynccontextmanager
async def subscribed(
    notifications: Mapping[str, str],
    queue_name: str,
    secrets: SecretSources,
    *,
    consume: bool = True,
) -> AsyncIterator[Subscription]:
    """Connects to a location's broker and declares the durable queue; with ``consume``, also binds
    it to Glance's exchange and consumes it.

    The exchange is never declared here: if its options differed from Glance's, Glance could no
    longer publish.

    Raises:
        LocationUnavailable: the broker cannot be used; its code says why.
    """
    connection = await _connect(broker_urls(notifications, secrets), queue_name)
    try:
        subscription = await _declare(connection, notifications, queue_name)
        if consume:
            await subscription.start()
        yield subscription
    except _broker_failures() as error:
        raise LocationUnavailable(
            f"the broker failed: {type(error).__name__}", code="broker-lost"
        ) from error
    finally:
        await _close(connection)


def _load_aio_pika() -> ModuleType:
    """aio_pika, which only installations with notifications need.

    Raises:
        LocationUnavailable: the extra is not installed.
    """
    try:
        import aio_pika  # noqa: PLC0415
    except ImportError as error:
        raise LocationUnavailable(
            f"reading notifications needs aio-pika: {installing('events')}",
            code="no-aio-pika",
        ) from error
    for name in ("aio_pika", "aiormq"):  # they log a traceback for each lost connection
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return aio_pika


async def _connect(urls: Sequence[str], queue_name: str) -> AbstractConnection:
    """A connection to the first of the broker's hosts that can be reached.

    Raises:
        LocationUnavailable: there is none, or the broker refuses the credentials.
    """
    aio_pika = _load_aio_pika()
    failure: Exception = ValueError("no host")
    for url in urls:
        try:
            connection: AbstractConnection = await aio_pika.connect(
                url,
                timeout=BROKER_TIMEOUT_SECONDS,
                heartbeat=HEARTBEAT_SECONDS,
                client_properties={"connection_name": queue_name},
            )
        except (
            aio_pika.exceptions.AuthenticationError,
            aio_pika.exceptions.ProbableAuthenticationError,
        ) as error:
            raise LocationUnavailable(
                "the broker refuses the user and password of its URL", code="broker-refused"
            ) from error
        except (aio_pika.exceptions.AMQPError, OSError, TimeoutError, ValueError) as error:
            failure = error
        else:
            return connection
    raise LocationUnavailable(
        f"cannot connect to the broker: {type(failure).__name__}", code="broker-unreachable"
    ) from failure


async def _declare(
    connection: AbstractConnection, notifications: Mapping[str, str], queue_name: str
) -> Subscription:
    """Checks that Glance's exchange exists, and declares the queue.

    Raises:
        LocationUnavailable: there is no such exchange.
        AMQPError, OSError, TimeoutError, RuntimeError: the broker failed.
    """
    aio_pika = _load_aio_pika()
    channel_not_found = aio_pika.exceptions.ChannelNotFoundEntity
    channel = await connection.channel(publisher_confirms=False)
    exchange = notifications.get("exchange", DEFAULT_EXCHANGE)
    try:
        await channel.get_exchange(exchange, ensure=True)
    except channel_not_found as error:
        raise LocationUnavailable(
            f"the broker has no exchange {exchange!r} yet: Glance makes it with its first "
            "notification",
            code="no-exchange",
        ) from error
    is_new = False
    try:
        await channel.declare_queue(queue_name, passive=True, timeout=BROKER_TIMEOUT_SECONDS)
    except channel_not_found:  # which also closes the channel
        is_new = True
        channel = await connection.channel(publisher_confirms=False)
    try:
        queue = await _declare_queue(channel, queue_name)
    except aio_pika.exceptions.ChannelPreconditionFailed:
        # It exists with other arguments, for instance since the virtual host has another default
        # type of queue now. It would stay so until it expires, so it is replaced.
        log.warning("AMQP queue replaced: it has other arguments", queue=queue_name)
        is_new = True
        channel = await connection.channel(publisher_confirms=False)
        await channel.queue_delete(queue_name, timeout=BROKER_TIMEOUT_SECONDS)
        queue = await _declare_queue(channel, queue_name)
    binding = exchange, f"{notifications.get('topic', DEFAULT_TOPIC)}.*"
    return Subscription(channel, queue, binding, is_new=is_new)


async def _declare_queue(channel: AbstractChannel, queue_name: str) -> AbstractQueue:
    await channel.set_qos(prefetch_count=2 * MAX_BATCH, timeout=BROKER_TIMEOUT_SECONDS)
    return await channel.declare_queue(
        queue_name,
        durable=True,
        arguments={"x-expires": QUEUE_EXPIRY_SECONDS * 1000},
        timeout=BROKER_TIMEOUT_SECONDS,
    )


def _broker_failures() -> tuple[type[Exception], ...]:
    return _load_aio_pika().exceptions.AMQPError, OSError, TimeoutError, RuntimeError


async def _close(connection: AbstractConnection) -> None:
    """Closes a connection that may be lost already."""
    with contextlib.suppress(*_broker_failures()):
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await connection.close()
