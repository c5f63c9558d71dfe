"""Who does what when: the loop that checks and sweeps every location, one process at a time each.

Any number of processes may run an indexer. A lease in Redis for each piece of work lets one of
them do it; the lease of one that dies runs out, and another takes the work over.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import structlog

from resolver.errors import Conflict, IndexUnavailable, LocationUnavailable, ResolverError
from resolver.glance import CloudCredentials, GlanceServer
from resolver.index import Index, Lease, LostLease, SweepRequest
from resolver.models import Location, Progress, Sweep
from resolver.registry import LocationView, Table, TableKeeper
from resolver.settings import Settings
from resolver.sync.health_checker import HealthChecker
from resolver.sync.notification_consumer import NotificationConsumer, abandon
from resolver.sync.poll import poll
from resolver.sync.sweep import Sweeper

TICK = 0.5
"""Seconds between two looks at what is due."""

LEASE = 30.0
"""Seconds that a dead indexer's work waits for another. A sweep renews it after each page, and
beside that three times in this time."""

SWEEPS_AT_ONCE = 4
"""Locations that one indexer sweeps at the same time."""

RETRY = 30.0
"""Most seconds until a failed sweep is tried again."""

Work = Callable[[Lease, Any], Awaitable[None]]
"""Something to do under a lease, for a location or for all."""

POLL_NOW = 0.0
"""In place of the time of a location's next poll: at once, whoever has just polled."""

COLLECT_PACE = 3.0
"""The collector rests this many times as long as it works."""

log = structlog.get_logger()


@dataclass(slots=True)
class Stats:
    """Figures of this process since its start, for metrics."""

    sweeps: dict[tuple[str, str], int] = field(default_factory=dict)
    """(location, result) -> count; the result is ``ok`` or an error code."""
    checks: dict[tuple[str, str], int] = field(default_factory=dict)
    polls: dict[tuple[str, str], int] = field(default_factory=dict)
    events: dict[tuple[str, str], int] = field(default_factory=dict)
    suspects: bool = False
    """Whether so many locations fail together that the checker calls none of them down."""
    last_tick: float = 0.0
    """When the loop last went round well."""

    @staticmethod
    def count(
        table: dict[tuple[str, str], int], location: str, result: str, count: int = 1
    ) -> None:
        table[location, result] = table.get((location, result), 0) + count


class Indexer:
    """The background work of one process."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        session: aiohttp.ClientSession,
        settings: Settings,
        cloud_credentials: CloudCredentials,
    ) -> None:
        self._index = index
        self._tables = tables
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._settings = settings
        self._work: dict[str, asyncio.Task[None]] = {}
        self._next_poll: dict[int, float] = {}
        self._followed: dict[int, dict[str, str]] = {}
        """Where the notifications come from that are followed, by location."""
        self._gap_swept: dict[int, float] = {}
        """When a sweep was last wanted for notifications that were lost, by location; by
        `time.monotonic`, as are polls."""
        self._rest: set[asyncio.Task[None]] = set()
        self._sweeps = asyncio.Semaphore(SWEEPS_AT_ONCE)
        self.stats = Stats()
        self._checker = HealthChecker(
            index, tables, session, settings, cloud_credentials, self.stats
        )

    async def run(self) -> None:
        """Goes round until cancelled; then ends its work and lets go of its leases."""
        try:
            while True:
                try:
                    await self._tick()
                    self.stats.last_tick = time.time()
                except IndexUnavailable as error:
                    log.warning("indexer waits for Redis", reason=str(error))
                except Exception:  # ours: without another round nothing would be swept again
                    log.exception("a round broke")
                await asyncio.sleep(TICK * random.uniform(0.8, 1.2))
        finally:
            while tasks := list(self._work.values()):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=0.5)
            if self._rest:
                _, late = await asyncio.wait(self._rest, timeout=1)
                for task in late:
                    task.cancel()

    async def _tick(self) -> None:
        table = await self._tables.current()
        wanted = await self._index.records.requested_sweeps()
        now = time.time()
        for view in table.by_name.values():
            number = view.location.number
            if number in wanted or self._sweep_due(view, now):
                self._start(f"sweep:{number}", self._sweep, view)
            if view.location.notifications:
                self._start(f"events:{number}", self._follow, view)
            polls = self._settings.poll_interval and view.versions
            if polls and time.monotonic() >= self._next_poll.get(number, POLL_NOW):
                self._start(f"poll:{number}", self._poll, view)
        for number in self._next_poll.keys() - table.by_number.keys():
            del self._next_poll[number]
        self._start("health:0", self._check, None)
        for name, task in self._work.items():
            kind, number = name.partition(":")[0], int(name.partition(":")[2])
            if number not in {*table.by_number, 0}:
                task.cancel()  # the location was removed or moved
            elif kind == "events" and self._unfollowed(number, table):
                task.cancel()
        if (bits := await self._index.rebuild.requested()) is not None:
            self._start("rebuild:0", self._rebuild, bits)
        if retired := await self._index.records.retired():
            self._start("collect:0", self._collect, retired)

    def _unfollowed(self, number: int, table: Table) -> bool:
        """Whether the notifications that are followed for a location are no longer its own."""
        followed, view = self._followed.get(number), table.by_number.get(number)
        return followed is not None and (view is None or view.location.notifications != followed)

    def _sweep_due(self, view: LocationView, now: float) -> bool:
        sweep = view.status.sweep
        interval = self._settings.sweep_interval
        if sweep.error and sweep.failed is not None:
            # What an operator must confirm is no better listed again at once.
            soon = interval if sweep.error_code == "shrink-guard" else min(interval, RETRY)
            return abs(now - sweep.failed) >= soon
        # A time that is still to come is of a clock that was set back since.
        return sweep.ended is None or abs(now - sweep.ended) >= interval

    def _start(self, name: str, work: Work, what: Any) -> None:
        if name not in self._work:
            task = asyncio.create_task(self._guarded(name, work, what), name=name)
            self._work[name] = task
            task.add_done_callback(lambda _: self._work.pop(name, None))

    async def _guarded(self, name: str, work: Work, what: Any) -> None:
        """Runs work under its lease. Whatever goes wrong ends this piece of work only."""
        lease = self._index.lease(name, seconds=LEASE)
        try:
            if not await lease.acquire():
                return
            try:
                await work(lease, what)
            finally:
                await lease.release()
        except LostLease:
            log.warning("work taken over by another indexer", work=name)
        except IndexUnavailable as error:
            log.warning("work stopped: no index", work=name, reason=str(error))
        except Exception:
            log.exception("work failed", work=name)

    async def _check(self, lease: Lease, _: None) -> None:
        await self._checker.run(lease.ensure_held, LEASE / 3)

    async def _poll(self, lease: Lease, view: LocationView) -> None:
        """Reads what changed at a location since the last poll, by whomever."""
        location, interval = view.location, self._settings.poll_interval
        asked = self._next_poll.get(location.number) == POLL_NOW
        pause = interval * random.uniform(0.9, 1.1)
        self._next_poll[location.number] = time.monotonic() + pause
        before = await self._index.records.poll(location.number)
        last = max(before.ended or 0, before.failed or 0)
        if not asked and abs(time.time() - last) < interval / 2:
            return  # another indexer has just polled

        server = GlanceServer(self._session, location, self._cloud_credentials)
        try:
            after = await poll(
                self._index, server, view.versions, before, view.status.sweep, lease.ensure_held
            )
            result = "ok"
        except LocationUnavailable as error:
            result = error.problem_code
            after = replace(
                before, error=error.detail, error_code=error.problem_code, failed=time.time()
            )
        self.stats.count(self.stats.polls, view.name, result)
        if (result == "ok") != (not before.error):
            log.info("polls", location=view.name, result=result, reason=after.error)
        quiet = not before.error and not after.error
        await self._index.records.set_poll(location.number, after, location, quiet=quiet)

    async def _follow(self, lease: Lease, view: LocationView) -> None:
        """Follows a location's notifications, until they are others or it is removed."""
        number, location = view.location.number, view.location

        async def linked(lost: bool) -> None:
            self._next_poll[number] = POLL_NOW
            now = time.monotonic()
            sweep = self._tables.table.by_number.get(number, view).status.sweep
            # No poll tells what was deleted. Not again and again, where a link does not last.
            due = now - self._gap_swept.get(number, -math.inf) > self._settings.sweep_interval
            if lost and due and sweep.ended is not None:
                self._gap_swept[number] = now
                await self._index.records.request_sweep(number)

        def told(kind: str, count: int) -> None:
            if count:
                self.stats.count(self.stats.events, view.name, kind, count)

        follower = NotificationConsumer(self._index, view, told, linked, lease.ensure_held)
        self._followed[number] = location.notifications or {}
        try:
            await follower.run()
        finally:
            if self._unfollowed(number, self._tables.table):
                self._later(abandon(self._index, location))
            else:
                self._later(follower.stopped())
            del self._followed[number]

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._rest.add(task)
        task.add_done_callback(self._rest.discard)

    async def _sweep(self, lease: Lease, view: LocationView) -> None:
        async with self._sweeps:
            number = view.location.number
            # Since the tick, another indexer may have done it or the location have changed.
            current = (await self._tables.current()).by_number.get(number)
            if current is None or not await lease.renew():
                return
            wanted = await self._index.records.requested_sweeps()
            asked = wanted.get(number)
            if asked is None and not self._sweep_due(current, time.time()):
                return
            renewing = asyncio.create_task(self._renew(lease, asyncio.current_task()))
            try:
                result = await self._swept(current, lease, asked)
            finally:
                renewing.cancel()
            await lease.ensure_held()
            await self._index.records.set_sweep(number, result, current.location)
            if asked is not None:
                await self._index.records.finish_sweep_request(number, asked)

    @staticmethod
    async def _renew(lease: Lease, sweep: asyncio.Task[None] | None) -> None:
        """Keeps the lease while a slow page is awaited."""
        while await asyncio.sleep(LEASE / 3, result=True):
            try:
                held = await lease.renew()
            except IndexUnavailable:
                continue  # the sweep itself will see
            if not held and sweep is not None:
                sweep.cancel()

    async def _swept(self, view: LocationView, lease: Lease, asked: SweepRequest | None) -> Sweep:
        """Sweeps a location and returns what to keep of it, failed or not."""
        location, before = view.location, view.status.sweep
        server = GlanceServer(self._session, location, self._cloud_credentials)
        begun = time.time()

        async def report(_: Progress) -> None:
            await lease.ensure_held()

        async def sighted(sees_all: bool | None, why: str) -> None:
            """At once, not when the sweep has ended: it tells what a no of this server is worth."""
            nonlocal before
            if (before.sees_all, before.sees_all_why) != (sees_all, why):
                before = replace(before, sees_all=sees_all, sees_all_why=why)
                await self._index.records.set_sweep(location.number, before, location)

        resume = (await self._index.records.progress()).get(location.number)
        if resume is not None and asked is not None and asked.at > resume.started:
            resume = None  # who asks now wants what is there now
        try:
            # Read anew, so that an upgraded server is listed as it is now.
            versions = await server.versions()
            sweeper = Sweeper(self._index, server, versions, guard=self._settings.shrink_guard)
            sweep = await sweeper.run(
                report,
                sighted,
                confirm_shrink=bool(asked and asked.confirm_shrink),
                resume=resume,
                listed_before=before.images,
            )
        except (IndexUnavailable, LostLease):
            raise
        except Exception as error:
            if not isinstance(
                error, LocationUnavailable
            ):  # ours: told all the same, and waited for
                log.exception("sweep broke", location=location.name)
                error = LocationUnavailable(
                    "the sweep broke: the indexer's log has the cause", code="internal-error"
                )
            self._failed(location, error)
            await self._index.records.end_progress(location.number)
            return replace(
                before, error=error.detail, error_code=error.problem_code, failed=time.time()
            )
        self.stats.count(self.stats.sweeps, location.name, "ok")
        log.info(
            "sweep done",
            location=location.name,
            images=sweep.images,
            claimed=sweep.claimed,
            released=sweep.released,
            seconds=round(time.time() - begun, 3),
        )
        return sweep

    def _failed(self, location: Location, error: ResolverError) -> None:
        self.stats.count(self.stats.sweeps, location.name, error.problem_code)
        log.warning(
            "sweep failed; nothing was released",
            location=location.name,
            code=error.problem_code,
            reason=error.detail,
        )

    async def _rebuild(self, lease: Lease, bits: int) -> None:
        """Gives the index other buckets."""
        begun = time.monotonic()

        try:
            if await self._index.rebuild.run(bits, lease.ensure_held):
                seconds = round(time.monotonic() - begun, 1)
                log.info("index rebuilt", bits=bits, seconds=seconds)
        except Conflict as error:
            log.warning("index not rebuilt", reason=error.detail)

    async def _collect(self, _: Lease, retired: list[int]) -> None:
        """Frees the claims of removed locations, once nobody can add to them."""
        free = []
        for number in retired:
            for what in ("sweep", "poll", "events"):
                lease = self._index.lease(f"{what}:{number}", seconds=LEASE)
                if not await lease.acquire():
                    break
                await lease.release()
            else:
                free.append(number)
        if free:
            gone = await self._index.claims.purge(free, pace=COLLECT_PACE)
            if await self._index.rebuild.requested() is not None:
                return  # it may have copied what was purged: once more when it is done
            await self._index.records.forget_retired(free)
            log.info("claims of removed locations collected", claims=gone)
