"""The locations as answers need them: an immutable table, replaced whole when its version grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resolver.errors import IndexLost, IndexUnavailable
from resolver.index import Index, Record, Snapshot
from resolver.models import (
    Api,
    Health,
    Location,
    State,
    Status,
    api_versions,
    format_id,
    minor_version,
)


def scope_problem(sees_all: bool | None, why: str) -> str:
    """Why a credential's not seeing an image proves nothing; empty where it does."""
    if sees_all is False:
        return f"its credential does not see every image: {why or 'as registered (`sees_all`)'}"
    if sees_all is None:
        return f"whether its credential sees every image {why or 'is not known yet'}"
    return ""


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """For how long what was read of a location vouches, beside the time that a sweep takes."""

    swept_within: float
    """Seconds after the end of a sweep."""
    polled_within: float | None = None
    """Seconds for which polls may fail; None without polls."""


@dataclass(frozen=True)
class LocationView:
    """A location as one row of the table, with what each answer needs made ready."""

    location: Location
    status: Status
    terms: FreshnessPolicy

    @property
    def name(self) -> str:
        return self.location.name

    @cached_property
    def serves(self) -> tuple[bool, bool] | None:
        """(v1, v2); None where it is not known yet."""
        if self.location.api is not Api.AUTO:
            return self.location.api is Api.V1, self.location.api is Api.V2
        versions = self.versions
        return api_versions(versions) if versions else None

    @property
    def versions(self) -> tuple[str, ...]:
        return self.status.check.versions if self.status.check else ()

    @property
    def minor(self) -> int:
        """The highest N of the v2.N it serves, -1 where none is known."""
        return minor_version(self.versions)

    @property
    def health(self) -> Health:
        return self.status.check.health if self.status.check else Health.UNKNOWN

    @cached_property
    def images_v1(self) -> str:
        return f"{self.location.url}/v1/images/"

    @cached_property
    def images_v2(self) -> str:
        return f"{self.location.url}/v2/images/"

    @cached_property
    def images_url(self) -> str:
        """Prefix of URLs that can be fetched today: v1 where it is served or not known, else v2."""
        return self.images_v1 if self.serves is None or self.serves[0] else self.images_v2

    def uri(self, image_id: bytes, letter_case: int = 0) -> str:
        """The image's identifier here."""
        return self.images_v1 + format_id(image_id, letter_case)

    def url(self, image_id: bytes, letter_case: int = 0) -> str:
        """What can be fetched of the image here today."""
        return self.images_url + format_id(image_id, letter_case)

    @property
    def sees_all(self) -> bool | None:
        """Whether its credential sees every image; None: not known."""
        if self.location.sees_all is not None:
            return self.location.sees_all
        return self.status.sweep.sees_all

    @property
    def blind(self) -> str:
        """Why what it does not show may be there all the same; empty when it cannot."""
        return scope_problem(self.sees_all, self.status.sweep.sees_all_why)

    def doubt(self, now: float) -> str:
        """Why the index may miss an image of this location; empty when it cannot.

        Anybody may read it: what a server or a file said stands in the sweep's `error` only.
        """
        sweep, poll = self.status.sweep, self.status.poll
        if sweep.ended is None or sweep.started is None:
            return f"never swept ({sweep.error_code})" if sweep.error else "not swept yet"
        if self.blind:
            return self.blind
        took = max(sweep.ended - sweep.started, 0.0)
        age = now - sweep.ended
        # Of a clock that was set back since, it may be of any time.
        if abs(age) > self.terms.swept_within + took:
            why = f" ({sweep.error_code})" if sweep.error else ""
            return f"the last whole sweep ended {age:.0f} s ago{why}"
        news = now - max(sweep.ended, poll.ended or 0.0)
        # Polls that work are not told to every table, those that fail are.
        within = self.terms.polled_within
        if poll.error and within is not None and abs(news) > within:
            return f"what changed was last read {news:.0f} s ago ({poll.error_code})"
        return ""

    def coverage(self, now: float) -> dict[str, Any]:
        """How whole and how fresh the index is for this location, in words for anybody."""
        doubt, sweep, poll, feed = (
            self.doubt(now),
            self.status.sweep,
            self.status.poll,
            self.status.subscription,
        )
        swept = "not swept yet"
        if sweep.ended is not None:
            swept = f"whole {_ago(now, sweep.ended)}: {sweep.images} images"
        if sweep.error:
            swept += f"; the latest failed ({sweep.error_code})"
        polled = "off"
        if self.terms.polled_within is not None:
            polled = "not polled yet" if poll.ended is None else _ago(now, poll.ended)
            if poll.error:
                polled += f"; the latest failed ({poll.error_code})"
        events = "none: the location has no `notifications`"
        if self.location.notifications:
            if feed is None:
                events = "not connected yet"
            elif now - feed.at > FEED_LOST:
                events = f"not known: the last word of them came {_ago(now, feed.at)}"
            elif feed.connected:
                events = f"connected {_ago(now, feed.since)}"
            else:
                events = f"lost {_ago(now, feed.since)} ({feed.error_code})"
        return {
            "covered": not doubt,
            "why": doubt or "its last sweep is whole and fresh",
            "sweep": swept,
            "poll": polled,
            "events": events,
            "credential": self.blind or "sees every image",
        }


FEED_LOST = 45.0
"""Seconds without a word after which nobody holds the link to a location's notifications."""


def _ago(now: float, at: float) -> str:
    return f"{max(now - at, 0):.0f} s ago"


class Table:
    """All locations as of one version of the registry."""

    def __init__(
        self, snapshot: Snapshot, terms: FreshnessPolicy, lost: Mapping[str, float] | None = None
    ) -> None:
        """``lost``: locations that an index had which is gone, and until when they are missed, by
        `time.monotonic`."""
        self.identity = snapshot.identity
        self.version = snapshot.version
        self.removed = snapshot.removed
        self.records: Mapping[str, Record] = snapshot.records
        self.by_name = {
            name: LocationView(record.location, record.status, terms)
            for name, record in snapshot.records.items()
        }
        self.by_number = {view.location.number: view for view in self.by_name.values()}
        self.lost = {n: until for n, until in (lost or {}).items() if n not in self.by_name}

    def __len__(self) -> int:
        return len(self.by_name)

    def gone_from(self, there: Snapshot | Table) -> list[LocationView]:
        """Locations of this table that are not there and that nobody removed: Redis lost them."""
        known = there.records.keys() | there.removed
        return [view for view in self.by_name.values() if view.name not in known]

    def numbers_otherwise(self, before: Table) -> bool:
        """Whether a number is that of another location than before, which no change makes it."""
        return any(
            number in before.by_number and before.by_number[number].name != view.name
            for number, view in self.by_number.items()
        )

    def in_service(self) -> list[LocationView]:
        """Locations that are not in maintenance."""
        return [p for p in self.by_name.values() if p.location.state is not State.MAINTENANCE]

    def doubts(self, now: float) -> dict[str, str]:
        """Why `absent` cannot be said: locations in service that cannot vouch, each with why."""
        doubts = {view.name: view.doubt(now) for view in self.in_service()}
        return {name: doubt for name, doubt in doubts.items() if doubt} | self.missed()

    def missed(self) -> dict[str, str]:
        """Locations that nobody removed and that are not here, each with why."""
        now = time.monotonic()
        return {
            name: "Redis lost its data, and it is not registered again"
            for name, until in self.lost.items()
            if now < until
        }


def late(deadline: float) -> IndexUnavailable:
    """Redis took longer than somebody could wait."""
    return IndexUnavailable(
        f"Redis did not answer within {deadline:.2g} s", headers={"Retry-After": "2"}
    )


class TableKeeper:
    """Holds the newest table that this process has seen."""

    def __init__(self, index: Index, terms: FreshnessPolicy, missed_for: float = 3600.0) -> None:
        """``missed_for``: how long `absent` is not said for want of a location that was lost with
        the data of Redis."""
        self._index = index
        self._terms = terms
        self._missed_for = missed_for
        self._lock = asyncio.Lock()
        self.table = Table(Snapshot(-1, {}), terms)
        self._known = -1
        self._seen = 0.0
        """When `table` was last that of now."""

    @property
    def changes(self) -> int:
        """Grows when the registry has changed since its version was read."""
        return self._index.records.changes

    @property
    def known(self) -> bool:
        """Whether `table` is current, as far as Redis has reported changes (see
        `RedisClient.tracking_current`)."""
        return self._known == self.changes

    def is_of(self, changes: int) -> None:
        """`table` has the version that was read when `changes` was this, or later."""
        self._known = changes
        self._seen = time.monotonic()

    def last(self, stale_for: float) -> Table | None:
        """The table of not longer ago than this, for when Redis does not answer; None where there
        is none, or claims are known of another index already."""
        table = self.table
        late = time.monotonic() - self._seen > stale_for
        return (
            None
            if late or not table.identity or table.identity != self._index.identity_seen
            else table
        )

    async def at_least(self, version: int) -> Table:
        """The table of ``version`` or a later one, of the index that was seen last.

        Raises:
            IndexUnavailable: it had to be read and Redis did not answer.
        """
        if not self._has(version):
            async with self._lock:
                if not self._has(version):
                    await self._load()
        return self.table

    def _has(self, version: int) -> bool:
        # After a failover it may count from less, so any other version is news.
        table = self.table
        return version == table.version and self._index.identity_seen == table.identity

    async def current(self, deadline: float | None = None) -> Table:
        """The table as it is now, where no lookup brings its version along.

        Raises:
            IndexUnavailable: Redis did not answer, or not within ``deadline`` seconds.
        """
        try:
            async with asyncio.timeout(deadline):
                changes = self.changes
                found = await self._index.claims.lookup([])
                table = await self.at_least(found.version)
                if (table.identity, table.version) == found[:2]:
                    self.is_of(changes)
                return table
        except TimeoutError as error:
            raise late(deadline or 0) from error

    async def fresh(self) -> Table:
        """The table read anew: only there are the times of looks that told nothing new.

        Raises:
            IndexUnavailable: Redis did not answer.
        """
        async with self._lock:
            await self._load()
        return self.table

    async def _load(self) -> None:
        snapshot = await self._index.records.load()
        if not snapshot.identity:
            raise IndexLost("Redis has lost the locations", headers={"Retry-After": "2"})
        before = self.table
        gone = before.gone_from(snapshot)
        until = time.monotonic() + self._missed_for
        lost = {p.name: until for p in gone if p.location.state is not State.MAINTENANCE}
        lost |= {n: u for n, u in before.lost.items() if n not in snapshot.removed}
        self.table = Table(snapshot, self._terms, lost)
        if gone or self.table.numbers_otherwise(before):
            # An older state, or another index: numbers may come to mean other locations.
            self._index.clear_cache()
