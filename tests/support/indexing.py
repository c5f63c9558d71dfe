"""Services with a running indexer, and functions that wait for its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from resolver.gateway.server import cancel
from resolver.index import Index
from resolver.models import Sweep
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.sync import Indexer, IndexerTimings
from tests.support.wait import wait_until

SETTINGS: dict[str, Any] = {
    # Nothing is due unless a test requests it.
    "sweep_interval": 3600,
    "health_interval": 3600,
    "index_bits": 8,
    "location_timeout": 5,
    "index_timeout": 5,
    # Sweeps alone report changes.
    "probe": False,
    "poll_interval": 0,
}

PROMPT = IndexerTimings(tick=0.05, queue_check=0.5, drop_after=1)
"""What is due begins at once: tests wait for it."""


@asynccontextmanager
async def indexing(
    url: str, *, timings: IndexerTimings = PROMPT, **settings: Any
) -> AsyncIterator[Services]:
    """Services with a running indexer, as in one process."""
    async with (
        open_services(Settings(redis_url=url, **SETTINGS | settings), timings=timings) as services,
        running(services.indexer),
    ):
        yield services


@asynccontextmanager
async def running(indexer: Indexer) -> AsyncIterator[None]:
    task = asyncio.create_task(indexer.run())
    try:
        yield
        assert not task.done(), "the indexer ended by itself"
    finally:
        await cancel(task)


async def ticks(indexer: Indexer, count: int = 2) -> None:
    """Waits for `count` more ticks of the indexer."""
    seen = {indexer.stats.last_tick}

    def has_ticked() -> bool:
        seen.add(indexer.stats.last_tick)
        return len(seen) > count

    await wait_until(has_ticked, message="the indexer ticks")


async def swept(services: Services, name: str, *, since: float | None = None) -> Sweep:
    """The last whole sweep of a location, once there is one that ended after `since`."""

    async def done() -> Sweep | None:
        record = (await services.index.records.load()).records.get(name)
        ended = record.status.sweep.ended if record else None
        return record.status.sweep if record and ended and ended > (since or 0) else None

    sweep: Sweep = await wait_until(done, message=f"{name} is swept")
    return sweep


async def failed(services: Services, name: str) -> Sweep:
    """The status of a location's sweep, once it has failed."""

    async def failure() -> Sweep | None:
        sweep = (await services.index.records.load()).records[name].status.sweep
        return sweep if sweep.error else None

    sweep: Sweep = await wait_until(failure, message=f"the sweep of {name} fails")
    return sweep


async def claims_by_number(index: Index) -> dict[int, int]:
    return dict((await index.census()).claims)


async def is_partly_claimed(index: Index, number: int, ids: Sequence[bytes]) -> bool:
    """Whether the location claims at least one of a sample of these images."""
    owners = (await index.claims.lookup(ids[:: max(1, len(ids) // 100)])).owners
    return any(owner.number == number for some in owners for owner in some)
