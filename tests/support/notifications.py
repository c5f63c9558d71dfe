"""Notifications as Glance sends them, published to a broker."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractExchange


def message(event: str, payload: Any, *, at: float | None = None, **fields: Any) -> dict[str, Any]:
    """A bare message; ``at`` is its time, now unless given."""
    when = datetime.fromtimestamp(at, UTC) if at else datetime.now(UTC)
    return {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "image.localhost",
        "priority": "INFO",
        "timestamp": when.strftime("%Y-%m-%d %H:%M:%S.%f"),
        "event_type": event,
        "payload": payload,
        **fields,
    }


def envelope(bare: dict[str, Any]) -> dict[str, Any]:
    """The message in oslo.messaging's envelope."""
    return {"oslo.version": "2.0", "oslo.message": json.dumps(bare)}


class Publisher:
    """Publishes to a broker as Glance does."""

    def __init__(self, exchange: AbstractExchange) -> None:
        self._exchange = exchange

    async def send(
        self, event: str, payload: Any, *, at: float | None = None, bare: bool = False
    ) -> None:
        """Publishes one notification about an image: its payload, or its id."""
        if isinstance(payload, str):
            payload = {"id": payload, "status": "active", "deleted": event == "image.delete"}
        body = message(event, payload, at=at)
        await self.publish(json.dumps(body if bare else envelope(body)).encode())

    async def publish(self, body: bytes) -> None:
        await self.publish_message(aio_pika.Message(body))

    async def publish_message(self, message: aio_pika.Message) -> None:
        await self._exchange.publish(message, routing_key="notifications.info")


@asynccontextmanager
async def publishing(url: str, exchange: str = "glance") -> AsyncIterator[Publisher]:
    """A publisher, which declares the exchange as oslo.messaging does."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        yield Publisher(
            await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=False)
        )
