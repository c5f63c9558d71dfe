"""Leases: one process at a time."""

from __future__ import annotations

import asyncio

from resolver.index import Index
from tests.support.wait import wait_until

LONG, SHORT = 60.0, 0.05
KEY = "glr:lease:x"


async def test_a_lease_is_acquired_once(index: Index) -> None:
    first, second = index.lease("x", seconds=LONG), index.lease("x", seconds=LONG)
    assert await first.acquire()
    assert not await second.acquire()
    assert not await first.acquire(), "not even by its holder"
    assert await index.lease("y", seconds=LONG).acquire(), "another is free"


async def test_only_one_of_many_concurrent_callers_acquires_the_lease(index: Index) -> None:
    leases = [index.lease("x", seconds=LONG) for _ in range(20)]
    assert sum(await asyncio.gather(*(lease.acquire() for lease in leases))) == 1


async def test_a_released_lease_is_free(index: Index) -> None:
    first, second = index.lease("x", seconds=LONG), index.lease("x", seconds=LONG)
    await first.acquire()
    await first.release()
    assert not await first.renew()
    assert await second.acquire()


async def test_a_lease_expires(index: Index) -> None:
    first, second = index.lease("x", seconds=SHORT), index.lease("x", seconds=LONG)
    assert await first.acquire()
    await wait_until(second.acquire, message="the lease of a dead process expires")
    assert not await first.renew()
    assert await second.renew(), "a late renewal must not take it away"


async def test_renewing_starts_the_full_time_again(index: Index) -> None:
    lease = index.lease("x", seconds=LONG)
    assert await lease.acquire()
    # As if most of the time has passed.
    assert await index.client.command("PEXPIRE", KEY, 9_000)
    assert await lease.renew()
    assert 9_000 < await index.client.command("PTTL", KEY) <= LONG * 1000


async def test_another_process_cannot_renew_or_release_it(index: Index) -> None:
    holder, other = index.lease("x", seconds=LONG), index.lease("x", seconds=LONG)
    await holder.acquire()
    assert not await other.renew()
    await other.release()
    assert await holder.renew()
    assert not await other.acquire()


async def test_releasing_a_lease_that_was_never_acquired(index: Index) -> None:
    lease = index.lease("x", seconds=LONG)
    await lease.release()
    assert await lease.acquire()
