"""Consumes a location's notifications: the index has each before the broker may delete it.

Notifications that were lost while there was no connection are made up for by a poll, and by a sweep
where deletions may be among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from resolver.errors import IndexUnavailable, LocationUnavailable
from resolver.glance import SecretSources, subscribed
from resolver.glance.notifications import Subscription, parse_notices
from resolver.index import Index
from resolver.models import Location, SubscriptionStatus
from resolver.registry import LocationView
from resolver.sync.deletion_log import DeletionLog, apply_notices
from resolver.sync.timings import IndexerTimings

STATUS_INTERVAL_SECONDS = 10.0
"""How often the lease is renewed and the status stored while connected."""

MIN_RECONNECT_DELAY_SECONDS = 1.0
"""Before the first attempt to reconnect; doubled for each further one."""

RECONNECT_JITTER_SHARE = 0.2

MAX_USELESS_CONNECTIONS = 3
"""Connections in a row that fail before a notification is taken, after which the queue is deleted:
something in it seems to break each connection."""

log = structlog.get_logger()


class NotificationConsumer:
    """Consumes one location's notifications."""

    def __init__(
        self,
        index: Index,
        view: LocationView,
        timings: IndexerTimings,
        *,
        count_events: Callable[[str, int], None],
        set_lag: Callable[[float], None],
        on_connected: Callable[[bool], Awaitable[None]],
        ensure_held: Callable[[], Awaitable[None]],
        secrets: SecretSources,
    ) -> None:
        """``count_events`` receives a kind of notification (``news``, ``old``, ``other``) and how
        many there were, ``set_lag`` the seconds that the latest took from Glance into the index.
        ``on_connected`` is called before the first notification of a connection is
        taken, with whether earlier ones may have been lost. ``ensure_held`` renews the lease and
        raises where another process has it. ``secrets``: where the broker's URL may be."""
        self._index = index
        self._secrets = secrets
        self._location = view.location
        self._timings = timings
        self._count_events = count_events
        self._set_lag = set_lag
        self._on_connected = on_connected
        self._ensure_held = ensure_held
        self._deletions = DeletionLog()
        self._previous_status = view.status.subscription
        """As the process that consumed the queue before left it."""
        self._status = SubscriptionStatus(since=time.time(), at=time.time())
        self._unknown_fields = self._previous_status.unknown if self._previous_status else {}
        self._held_at = time.monotonic()
        self._reconnect_delay = MIN_RECONNECT_DELAY_SECONDS
        self._useless_connections = 0
        """Connections in a row that failed before a notification was taken."""

    async def run(self) -> None:
        """Consumes, and reconnects after each failure, until ``ensure_held`` raises."""
        while True:
            await self._ensure_held()
            try:
                await self._consume()
            except (LocationUnavailable, IndexUnavailable) as error:
                await self._handle_disconnect(error)
            jitter = random.uniform(1 - RECONNECT_JITTER_SHARE, 1 + RECONNECT_JITTER_SHARE)
            await asyncio.sleep(self._reconnect_delay * jitter)
            self._reconnect_delay = min(
                2 * self._reconnect_delay, self._timings.max_reconnect_delay
            )

    async def _consume(self) -> None:
        """Connects and consumes.

        Raises:
            LocationUnavailable: the broker failed.
            IndexUnavailable: Redis failed. What was not acknowledged will be delivered again.
        """
        location = self._location
        name = await queue_name(self._index, location)
        async with subscribed(location.notifications or {}, name, self._secrets) as subscription:
            now = time.time()
            may_have_lost = self._may_have_lost(subscription, now)
            log.info("AMQP connected", location=location.name, gap=may_have_lost)
            await self._store_status(SubscriptionStatus(connected=True, since=now, at=now))
            await self._on_connected(may_have_lost)
            while True:
                await self._consume_batch(subscription)
                if time.monotonic() - self._held_at > STATUS_INTERVAL_SECONDS:
                    await self._ensure_held()
                    self._held_at = time.monotonic()
                    await self._store_status(replace(self._status, at=time.time()), quiet=True)

    def _may_have_lost(self, subscription: Subscription, now: float) -> bool:
        """Whether notifications may have been lost before this connection.

        A broker that was away may have lost Glance's exchange, and with it the binding of our
        queue, also while no process was connected to it.
        """
        previous = self._previous_status
        return (
            subscription.is_new
            or bool(self._status.error_code)
            or (previous is not None and abs(now - previous.at) > self._timings.disconnect_gap)
        )

    async def _consume_batch(self, subscription: Subscription) -> None:
        messages = await subscription.next_batch(self._timings.queue_check)
        notices = await parse_notices(message.body for message in messages)
        news = await apply_notices(self._index, self._location.number, self._deletions, notices)
        await subscription.acknowledge(messages)
        if messages:
            self._useless_connections = 0
        if sent_at := max((notice.sent_at for notice in notices), default=0.0):
            self._set_lag(max(0.0, time.time() - sent_at))
        self._count_events("news", news)
        self._count_events("old", len(notices) - news)
        self._count_events("other", len(messages) - len(notices))

    async def _handle_disconnect(self, error: LocationUnavailable | IndexUnavailable) -> None:
        """Stores the failure, and deletes a queue that seems to break each connection."""
        status, now, code = self._status, time.time(), error.problem_code
        if status.error_code != code:  # once for an outage, not with each attempt
            log.warning("AMQP disconnected", location=self._location.name, reason=error.detail)
        if status.connected:
            self._useless_connections += 1
            if now - status.since > self._timings.max_reconnect_delay:
                self._reconnect_delay = MIN_RECONNECT_DELAY_SECONDS
        if self._useless_connections >= MAX_USELESS_CONNECTIONS:
            self._useless_connections = 0
            await delete_queue(self._index, self._location, self._secrets)
        since = status.since if status.error_code else now
        await self._store_status(
            SubscriptionStatus(since=since, at=now, error=error.detail, error_code=code),
            quiet=status.error_code == code,
        )

    async def store_stopped(self) -> None:
        """Stores that no process consumes the notifications now."""
        if self._status.connected:
            now = time.time()
            # Without Redis, the age of the status shows it.
            with contextlib.suppress(IndexUnavailable):
                await self._store_status(
                    SubscriptionStatus(since=now, at=now, error_code="stopped")
                )

    async def _store_status(self, status: SubscriptionStatus, *, quiet: bool = False) -> None:
        """``quiet``: without a new version of the registry."""
        self._status = status = replace(status, unknown=self._unknown_fields)
        location = self._location
        await self._index.records.set_subscription(location.number, status, location, quiet=quiet)


async def queue_name(index: Index, location: Location) -> str:
    """The name of our queue for a location. No other index and no other location has the same."""
    return f"glance-resolver.{await index.identity()}.{location.number}"


async def delete_queue(index: Index, location: Location, secrets: SecretSources) -> None:
    """Deletes our queue for a location with all that is in it. If the broker cannot be reached, the
    queue expires there."""
    try:
        name = await queue_name(index, location)
        async with subscribed(
            location.notifications or {}, name, secrets, consume=False
        ) as subscription:
            await subscription.delete_queue()
    except (LocationUnavailable, IndexUnavailable) as error:
        log.info("AMQP queue left to expire", location=location.name, reason=error.detail)
