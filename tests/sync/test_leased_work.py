"""Pieces of background work: one at a time, under a lease, each by itself."""

from __future__ import annotations

import asyncio

import pytest

from resolver.errors import IndexUnavailable
from resolver.index import Index, Lease, LostLease
from resolver.sync.leased_work import LeasedWork, WorkKey, WorkKind
from tests.support.instrumented_client import InstrumentedClient

SWEEP = WorkKey(WorkKind.SWEEP, 7)
POLL = WorkKey(WorkKind.POLL, 7)


class Job:
    """Work that runs until `end` is set."""

    def __init__(self) -> None:
        self.runs = 0
        self.started = asyncio.Event()
        self.end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, _: Lease) -> None:
        self.runs += 1
        self.started.set()
        await self.end.wait()
        if self.error is not None:
            raise self.error


def test_lease_names_are_those_of_other_versions() -> None:
    """Indexers of two versions share the work during an upgrade."""
    assert [WorkKey(kind, 7).lease_name for kind in WorkKind] == [
        "sweep:7",
        "poll:7",
        "events:7",
        "health:7",
        "rebuild:7",
        "collect:7",
    ]
    assert WorkKey(WorkKind.HEALTH).lease_name == "health:0"


async def test_work_under_way_is_not_started_again(index: Index) -> None:
    work, job, other = LeasedWork(index, 60), Job(), Job()
    task = work.start(SWEEP, job)
    assert task is not None
    await job.started.wait()
    assert work.start(SWEEP, job) is None
    assert work.start(POLL, other) is not None
    await other.started.wait()
    job.end.set()
    await task
    assert job.runs == 1
    assert work.start(SWEEP, job) is not None, "it can be started again when it has ended"
    await work.stop()


async def test_work_ends_at_once_while_another_process_has_the_lease(index: Index) -> None:
    here, there, job, other = LeasedWork(index, 60), LeasedWork(index, 60), Job(), Job()
    there.start(SWEEP, other)
    await other.started.wait()
    task = here.start(SWEEP, job)
    assert task is not None
    await task
    assert job.runs == 0
    await there.stop()
    task = here.start(SWEEP, job)
    await job.started.wait()
    await here.stop()
    assert task is not None
    assert task.cancelled()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (LostLease(), "lease lost: another indexer has taken over, or Redis has lost it"),
        (IndexUnavailable("Redis is gone"), "redis unavailable"),
        (ValueError("a bug"), "background work failed"),
    ],
)
async def test_a_failure_is_logged_and_releases_the_lease(
    index: Index, error: Exception, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    work, job = LeasedWork(index, 60), Job()
    job.error = error
    job.end.set()
    task = work.start(SWEEP, job)
    assert task is not None
    await task
    assert line in caplog.text
    assert await LeasedWork(index, 60).lease(SWEEP).acquire()


async def test_of_a_redis_that_refuses_writes_a_kind_of_work_logs_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each tick of the indexer tries the work of each location again."""
    client = InstrumentedClient()
    client.fails = lambda: True
    work = LeasedWork(client.index(), 60)
    for _ in range(20):
        for number in range(5):
            task = work.start(WorkKey(WorkKind.POLL, number), Job())
            assert task is not None
            await task
    assert caplog.text.count("redis unavailable") == 1
    await work.stop()


async def test_stop_cancels_work_and_releases_its_leases(index: Index) -> None:
    work, jobs = LeasedWork(index, 60), {SWEEP: Job(), POLL: Job()}
    for key, job in jobs.items():
        work.start(key, job)
        await job.started.wait()
    work.cancel_where(lambda key: key is POLL)
    await work.stop()
    for key in jobs:
        assert await LeasedWork(index, 60).lease(key).acquire()


async def test_stop_waits_for_cleanups(index: Index) -> None:
    work, done = LeasedWork(index, 60), asyncio.Event()

    async def clean_up() -> None:
        done.set()

    work.clean_up(clean_up())
    await work.stop()
    assert done.is_set()


async def test_a_lease_that_could_not_be_released_is_not_waited_for() -> None:
    """Redis failed when the work ended. Another process waits until the lease expires."""
    client = InstrumentedClient()
    index = client.index()
    await index.create_if_missing()
    work, job = LeasedWork(index, 60), Job()
    task = work.start(POLL, job)
    assert task is not None
    await job.started.wait()
    client.fails = lambda: True
    job.end.set()
    await task
    client.fails = lambda: False
    assert not await LeasedWork(index, 60).lease(POLL).acquire()
    again = work.start(POLL, job)
    assert again is not None
    await again
    assert job.runs == 2
    assert await LeasedWork(index, 60).lease(POLL).acquire(), "now it is released"
