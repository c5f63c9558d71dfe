"""The background work of one process: health checks, sweeps, polls and notifications of all
locations, and maintenance of the index.

Any number of processes may run an indexer. Each piece of work needs a lease in Redis, so one of
them does it. The lease of a process that dies expires, and another takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import structlog

from resolver.errors import Conflict, IndexUnavailable, LocationUnavailable
from resolver.fault_log import FaultLog
from resolver.glance import CloudCredentials, GlanceServer, RateLimits, ScopeCache
from resolver.glance.rate_limits import POLL_WAIT_SECONDS, SWEEP_WAIT_SECONDS
from resolver.index import Index, Lease
from resolver.models import Poll
from resolver.registry import LocationView, Table, TableKeeper
from resolver.settings import Settings
from resolver.spans import NO_SPANS, Spans
from resolver.sync.health_checker import HealthChecker
from resolver.sync.leased_work import LeasedWork, WorkKey, WorkKind
from resolver.sync.notification_consumer import NotificationConsumer, delete_queue
from resolver.sync.poll import poll
from resolver.sync.shards import own_shards, shard_count
from resolver.sync.stats import Stats
from resolver.sync.sweep_run import SweepRun
from resolver.sync.sweep_state import expected_growth, expected_images
from resolver.sync.timings import DEFAULT_TIMINGS, IndexerTimings

MAX_PARALLEL_SWEEPS = 16
"""Locations that one indexer sweeps at the same time. Most wait for their servers; those that limit
requests must not hold up the others."""

ANNOUNCEMENTS_PER_LEASE = 6
"""How often an indexer announces itself while its announcement counts, and sees who else lives."""

LEAVE_TIMEOUT_SECONDS = 1.0
"""How long the end of an indexer waits for Redis. Without an answer its announcement expires."""

IMMEDIATELY = 0.0
"""As the time of a location's next poll: now, even if another process has just polled it."""

MAX_PARALLEL_CHECKS = 64
"""Health checks that one process makes at the same time."""

SIZING_INTERVAL_SECONDS = 2.0
"""Between two checks whether the index has enough buckets."""

COLLECT_PAUSE_FACTOR = 3.0
"""The collection of claims pauses this many times as long as it works."""

JITTER_SHARE = 0.2
POLL_JITTER_SHARE = 0.1

log = structlog.get_logger()


def _spread(seconds: float, share: float) -> float:
    """A random time within ``share`` of ``seconds``, so that processes do not synchronize."""
    return seconds * random.uniform(1 - share, 1 + share)


class Indexer:
    """The background work of one process."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        session: aiohttp.ClientSession,
        settings: Settings,
        cloud_credentials: CloudCredentials,
        rate_limits: RateLimits,
        scopes: ScopeCache,
        timings: IndexerTimings = DEFAULT_TIMINGS,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._index = index
        self._spans = spans
        self._tables = tables
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._rate_limits = rate_limits
        self._scopes = scopes
        self._settings = settings
        self._timings = timings
        self.stats = Stats()
        self._work = LeasedWork(index, timings.lease)
        self._jobs: dict[WorkKind, Callable[[Lease, int], Awaitable[None]]] = {
            WorkKind.SWEEP: self._sweep,
            WorkKind.POLL: self._poll,
            WorkKind.EVENTS: self._consume_events,
            WorkKind.HEALTH: self._check_health,
            WorkKind.REBUILD: self._rebuild,
            WorkKind.COLLECT: self._collect_claims,
        }
        self._next_poll: dict[int, float] = {}
        """By location number, on `time.monotonic`."""
        self._gap_swept_at: dict[int, float] = {}
        """When a sweep was last requested because notifications may have been lost; by location
        number, on `time.monotonic`."""
        self._consumed: dict[int, dict[str, str]] = {}
        """The source of the notifications that are consumed, by location number."""
        self._sized_at = -math.inf
        """When the size of the index was checked, on `time.monotonic`."""
        self._free_sweeps = asyncio.Semaphore(MAX_PARALLEL_SWEEPS)
        self._free_checks = asyncio.Semaphore(MAX_PARALLEL_CHECKS)
        self._membership = index.indexer_membership(seconds=timings.lease)
        self._position, self._members = 0, 1
        """Of this process among the indexers that live."""
        self._announced_at = -math.inf
        """On `time.monotonic`."""

    async def run(self) -> None:
        """Does what is due until it is cancelled. Then it stops its work and releases the
        leases."""
        faults = FaultLog(__name__, "redis unavailable", "redis available again", quiet_seconds=0)
        try:
            while True:
                try:
                    await self.tick()
                    faults.record_success(work="indexer tick")
                except IndexUnavailable as error:
                    faults.record_failure(str(error), work="indexer tick")
                except Exception:  # a bug: without further ticks nothing would be swept any more
                    log.exception("indexer tick failed")
                await asyncio.sleep(_spread(self._timings.tick, JITTER_SHARE))
        finally:
            await self.stop()

    async def tick(self) -> None:
        """Starts the work that is due, and cancels work that is no longer wanted. Where this
        version may only read the index, no work is due.

        Raises:
            IndexUnavailable: Redis failed.
        """
        table = await self._tables.current()
        if self._index.read_only_because:
            self._work.cancel_where(lambda _: True)
            self.stats.last_tick = time.time()
            return
        await self._start_location_work(table)
        await self._announce()
        for shard in self._shards(table):
            self._start(WorkKey(WorkKind.HEALTH, shard))
        self._work.cancel_where(lambda key: self._is_obsolete(key, table))
        await self._grow_index(table)
        if await self._index.rebuild.requested() is not None:
            self._start(WorkKey(WorkKind.REBUILD))
        if await self._index.records.retired():
            self._start(WorkKey(WorkKind.COLLECT))
        self.stats.last_tick = time.time()

    async def _announce(self) -> None:
        """Learns from time to time which indexers live, to share the health checks with them."""
        now = time.monotonic()
        if now - self._announced_at >= self._timings.lease / ANNOUNCEMENTS_PER_LEASE:
            self._position, self._members = await self._membership.announce()
            self.stats.live_indexers = self._members
            self._announced_at = now

    def _shards(self, table: Table) -> range:
        """The shards whose health this process checks."""
        return own_shards(shard_count(len(table)), self._position, self._members)

    async def do_now(self, key: WorkKey) -> bool:
        """Does a piece of work whether it is due or not, and waits until it ends. False if it is
        under way here already. Whether it succeeds is in the index, as for all work."""
        task = self._start(key)
        if task is None:
            return False
        await asyncio.wait([task])
        return True

    def poll_immediately(self, number: int) -> None:
        """Makes a poll of this location due now, even if another process has just polled it."""
        self._next_poll[number] = IMMEDIATELY

    async def stop(self) -> None:
        """Cancels all work, releases the leases, and leaves the health checks to the others."""
        await self._work.stop()
        with contextlib.suppress(IndexUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_SECONDS):
                await self._membership.leave()

    def _start(self, key: WorkKey) -> asyncio.Task[None] | None:
        """Starts a piece of work; None if it is under way here."""
        job = self._jobs[key.kind]
        return self._work.start(key, lambda lease: job(lease, key.number))

    async def _start_location_work(self, table: Table) -> None:
        requested_sweeps = await self._index.records.requested_sweeps()
        now = time.time()
        for view in table.by_name.values():
            number = view.location.number
            if number in requested_sweeps or self._is_sweep_due(view, now):
                self._start(WorkKey(WorkKind.SWEEP, number))
            if view.location.notifications:
                self._start(WorkKey(WorkKind.EVENTS, number))
            if self._is_poll_due(view):
                self._start(WorkKey(WorkKind.POLL, number))
        for number in self._next_poll.keys() - table.by_number.keys():
            del self._next_poll[number]

    async def _grow_index(self, table: Table) -> None:
        """Requests more buckets where the images ask for it."""
        now = time.monotonic()
        if now - self._sized_at < SIZING_INTERVAL_SECONDS or not self._index.sizing.may_grow:
            return
        self._sized_at = now
        under_way = await self._index.records.progress()
        sweeps = {number: view.status.sweep for number, view in table.by_number.items()}
        expected = [
            *(sweep.images for sweep in sweeps.values()),
            *map(expected_images, under_way.values()),
        ]
        await self._index.sizing.grow_if_needed(
            max(expected, default=0), expected_growth(sweeps, under_way)
        )

    def _is_obsolete(self, key: WorkKey, table: Table) -> bool:
        """Whether the location of some work was removed, moved, or has other notifications."""
        if key.kind is WorkKind.HEALTH:
            return key.number not in self._shards(table)
        if key.number and key.number not in table.by_number:
            return True
        return key.kind is WorkKind.EVENTS and self._has_other_source(key.number, table)

    def _has_other_source(self, number: int, table: Table) -> bool:
        """Whether the notifications that are consumed for a location are no longer its own."""
        consumed, view = self._consumed.get(number), table.by_number.get(number)
        return consumed is not None and (view is None or view.location.notifications != consumed)

    def _is_sweep_due(self, view: LocationView, now: float) -> bool:
        sweep = view.status.sweep
        interval = self._settings.sweep_interval
        # abs(): a time in the future was written before a clock was set back.
        if sweep.error and sweep.failed is not None:
            # A sweep that an operator must confirm gains nothing from an early retry.
            is_guarded = sweep.error_code == "shrink-guard"
            retry = interval if is_guarded else min(interval, self._timings.sweep_retry)
            return abs(now - sweep.failed) >= retry
        if sweep.losses != view.losses:  # claims may be gone, and an eviction may go on
            interval = min(interval, max(self._timings.sweep_retry, interval / 10))
        return sweep.ended is None or abs(now - sweep.ended) >= interval

    def _is_poll_due(self, view: LocationView) -> bool:
        if not self._settings.poll_interval or not view.versions:
            return False
        return time.monotonic() >= self._next_poll.get(view.location.number, IMMEDIATELY)

    def _server(self, view: LocationView, max_wait: float) -> GlanceServer:
        return GlanceServer(
            self._session,
            view.location,
            self._cloud_credentials,
            self._rate_limits,
            max_wait=max_wait,
        )

    # Jobs: each gets its lease and the number of its location.

    async def _check_health(self, lease: Lease, shard: int) -> None:
        checker = HealthChecker(
            self._index,
            self._tables,
            self._session,
            self._settings,
            self._cloud_credentials,
            self._rate_limits,
            self.stats,
            self._timings,
            shard,
            self._free_checks,
        )
        await checker.run(lease.ensure_held)

    async def _poll(self, lease: Lease, number: int) -> None:
        """Applies what has changed at a location since the last poll by any process."""
        view = self._tables.table.by_number.get(number)
        if view is None:
            return
        interval = self._settings.poll_interval
        is_requested = self._next_poll.get(number) == IMMEDIATELY
        self._next_poll[number] = time.monotonic() + _spread(interval, POLL_JITTER_SHARE)
        before = await self._index.records.poll(number)
        last = max(before.ended or 0, before.failed or 0)
        if not is_requested and abs(time.time() - last) < interval / 2:
            return  # another process has just polled it
        after = await self._poll_once(view, before, lease)
        is_routine = not before.error and not after.error
        await self._index.records.set_poll(number, after, view.location, quiet=is_routine)

    async def _poll_once(self, view: LocationView, before: Poll, lease: Lease) -> Poll:
        """Polls and returns the new status, whether the poll failed or not."""
        try:
            with self._spans.span("poll", {"location": view.name}):
                polled = await poll(
                    self._index,
                    self._server(view, POLL_WAIT_SECONDS),
                    view.versions,
                    self._scopes,
                    before,
                    view.status.sweep,
                    lease.ensure_held,
                    self._timings.poll_overlap,
                )
            after = replace(polled, unknown=before.unknown)
        except LocationUnavailable as error:
            after = replace(
                before, error=error.detail, error_code=error.problem_code, failed=time.time()
            )
        self.stats.count(self.stats.polls, view.name, after.error_code or "ok")
        if after.error and not before.error:
            log.warning(
                "poll failed", location=view.name, code=after.error_code, reason=after.error
            )
        elif before.error and not after.error:
            log.info("poll succeeded again", location=view.name)
        return after

    async def _consume_events(self, lease: Lease, number: int) -> None:
        """Consumes a location's notifications until their source changes or it is removed."""
        view = self._tables.table.by_number.get(number)
        if view is None or not view.location.notifications:
            return

        async def on_connected(may_have_lost: bool) -> None:
            self.poll_immediately(number)
            if may_have_lost:
                await self._request_gap_sweep(number)

        def count_events(kind: str, count: int) -> None:
            if count:
                self.stats.count(self.stats.events, view.name, kind, count)

        def set_lag(seconds: float) -> None:
            self.stats.event_lags[view.name] = seconds

        secrets = self._cloud_credentials.secrets
        consumer = NotificationConsumer(
            self._index,
            view,
            self._timings,
            count_events=count_events,
            set_lag=set_lag,
            on_connected=on_connected,
            ensure_held=lease.ensure_held,
            secrets=secrets,
        )
        self._consumed[number] = view.location.notifications
        try:
            await consumer.run()
        finally:
            if self._has_other_source(number, self._tables.table):
                self._work.clean_up(delete_queue(self._index, view.location, secrets))
            else:
                self._work.clean_up(consumer.store_stopped())
            del self._consumed[number]
            self.stats.event_lags.pop(view.name, None)

    async def _request_gap_sweep(self, number: int) -> None:
        """Requests a sweep, since deletions that were lost are found by no poll. At most one per
        sweep interval, so that an unstable connection does not cause sweep after sweep."""
        now = time.monotonic()
        last = self._gap_swept_at.get(number, -math.inf)
        view = self._tables.table.by_number.get(number)
        was_swept = view is not None and view.status.sweep.ended is not None
        if was_swept and now - last > self._settings.sweep_interval:
            self._gap_swept_at[number] = now
            await self._index.records.request_sweep(number)

    async def _sweep(self, lease: Lease, number: int) -> None:
        async with self._free_sweeps:
            # Since the tick, another process may have swept it, or it may have changed.
            view = (await self._tables.current()).by_number.get(number)
            if view is None or not await lease.renew():
                return
            request = (await self._index.records.requested_sweeps()).get(number)
            if request is None and not self._is_sweep_due(view, time.time()):
                return
            sweep = SweepRun(
                self._index,
                self._server(view, SWEEP_WAIT_SECONDS),
                self._scopes,
                lease,
                view.status.sweep,
                guard=self._settings.shrink_guard,
                stats=self.stats,
                timings=self._timings,
            )
            guarded = (await self._index.records.sweep(number)).guarded
            renewal = asyncio.create_task(self._renew_lease(lease, asyncio.current_task()))
            try:
                with self._spans.span("sweep", {"location": view.name}):
                    result = await sweep.run(request)
            finally:
                renewal.cancel()
            await lease.ensure_held()
            tripped = (await self._index.records.sweep(number)).guarded
            await self._index.records.set_sweep(number, result, view.location)
            if request is not None:
                await self._index.records.finish_sweep_request(number, request)
            if tripped not in (None, guarded) and not result.error:
                # It may have listed what was gone when the guard was tripped.
                await self._request_sweep(number)

    async def _request_sweep(self, number: int) -> None:
        """Requests a sweep, unless an operator has requested one."""
        if number not in await self._index.records.requested_sweeps():
            await self._index.records.request_sweep(number)

    async def _renew_lease(self, lease: Lease, sweep: asyncio.Task[None] | None) -> None:
        """Renews the lease while the sweep waits for a slow page; cancels the sweep if the lease is
        lost."""
        while True:
            await asyncio.sleep(self._timings.lease / 3)
            try:
                is_held = await lease.renew()
            except IndexUnavailable:
                continue  # the sweep itself will fail
            if not is_held and sweep is not None:
                sweep.cancel()

    async def _rebuild(self, lease: Lease, _: int) -> None:
        """Changes the number of buckets of the index."""
        bits = await self._index.rebuild.requested()
        if bits is None:
            return
        started_at = time.monotonic()
        try:
            if await self._index.rebuild.run(
                bits, lease.ensure_held, drop_after=self._timings.drop_after
            ):
                seconds = round(time.monotonic() - started_at, 1)
                log.info("index rebuilt", bits=bits, seconds=seconds)
        except Conflict as error:
            log.warning("index not rebuilt", reason=error.detail)

    async def _collect_claims(self, _: Lease, __: int) -> None:
        """Deletes the claims of removed locations to which no process can add any more."""
        retired = await self._index.records.retired()
        numbers = [number for number in retired if await self._is_idle(number)]
        if not numbers:
            return
        claims = await self._index.claims.purge(numbers, pace=COLLECT_PAUSE_FACTOR)
        await self._index.records.forget_retired(numbers)
        log.info("claims of removed locations collected", claims=claims)

    async def _is_idle(self, number: int) -> bool:
        """Whether no process works on a location that was removed."""
        for kind in (WorkKind.SWEEP, WorkKind.POLL, WorkKind.EVENTS):
            key = WorkKey(kind, number)
            lease = self._work.lease(key)
            if self._work.is_under_way(key) or not await lease.acquire():
                return False
            await lease.release()
        return True
