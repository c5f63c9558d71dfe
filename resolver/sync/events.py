"""Following a location's notifications: each is in the index before the broker may forget it.

Notifications come at most once, perhaps again, and perhaps in another order than they were sent
in. So each image's latest is remembered by Glance's own time, and one that is older says nothing.
What was lost while there was no link is read by a poll, and by a sweep where the queue was lost.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from resolver.errors import IndexUnavailable, LocationUnavailable
from resolver.glance import Notice, parse_notice, subscribed
from resolver.index import Index
from resolver.models import Location

REMEMBERED = 50_000
"""Images of which the latest notification is remembered: those of minutes, where they crossed."""

PATIENCE = 5.0
"""Seconds without a notification after which the link is looked after."""

log = structlog.get_logger()


class Latest:
    """The latest notification of each image lately heard of."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, bool]] = {}

    def knows(self, raw: bytes) -> bool:
        """Whether anything was heard of an image."""
        return raw in self._known

    def is_news(self, notice: Notice) -> bool:
        """Whether nothing later was heard. At the same moment a deletion comes last."""
        stamp, gone = self._known.get(notice.raw, (0.0, False))
        if notice.stamp and (notice.stamp, notice.gone) < (stamp, gone):
            return False
        self._known.pop(notice.raw, None)  # to the end
        self._known[notice.raw] = (max(notice.stamp, stamp), notice.gone)
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return True


async def apply(index: Index, number: int, latest: Latest, notices: Iterable[Notice]) -> int:
    """Writes what notifications of location ``number`` say, in their order, to the index; returns
    how many were news. Only this location's claims are touched.

    Raises:
        IndexUnavailable: Redis failed: all of them must be applied again.
    """
    news = 0
    there: dict[bytes, int] = {}
    gone: set[bytes] = set()
    new: set[bytes] = set()
    oldest = now = time.time()
    for notice in notices:
        if not latest.knows(notice.raw):
            new.add(notice.raw)
            oldest = min(oldest, notice.stamp or now)
        if not latest.is_news(notice):
            continue
        news += 1
        # Of several about one image the last one counts.
        there.pop(notice.raw, None)
        gone.discard(notice.raw)
        if notice.gone:
            gone.add(notice.raw)
        else:
            there[notice.raw] = notice.case
    # Of what was heard of, the notifications' own order tells; of the rest, whether something else
    # has seen it leave since this was sent.
    heard = {raw: case for raw, case in there.items() if raw not in new}
    first = {raw: case for raw, case in there.items() if raw in new}
    if heard:
        await index.claims.claim(number, heard)
    if first:
        await index.sightings.saw(number, first, time.monotonic() - (now - oldest))
    if gone:
        await index.sightings.lost(number, gone)
    return news


async def follow(
    index: Index,
    location: Location,
    latest: Latest,
    told: Callable[[str, int], None],
    linked: Callable[[bool], Awaitable[None]],
    alive: Callable[[], Awaitable[None]],
) -> None:
    """Applies a location's notifications until the link is lost, or ``alive``, which is called
    every few seconds, raises.

    ``told``: hears how many were of which kind. ``linked``: hears that notifications arrive from
    now on, and whether those before were lost; it is awaited before the first is taken.

    Raises:
        LocationUnavailable: the link is lost, or cannot be had.
    """
    name = f"glance-resolver.{await index.identity()}.{location.number}"
    async with subscribed(location.notifications or {}, name) as subscription:
        await linked(subscription.new)
        while True:
            messages = await subscription.batch(PATIENCE)
            notices = [parse_notice(message.body) for message in messages]
            news = await apply(index, location.number, latest, filter(None, notices))
            await subscription.done(messages)
            useful = sum(notice is not None for notice in notices)
            told("news", news)
            told("old", useful - news)
            told("other", len(messages) - useful)
            await alive()


async def abandon(index: Index, location: Location) -> None:
    """Has the broker drop our queue for a location that was removed. If it cannot be reached, it
    drops the queue by itself in time."""
    name = f"glance-resolver.{await index.identity()}.{location.number}"
    try:
        async with subscribed(location.notifications or {}, name) as subscription:
            await subscription.drop()
    except (LocationUnavailable, IndexUnavailable) as error:
        log.info("queue left to the broker", location=location.name, reason=error.detail)
