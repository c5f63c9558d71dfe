"""Rebuilding an index in use: no answer is wrong meanwhile."""

from __future__ import annotations

import asyncio
import random

import pytest

from resolver.errors import Conflict
from resolver.index import Index, open_index
from resolver.index.rebuild import Report
from resolver.index.redis.cluster import ClusterClient
from tests.support.ids import make_ids
from tests.support.rebuilds import no_report


async def rebuild(
    index: Index, bits: int, report: Report | None = None, *, drop_after: int = 0
) -> bool:
    """In small steps. ``drop_after`` 0: no lookup is under way that could use the old buckets."""
    return await index.rebuild.run(bits, report or no_report, copy_buckets=8, drop_after=drop_after)


async def contents(index: Index) -> dict[bytes, set[tuple[int, int]]]:
    buckets = index.claims.buckets
    found = {}
    async for bucket, fields in index.claims.read():
        for field in fields:
            image_id = buckets.join(bucket, field)
            found[image_id] = {tuple(o) for o in (await index.claims.lookup([image_id])).owners[0]}
    return found


@pytest.mark.parametrize("bits", [4, 6, 9, 12])
async def test_every_claim_is_there_after_a_rebuild(index: Index, bits: int) -> None:
    ids = make_ids(400)
    await index.claims.claim(1, ids)
    await index.claims.claim(300, dict.fromkeys(ids[:100], 4026531840))
    before = await contents(index)
    assert await rebuild(index, bits)
    assert index.bits == bits
    assert await contents(index) == before
    census = await index.census()
    keys = await index.client.command("KEYS", "glr:?:*") if not clustered(index) else None
    assert keys is None or len(keys) == census.buckets  # no old bucket is left
    assert not await rebuild(index, bits)  # nothing to do


def clustered(index: Index) -> bool:
    return isinstance(index.client, ClusterClient)


async def test_another_process_counts_the_new_buckets(redis_url: str) -> None:
    """It has not used the index since the rebuild, and the old buckets are gone."""
    async with open_index(redis_url, bits=8) as one, open_index(redis_url) as other:
        ids = make_ids(50)
        await one.claims.claim(1, ids)
        await rebuild(one, 10)
        census = await other.census()
        assert (census.images, dict(census.claims)) == (50, {1: 50})


async def test_another_process_purges_the_new_buckets(redis_url: str) -> None:
    async with open_index(redis_url, bits=8) as one, open_index(redis_url) as other:
        ids = make_ids(50)
        await one.claims.claim(1, ids)
        await rebuild(one, 10)
        assert await other.claims.purge([1]) == 50
        assert not any((await one.claims.lookup(ids)).owners)


async def test_a_purge_reaches_what_a_rebuild_copies_meanwhile(redis_url: str) -> None:
    async with open_index(redis_url, bits=8) as one, open_index(redis_url) as other:
        ids = make_ids(2000)
        await one.claims.claim(1, ids)
        await asyncio.gather(other.claims.purge([1]), rebuild(one, 10))
        assert not any((await one.claims.lookup(ids)).owners)


async def test_another_process_reads_and_writes_the_new_buckets(redis_url: str) -> None:
    async with open_index(redis_url, bits=8) as one, open_index(redis_url) as other:
        ids = make_ids(50)
        await other.claims.claim(1, ids[:25])
        await rebuild(one, 10)
        assert all((await other.claims.lookup(ids[:25])).owners)
        await other.claims.claim(1, ids[25:])
        assert all((await one.claims.lookup(ids)).owners)
        await other.claims.release(1, ids)
        assert not any((await one.claims.lookup(ids)).owners)


@pytest.mark.slow
async def test_no_answer_is_wrong_during_a_rebuild(index_url: str) -> None:
    """During a rebuild, each id is read right after it was written."""
    async with open_index(index_url, bits=8) as index:
        ids = make_ids(120)
        await index.claims.claim(9, ids)  # these must be found all the time
        going = True

        async def churn(mine: list[bytes], number: int) -> set[bytes]:
            rng = random.Random(number)
            has: set[bytes] = set()
            while going:
                some = rng.sample(mine, 5)
                if rng.random() < 0.5:
                    await index.claims.claim(number, some)
                    has |= set(some)
                else:
                    await index.claims.release(number, some)
                    has -= set(some)
                found = (await index.claims.lookup(mine)).owners
                for image_id, owners in zip(mine, found, strict=True):
                    numbers = {owner.number for owner in owners}
                    assert 9 in numbers
                    assert (number in numbers) == (image_id in has)
                await asyncio.sleep(0)
            return has

        tasks = [asyncio.create_task(churn(ids[n::3], n + 1)) for n in range(3)]
        for bits in (10, 5, 8):
            assert await rebuild(index, bits, drop_after=1)
        going = False
        model = await asyncio.gather(*tasks)
        for number, has in enumerate(model, 1):
            claimed = {
                image_id async for _, some in index.claims.of_location(number) for image_id in some
            }
            assert claimed == has


class Killed(Exception):
    pass


async def test_a_killed_rebuild_can_be_run_again(index: Index) -> None:
    ids = make_ids(200)
    await index.claims.claim(1, ids)
    reports = 0

    async def kill() -> None:
        nonlocal reports
        reports += 1
        if reports > 12:
            raise Killed

    with pytest.raises(Killed):
        await rebuild(index, 10, kill)
    await index.claims.release(1, ids[:50])
    assert not any((await index.claims.lookup(ids[:50])).owners)
    assert await rebuild(index, 10)
    assert index.bits == 10
    found = (await index.claims.lookup(ids)).owners
    assert [bool(owners) for owners in found] == [False] * 50 + [True] * 150


async def test_one_rebuild_at_a_time(index: Index) -> None:
    await index.rebuild.request(10)
    await index.rebuild.request(10)
    assert await index.rebuild.requested() == 10
    assert await index.rebuild.progress() == (10, 0.0)
    with pytest.raises(Conflict, match="--bits 10"):
        await index.rebuild.request(11)
    await rebuild(index, 10)
    assert await index.rebuild.requested() is None
    assert await index.rebuild.progress() is None
