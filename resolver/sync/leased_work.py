"""Runs pieces of background work: each at most once in this process, and under a lease that one
process at a time holds."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from enum import StrEnum
from typing import Any, NamedTuple

import structlog

from resolver.errors import IndexUnavailable
from resolver.fault_log import FaultLog
from resolver.index import Index, Lease, LostLease

STOP_TIMEOUT_SECONDS = 0.5
"""How long cancelled work may take before it is cancelled again."""

CLEANUP_TIMEOUT_SECONDS = 1.0
"""How long cleanups may take when the process stops."""

log = structlog.get_logger()


class WorkKind(StrEnum):
    """What background work does. The values are part of the names of leases in Redis."""

    SWEEP = "sweep"
    POLL = "poll"
    EVENTS = "events"
    HEALTH = "health"
    REBUILD = "rebuild"
    COLLECT = "collect"


class WorkKey(NamedTuple):
    """One piece of background work."""

    kind: WorkKind
    number: int = 0
    """The location's; of health checks the shard; 0 for work on the whole index."""

    @property
    def lease_name(self) -> str:
        return f"{self.kind}:{self.number}"


Work = Callable[[Lease], Awaitable[None]]


class LeasedWork:
    """The pieces of work that this process is doing."""

    def __init__(self, index: Index, lease_seconds: float) -> None:
        self._index = index
        self._lease_seconds = lease_seconds
        self._tasks: dict[WorkKey, asyncio.Task[None]] = {}
        self._cleanups: set[asyncio.Task[None]] = set()
        self._faults = {
            kind: FaultLog(__name__, "redis unavailable", "redis available again")
            for kind in WorkKind
        }
        """By what work does, and not by location: there may be thousands."""
        self._token = secrets.token_hex(8)
        """Of all leases of this process, so that it need not wait for the end of one that it could
        not release while Redis failed."""

    def lease(self, key: WorkKey) -> Lease:
        return self._index.lease(key.lease_name, seconds=self._lease_seconds, token=self._token)

    def is_under_way(self, key: WorkKey) -> bool:
        """Whether this process is doing a piece of work. It could acquire its lease once more."""
        return key in self._tasks

    def start(self, key: WorkKey, work: Work) -> asyncio.Task[None] | None:
        """Starts a piece of work; None if it is under way here. The task ends at once if another
        process holds the lease, and never raises."""
        if self.is_under_way(key):
            return None
        task = asyncio.create_task(self._run(key, work), name=key.lease_name)
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return task

    async def _run(self, key: WorkKey, work: Work) -> None:
        """Runs work under its lease. Whatever fails ends this piece of work only."""
        lease, faults = self.lease(key), self._faults[key.kind]
        try:
            if not await lease.acquire():
                return
            try:
                await work(lease)
            finally:
                await lease.release()
            faults.record_success(work=str(key.kind))
        except LostLease:
            log.warning(
                "lease lost: another indexer has taken over, or Redis has lost it",
                work=key.lease_name,
            )
        except IndexUnavailable as error:
            faults.record_failure(str(error), work=str(key.kind))
        except Exception:
            log.exception("background work failed", work=key.lease_name)

    def cancel_where(self, condition: Callable[[WorkKey], bool]) -> None:
        """Cancels the work whose key meets the condition."""
        for key, task in self._tasks.items():
            if condition(key):
                task.cancel()

    def clean_up(self, cleanup: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine that no work waits for. `stop` waits for it a short time."""
        task = asyncio.create_task(cleanup)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)

    async def stop(self) -> None:
        """Cancels all work and releases the leases."""
        while tasks := list(self._tasks.values()):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_TIMEOUT_SECONDS)
        if self._cleanups:
            _, pending = await asyncio.wait(self._cleanups, timeout=CLEANUP_TIMEOUT_SECONDS)
            for task in pending:
                task.cancel()
