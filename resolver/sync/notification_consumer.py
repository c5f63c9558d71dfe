"""Following a location's notifications: each is in the index before the broker may forget it.

What was lost while there was no link is read by a poll, and by a sweep where deletions may be among
it.
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
from resolver.glance import parse_notice, subscribed
from resolver.index import Index
from resolver.models import Location, SubscriptionStatus
from resolver.registry import LocationView
from resolver.sync.deletion_log import DeletionLog, apply

PATIENCE = 5.0
"""Seconds without a notification after which the link is looked after."""

ALIVE = 10.0
"""Seconds after which the lease is renewed and the index told that the link still is."""

UNLINKED = 30.0
"""Seconds without a link after which the broker may have begun anew in between."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds until a lost broker is tried again; each time twice as long."""

POISON_AFTER = 3
"""Links that end in a row before anything was taken, after which the queue is begun anew."""

log = structlog.get_logger()


class NotificationConsumer:
    """Follows one location's notifications."""

    def __init__(
        self,
        index: Index,
        view: LocationView,
        told: Callable[[str, int], None],
        linked: Callable[[bool], Awaitable[None]],
        hold: Callable[[], Awaitable[None]],
    ) -> None:
        """``told`` hears how many notifications were of which kind; ``linked``, before the first
        is taken, that they arrive from now on and whether some may have been lost; ``hold`` renews
        the lease and raises where it is lost."""
        self._index = index
        self._location = view.location
        self._told = told
        self._linked = linked
        self._hold = hold
        self._latest = DeletionLog()
        self._before = view.status.subscription
        self._feed = SubscriptionStatus(since=time.time(), at=time.time())
        self._held = time.monotonic()
        self._pause = FIRST_PAUSE
        self._useless = 0
        """Links in a row that ended before anything was taken."""

    async def run(self) -> None:
        """Follows until ``hold`` raises; a link that is lost is tried again."""
        while True:
            await self._hold()
            try:
                await self._follow()
            except (LocationUnavailable, IndexUnavailable) as error:
                await self._lost(error)
            await asyncio.sleep(self._pause * random.uniform(0.8, 1.2))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _follow(self) -> None:
        location = self._location
        name = await queue_name(self._index, location)
        async with subscribed(location.notifications or {}, name) as subscription:
            now = time.time()
            # A broker that went away may have lost the exchange, and our queue's tie to it; also
            # while nobody was linked to it.
            before = self._before
            lost = subscription.is_new or bool(self._feed.error_code)
            lost = lost or (before is not None and abs(now - before.at) > UNLINKED)
            log.info("notifications connected", location=location.name, gap=lost)
            await self._tell(SubscriptionStatus(connected=True, since=now, at=now))
            await self._linked(lost)
            while True:
                messages = await subscription.next_batch(PATIENCE)
                notices = [parse_notice(message.body) for message in messages]
                useful = [notice for notice in notices if notice is not None]
                news = await apply(self._index, location.number, self._latest, useful)
                await subscription.acknowledge(messages)
                if messages:
                    self._useless = 0
                self._told("news", news)
                self._told("old", len(useful) - news)
                self._told("other", len(messages) - len(useful))
                if time.monotonic() - self._held > ALIVE:
                    await self._hold()
                    self._held = time.monotonic()
                    await self._tell(replace(self._feed, at=time.time()), quiet=True)

    async def _lost(self, error: LocationUnavailable | IndexUnavailable) -> None:
        log.warning("notifications lost", location=self._location.name, reason=error.detail)
        feed, now, why = self._feed, time.time(), error.problem_code
        if feed.connected:
            self._useless += 1
            if now - feed.since > LONGEST_PAUSE:
                self._pause = FIRST_PAUSE
        if self._useless >= POISON_AFTER:  # something in the queue kills each link
            self._useless = 0
            await abandon(self._index, self._location)
        since = feed.since if feed.error_code else now
        await self._tell(
            SubscriptionStatus(since=since, at=now, error=error.detail, error_code=why),
            quiet=feed.error_code == why,
        )

    async def stopped(self) -> None:
        """Tells that nobody follows any more, until another does."""
        if self._feed.connected:
            now = time.time()
            with contextlib.suppress(IndexUnavailable):  # its silence will tell
                await self._tell(SubscriptionStatus(since=now, at=now, error_code="stopped"))

    async def _tell(self, feed: SubscriptionStatus, *, quiet: bool = False) -> None:
        self._feed = feed
        location = self._location
        await self._index.records.set_subscription(location.number, feed, location, quiet=quiet)


async def queue_name(index: Index, location: Location) -> str:
    """Our queue for a location: no other index, and no other location, has one of that name."""
    return f"glance-resolver.{await index.identity()}.{location.number}"


async def abandon(index: Index, location: Location) -> None:
    """Has the broker drop our queue for a location, unread. If it cannot be reached, it drops the
    queue by itself in time."""
    try:
        name = await queue_name(index, location)
        async with subscribed(location.notifications or {}, name, consume=False) as subscription:
            await subscription.delete_queue()
    except (LocationUnavailable, IndexUnavailable) as error:
        log.info("queue left to the broker", location=location.name, reason=error.detail)
