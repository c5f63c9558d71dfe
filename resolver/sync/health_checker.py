"""The checker: one process looks at every location, for all gateways, while it holds the lease."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import structlog

from resolver.errors import IndexUnavailable
from resolver.glance import CloudCredentials, GlanceServer
from resolver.index import Index, LostLease
from resolver.models import Check, Health, State
from resolver.registry import LocationView, TableKeeper
from resolver.settings import Settings
from resolver.sync.health import DOWN_AFTER, HealthSample, look, next_status

if TYPE_CHECKING:
    from resolver.sync.indexer import Stats

AGAIN = 0.2
"""The part of the interval after which one that has begun to fail is looked at again."""

JITTER = 0.1
"""The part of the interval by which looks are spread, so that they do not come in step."""

LOOKS_AT_ONCE = 64

SUSPECT_SHARE = 0.5
"""When more than this share of the locations that were not down fail together, the fault is
likelier ours: a network, a name server, a clock. At least two must, or one could not go down."""

STEP = 0.2
"""Most seconds between two looks at what is due; a twentieth of the interval where that is less."""

log = structlog.get_logger()

Hold = Callable[[], Awaitable[None]]
"""Renews the lease; raises where it was lost."""


@dataclass(slots=True)
class WatchedLocation:
    """One location under watch. Times are the loop's."""

    view: LocationView
    read: bool = False
    """Whether what another process saw was read."""
    check: Check | None = None
    due: float = 0.0
    looked: float = 0.0
    """When our last look ended; 0 before the first."""
    failing: float = 0.0
    """When the first of our failed looks in a row ended."""
    busy: bool = False


class HealthChecker:
    """Looks at all locations and keeps what it sees; for as long as `run` runs."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        session: aiohttp.ClientSession,
        settings: Settings,
        cloud_credentials: CloudCredentials,
        stats: Stats,
    ) -> None:
        self._index = index
        self._tables = tables
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._interval = settings.health_interval
        self._stats = stats
        self._watched: dict[int, WatchedLocation] = {}
        self._limit = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._held = 0.0
        """When the lease was last known to be ours, on the loop's clock."""

    async def run(self, hold: Hold, every: float) -> None:
        """Looks until ``hold``, called every ``every`` seconds, raises."""
        loop = asyncio.get_running_loop()
        self._held = loop.time()
        self._watched.clear()  # another process may have looked meanwhile
        looks: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._ours(hold, every)
                self._take_in()
                for one in self._watched.values():
                    if not one.busy and loop.time() >= one.due:
                        one.busy = True
                        looks.add(task := asyncio.create_task(self._look(one, hold, every)))
                        task.add_done_callback(looks.discard)
                await asyncio.sleep(min(STEP, self._interval / 20))
        finally:
            for task in looks:
                task.cancel()
            self._stats.suspects = False

    async def _ours(self, hold: Hold, every: float) -> None:
        """Renews the lease where that is due."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._held >= every:
            await hold()
            self._held = loop.time()

    def _take_in(self) -> None:
        """Watches what the table has now, and no more."""
        views = self._tables.table.by_number
        for number in self._watched.keys() - views.keys():
            del self._watched[number]
        for number, view in views.items():
            one = self._watched.get(number)
            if one is None or one.view.location.created != view.location.created:
                self._watched[number] = one = WatchedLocation(view)
            one.view = view

    async def _look(self, one: WatchedLocation, hold: Hold, every: float) -> None:
        loop = asyncio.get_running_loop()
        pause = self._interval
        try:
            if not one.read:
                one.check = await self._index.records.check(one.view.location.number)
                one.read = True
                since = time.time() - one.check.at if one.check else math.inf
                if 0 <= since < self._interval:  # another process has just looked
                    pause -= since
                    return
            async with self._limit:
                server = GlanceServer(self._session, one.view.location, self._cloud_credentials)
                seen = await look(server, one.check)
            # We may have slept since (SIGSTOP, a suspended machine), and another looks by now.
            await self._ours(hold, every)
            one.looked = loop.time()
            if await self._learn(one, seen):
                pause *= AGAIN
        except LostLease:
            pass  # `run` will see
        except IndexUnavailable as error:  # as if nobody had looked
            log.warning("a look was not kept", location=one.view.name, reason=str(error))
        except Exception:
            log.exception("look failed", location=one.view.name)
        finally:
            one.busy = False
            one.due = loop.time() + pause * random.uniform(1 - JITTER, 1 + JITTER)

    async def _learn(self, one: WatchedLocation, seen: HealthSample) -> bool:
        """Judges and keeps what was seen; whether to look again soon."""
        before, after = one.check, next_status(one.check, seen)
        if not seen.fault:
            one.failing = 0.0
        elif not one.failing:
            one.failing = one.looked
        if after.failures >= DOWN_AFTER - 1 and (before is None or before.health != Health.DOWN):
            doubt = self._doubt(one)
            after = next_status(before, seen, doubt)
        self._stats.count(self._stats.checks, one.view.name, "failed" if seen.fault else "ok")
        quiet = before is not None and (before.health, before.versions) == (
            after.health,
            after.versions,
        )
        location = one.view.location
        await self._index.records.set_check(location.number, after, location, quiet=quiet)
        one.check = after
        if before is None or before.health is not after.health:
            log.info(
                "location health",
                location=one.view.name,
                health=str(after.health),
                reason=after.reason,
            )
        self._tell()
        return bool(after.failures) and after.health is not Health.DOWN

    def _doubt(self, one: WatchedLocation) -> str:
        """Why a location that fails may not be to blame for it; empty when it is.

        The others must have been looked at since it began to fail. Those that were not are looked
        at next, and until then nothing is decided.
        """
        if one.view.location.state is State.MAINTENANCE:
            return ""
        others = [
            other
            for other in self._watched.values()
            if other is not one
            and other.view.location.state is not State.MAINTENANCE
            and not (other.check and other.check.health is Health.DOWN)
        ]
        unlooked = [other for other in others if other.looked < one.failing]
        for other in unlooked:
            other.due = 0.0
        if unlooked:
            return "not counted until the other locations were looked at"
        failing = 1 + sum(bool(other.check and other.check.failures) for other in others)
        standing = 1 + len(others)
        if failing >= 2 and failing > SUSPECT_SHARE * standing:
            return (
                f"not counted: {failing} of {standing} locations fail together, so the fault is "
                "likelier the checker's"
            )
        return ""

    def _tell(self) -> None:
        """Whether some location would be down, were it not for a doubt."""
        withheld = sum(
            one.check is not None
            and one.check.failures >= DOWN_AFTER
            and one.check.health is not Health.DOWN
            for one in self._watched.values()
        )
        if bool(withheld) != self._stats.suspects:
            self._stats.suspects = bool(withheld)
            if withheld:
                log.warning("so many locations fail together that none is called down")
