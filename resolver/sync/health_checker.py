"""Health checks of the locations of one shard, done by one process for all gateways while it holds
the lease."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

import aiohttp
import structlog

from resolver.errors import IndexUnavailable
from resolver.fault_log import FaultLog
from resolver.glance import CloudCredentials, GlanceServer, RateLimits
from resolver.index import Index, LostLease
from resolver.models import Check, Health
from resolver.registry import Table, TableKeeper
from resolver.settings import Settings
from resolver.sync.health import DOWN_AFTER_FAILURES, HealthSample, next_status, probe_health
from resolver.sync.self_doubt import SelfDoubt, WatchedLocation
from resolver.sync.shards import shard_count, shard_of
from resolver.sync.stats import Stats
from resolver.sync.timings import IndexerTimings

RETRY_SHARE = 0.2
"""The share of the interval after which a location that begins to fail is checked again."""

JITTER_SHARE = 0.1
"""The share of the interval by which checks are spread, so that they do not synchronize."""

MAX_STEP_SECONDS = 0.2
"""Between two passes over what is due; a twentieth of the interval where that is less."""

log = structlog.get_logger()

RenewLease = Callable[[], Awaitable[None]]
"""Renews the lease; raises LostLease where another process has it."""


class HealthChecker:
    """Checks the locations of one shard and stores the results."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        session: aiohttp.ClientSession,
        settings: Settings,
        cloud_credentials: CloudCredentials,
        rate_limits: RateLimits,
        stats: Stats,
        timings: IndexerTimings,
        shard: int,
        free_checks: asyncio.Semaphore,
    ) -> None:
        """``free_checks``: bounds the checks that run at the same time, those of other shards
        included."""
        self._shard = shard
        self._index = index
        self._tables = tables
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._rate_limits = rate_limits
        self._interval = settings.health_interval
        self._stats = stats
        self._timeout = timings.health_check_timeout
        self._lease_renewal = timings.lease / 3
        self._watched: dict[int, WatchedLocation] = {}
        self._self_doubt = SelfDoubt(self._watched)
        self._store_faults = FaultLog(
            __name__, "health check results not stored", "health check results stored again"
        )
        self._synced: Table | None = None
        """The table that `_watched` was made from."""
        self._free_checks = free_checks
        self._lease_held_at = 0.0
        """When the lease was last known to be ours, on the event loop's clock."""

    async def run(self, renew: RenewLease) -> None:
        """Checks locations until ``renew`` raises."""
        loop = asyncio.get_running_loop()
        self._lease_held_at = loop.time()
        checks: set[asyncio.Task[None]] = set()
        self._stats.watched[self._shard] = self._watched
        try:
            while True:
                await self._renew_lease(renew)
                self._sync_watchlist()
                for watched in self._watched.values():
                    if not watched.is_busy and loop.time() >= watched.due_at:
                        watched.is_busy = True
                        check = asyncio.create_task(self._check_location(watched, renew))
                        checks.add(check)
                        check.add_done_callback(checks.discard)
                await asyncio.sleep(min(MAX_STEP_SECONDS, self._interval / 20))
        finally:
            for check in checks:
                check.cancel()
            self._stats.suspicious_shards.discard(self._shard)
            self._stats.watched.pop(self._shard, None)

    async def _renew_lease(self, renew: RenewLease) -> None:
        """Renews the lease where that is due."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._lease_held_at >= self._lease_renewal:
            await renew()
            self._lease_held_at = loop.time()

    def _sync_watchlist(self) -> None:
        """Watches exactly the locations of the shard that the table has now."""
        table = self._tables.table
        if table is self._synced:
            return
        self._synced = table
        count = shard_count(len(table))
        views = {
            number: view
            for number, view in table.by_number.items()
            if shard_of(number, count) == self._shard
        }
        for number in self._watched.keys() - views.keys():
            del self._watched[number]
        for number, view in views.items():
            watched = self._watched.get(number)
            if watched is None or watched.view.location.created != view.location.created:
                self._watched[number] = watched = WatchedLocation(view)
            watched.view = view

    async def _check_location(self, watched: WatchedLocation, renew: RenewLease) -> None:
        """Checks a location once and sets when it is due again."""
        loop = asyncio.get_running_loop()
        delay = self._interval
        try:
            if not watched.is_loaded:
                watched.check = await self._index.records.check(watched.view.location.number)
                watched.is_loaded = True
                age = time.time() - watched.check.at if watched.check else math.inf
                if 0 <= age < self._interval:  # another process has just checked it
                    delay -= age
                    return
            async with self._free_checks:
                location = watched.view.location
                server = GlanceServer(
                    self._session, location, self._cloud_credentials, self._rate_limits
                )
                sample = await probe_health(server, watched.check, self._timeout)
            # This process may have been suspended since, and another may hold the lease by now.
            await self._renew_lease(renew)
            watched.checked_at = loop.time()
            if await self._apply_sample(watched, sample):
                delay *= RETRY_SHARE
            self._store_faults.record_success()
        except LostLease:
            pass  # `run` ends by the same
        except IndexUnavailable as error:
            self._store_faults.record_failure(str(error))
        except Exception:
            log.exception("health check failed", location=watched.view.name)
        finally:
            watched.is_busy = False
            jitter = random.uniform(1 - JITTER_SHARE, 1 + JITTER_SHARE)
            watched.due_at = loop.time() + delay * jitter

    async def _apply_sample(self, watched: WatchedLocation, sample: HealthSample) -> bool:
        """Stores the status that follows from a check; returns whether to check again soon."""
        if not sample.failure:
            watched.failing_since = 0.0
        else:
            watched.failed_checks += 1
            watched.failing_since = watched.failing_since or watched.checked_at
        before, after = watched.check, self._next_status(watched, sample)
        result = "failed" if sample.failure else "ok"
        self._stats.count(self._stats.checks, watched.view.name, result)
        is_unchanged = before is not None and (before.health, before.versions) == (
            after.health,
            after.versions,
        )
        location = watched.view.location
        await self._index.records.set_check(location.number, after, location, quiet=is_unchanged)
        watched.check = after
        if before is None or before.health is not after.health:
            self._report_health(watched, before, after)
        if after.health is Health.UP and not after.failures:
            watched.failed_checks = 0
        self._report_self_doubt()
        return bool(after.failures) and after.health is not Health.DOWN

    @staticmethod
    def _report_health(watched: WatchedLocation, before: Check | None, after: Check) -> None:
        name, health = watched.view.name, str(after.health)
        if after.health is Health.DOWN:
            log.warning("location health", location=name, health=health, reason=after.reason)
        elif before is not None and before.health is Health.DOWN and before.changes:
            seconds = round(after.at - before.changes[0].at, 1)
            failures = watched.failed_checks
            log.info(
                "location health", location=name, health=health, failures=failures, seconds=seconds
            )
        else:
            log.info("location health", location=name, health=health)

    def _next_status(self, watched: WatchedLocation, sample: HealthSample) -> Check:
        """The status after a check, with doubt where the location is about to go down."""
        after = next_status(watched.check, sample)
        if after.failures < DOWN_AFTER_FAILURES - 1 or watched.is_down:
            return after
        doubt = self._self_doubt.doubt(watched)
        for other in doubt.check_first:
            other.due_at = 0.0
        return next_status(watched.check, sample, doubt.reason)

    def _report_self_doubt(self) -> None:
        suspects_itself = self._self_doubt.withholds_down()
        suspicious = self._stats.suspicious_shards
        if not suspects_itself:
            suspicious.discard(self._shard)
        elif self._shard not in suspicious:
            log.warning("health checker suspects itself: many locations fail, none is marked down")
            suspicious.add(self._shard)
