"""Whether an indexer is running anywhere, as every gateway sees it.

A running indexer, and one of several at a time, holds the lease on health checks. The lease of one
that dies expires after half a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import structlog

from resolver.errors import IndexUnavailable
from resolver.index import Index
from resolver.problems import Problem
from resolver.sync.leased_work import WorkKey, WorkKind
from resolver.sync.timings import DEFAULT_TIMINGS

CHECK_INTERVAL_SECONDS = 7.0

MISSED_CHECKS = 3
"""Checks in a row without an indexer, after which there is none. Another one may need a moment to
take over."""

log = structlog.get_logger()


class IndexerWatch:
    """Looks for a running indexer, every few seconds."""

    def __init__(self, index: Index, interval: float = CHECK_INTERVAL_SECONDS) -> None:
        """``interval``: between two checks, in seconds."""
        self._index = index
        lease_name = WorkKey(WorkKind.HEALTH).lease_name
        self._lease = index.lease(lease_name, seconds=DEFAULT_TIMINGS.lease)
        self._interval = interval
        self._missed = 0
        self._seen_at = 0.0
        self.is_running: bool | None = None
        """Whether one is running; None while that is not known."""

    async def run(self) -> None:
        """Checks until it is cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def check(self) -> None:
        """Checks once. Without Redis nothing changes, nor while it has lost the index: indexers
        wait for one then."""
        try:
            await self._index.identity()
            is_held = await self._lease.is_held()
        except IndexUnavailable:
            return
        if is_held:
            if self.is_running is False:
                log.info("indexer running again")
            self._missed, self._seen_at, self.is_running = 0, time.time(), True
            return
        self._missed += 1
        if self._missed >= MISSED_CHECKS and self.is_running is not False:
            log.warning("no indexer running: locations are neither swept nor checked")
            self.is_running = False

    def is_gone(self) -> bool:
        """Whether no indexer is running, so that nothing is kept up to date."""
        return self.is_running is False

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        if self.is_gone():
            yield Problem(
                code="no-indexer",
                text="No indexer is running: locations are neither swept, polled nor checked, and "
                "no notifications are read. No location is covered, so the index proves no image "
                "absent.",
                action="Start one: `glance-resolver serve --role indexer`, or `--role all`.",
                since=self._seen_at,
            )
