"""Glance's notifications: what they say, and reading them from a location's RabbitMQ.

oslo.messaging publishes them to a topic exchange (``glance``) with the routing key
``<topic>.<priority>``, at most once. We read them from a durable queue of our own, so that they
wait for us and are taken from nobody else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from resolver.errors import InvalidImageId, LocationUnavailable
from resolver.glance.credentials import secret
from resolver.models import letter_case_of, parse_id

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

EXCHANGE = "glance"
TOPIC = "notifications"

THERE = frozenset(
    f"image.{what}"
    for what in ("create", "prepare", "upload", "activate", "update", "deactivate", "reactivate")
)
"""Events after which the image is there, if its record does not say otherwise. What members and
downloads are about says nothing new."""

GONE = "image.delete"

DEAD = frozenset({"deleted", "pending_delete"})
"""Statuses in which Glance shows an image to nobody."""

BATCH = 200
"""Notifications taken, written to the index and acknowledged together."""

CONNECT_TIMEOUT = 10.0
"""Seconds to reach a broker, and to get each of its answers."""

HEARTBEAT = 10
"""Seconds between two signs of life of the broker."""

UNUSED_FOR = 24 * 3600
"""Seconds without us after which the broker drops the queue; a sweep then closes the gap."""

MAX_BODY = 1024 * 1024
"""Bytes of a notification; one with all of an image's record has some kB."""


class Notice(NamedTuple):
    """What one notification says of one image."""

    image_id: bytes
    letter_case: int
    gone: bool
    stamp: float
    """When Glance sent it, seconds since 1970 by its clock; 0 where it does not say."""


def parse_notice(body: bytes) -> Notice | None:
    """What a notification says of an image; None where it says nothing, of whatever kind.

    Takes both envelopes: oslo.messaging's, with the message as JSON text in ``oslo.message``, and
    the bare message that the older driver sends.
    """
    if len(body) > MAX_BODY:
        return None
    try:
        message = json.loads(body)
        if isinstance(message, dict) and "oslo.message" in message:
            message = message["oslo.message"]
            message = json.loads(message) if isinstance(message, str) else message
        event, payload = message["event_type"], message["payload"]
        if event not in THERE and event != GONE:
            return None
        text = payload["id"]
        image_id = parse_id(text)
        dead = payload.get("deleted") is True or payload.get("status") in DEAD
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidImageId):
        return None  # junk, or a payload that is a text, as that of a failed upload
    return Notice(
        image_id, letter_case_of(text), event == GONE or dead, _stamp(message.get("timestamp"))
    )


def _stamp(text: Any) -> float:
    """A notification's time, which is UTC and does not say so."""
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


class Subscription:
    """Our queue at one broker, being read."""

    def __init__(
        self, channel: AbstractChannel, queue: AbstractQueue, tie: tuple[str, str], *, new: bool
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._tie = tie
        """The exchange, and the pattern of the routing keys."""
        self.new = new
        """Whether the queue was not there: what was sent before is lost."""
        self._came: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        self._tag = ""

    async def start(self) -> None:
        await self._queue.bind(*self._tie, timeout=CONNECT_TIMEOUT)
        self._channel.close_callbacks.add(lambda *_: self._came.put_nowait(None))
        self._tag = str(await self._queue.consume(self._came.put, timeout=CONNECT_TIMEOUT))

    async def batch(self, patience: float) -> list[AbstractIncomingMessage]:
        """The notifications that have come, in their order; none after ``patience`` seconds.

        Raises:
            LocationUnavailable: the broker is gone, or has dropped our queue.
        """
        try:
            async with asyncio.timeout(patience):
                came = [await self._came.get()]
        except TimeoutError:
            await self._still_ours()
            return []
        while len(came) < BATCH and not self._came.empty():
            came.append(self._came.get_nowait())
        if None in came:
            raise LocationUnavailable("the broker closed the connection", code="broker-lost")
        return [message for message in came if message is not None]

    async def _still_ours(self) -> None:
        """A queue that somebody deletes, or unties, ends without a word where nothing is sent."""
        await self._queue.bind(*self._tie, timeout=CONNECT_TIMEOUT)
        declared = await self._channel.declare_queue(
            self._queue.name, passive=True, timeout=CONNECT_TIMEOUT
        )
        if not declared.declaration_result.consumer_count:
            raise LocationUnavailable("the broker does not serve our queue", code="broker-lost")

    @staticmethod
    async def done(messages: list[AbstractIncomingMessage]) -> None:
        """The index has what these said: the broker may forget them."""
        if messages:
            await messages[-1].ack(multiple=True)

    async def drop(self) -> None:
        """Deletes the queue: nobody will read it again."""
        await self._queue.delete(if_unused=False, if_empty=False, timeout=CONNECT_TIMEOUT)


def broker_urls(notifications: Mapping[str, str]) -> list[str]:
    """The broker's URLs, from where the location says that they are: ``amqp://`` or ``amqps://``,
    or what Glance itself has as ``transport_url``, ``rabbit://`` with perhaps several hosts.

    Raises:
        LocationUnavailable: there is none. The message names the place.
    """
    text = secret(notifications.get("url_env"), notifications.get("url_file"), "broker URL")
    scheme, mark, rest = text.partition("://")
    if not mark or scheme not in ("amqp", "amqps", "rabbit"):
        raise LocationUnavailable(
            "the broker's URL must begin with amqp://, amqps:// or rabbit://", code="no-broker"
        )
    hosts, slash, path = rest.partition("/")
    scheme = "amqp" if scheme == "rabbit" else scheme
    return [f"{scheme}://{host}{slash}{path}" for host in hosts.split(",") if host]


@asynccontextmanager
async def subscribed(
    notifications: Mapping[str, str], queue_name: str, *, read: bool = True
) -> AsyncIterator[Subscription]:
    """Our durable queue, bound to Glance's exchange and being read if ``read``.

    The exchange is Glance's: it is never declared here, since one declared otherwise than Glance
    does would keep Glance from publishing.

    Raises:
        LocationUnavailable: the broker cannot be used; its code says in which way.
    """
    try:
        import aio_pika  # noqa: PLC0415 - an extra: only those with notifications need it
        from aio_pika.exceptions import (  # noqa: PLC0415
            AMQPError,
            AuthenticationError,
            ChannelNotFoundEntity,
            ProbableAuthenticationError,
        )
    except ImportError as error:
        raise LocationUnavailable(
            "reading notifications needs `pip install 'glance-resolver[events]'`",
            code="no-aio-pika",
        ) from error
    for name in ("aio_pika", "aiormq"):  # they log a lost connection as a traceback each
        logging.getLogger(name).setLevel(logging.CRITICAL)
    exchange_name = notifications.get("exchange", EXCHANGE)
    why: Exception = ValueError("no host")
    for url in broker_urls(notifications):
        try:
            connection = await aio_pika.connect(
                url,
                timeout=CONNECT_TIMEOUT,
                heartbeat=HEARTBEAT,
                client_properties={"connection_name": queue_name},
            )
            break
        except (AuthenticationError, ProbableAuthenticationError) as error:
            raise LocationUnavailable(
                "the broker refuses the user and password of its URL", code="broker-refused"
            ) from error
        except (AMQPError, OSError, TimeoutError, ValueError) as error:
            why = error
    else:
        raise LocationUnavailable(
            f"cannot connect to the broker: {type(why).__name__}", code="broker-unreachable"
        ) from why
    try:
        try:
            channel = await connection.channel(publisher_confirms=False)
            try:
                await channel.get_exchange(exchange_name, ensure=True)
            except ChannelNotFoundEntity as error:
                raise LocationUnavailable(
                    f"the broker has no exchange {exchange_name!r} yet: Glance makes it with its "
                    "first notification",
                    code="no-exchange",
                ) from error
            new = False
            try:
                await channel.declare_queue(queue_name, passive=True, timeout=CONNECT_TIMEOUT)
            except ChannelNotFoundEntity:
                new = True
                channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=2 * BATCH, timeout=CONNECT_TIMEOUT)
            queue = await channel.declare_queue(
                queue_name,
                durable=True,
                arguments={"x-expires": UNUSED_FOR * 1000},
                timeout=CONNECT_TIMEOUT,
            )
            tie = exchange_name, f"{notifications.get('topic', TOPIC)}.*"
            subscription = Subscription(channel, queue, tie, new=new)
            if read:
                await subscription.start()
            yield subscription
        except (AMQPError, OSError, TimeoutError, RuntimeError) as error:
            raise LocationUnavailable(
                f"the broker failed: {type(error).__name__}", code="broker-lost"
            ) from error
    finally:
        try:
            async with asyncio.timeout(2):
                await connection.close()
        except (AMQPError, OSError, TimeoutError, RuntimeError):
            pass
