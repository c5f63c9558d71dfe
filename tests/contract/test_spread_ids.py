"""Ids that are not random lie in buckets of their own, in every operation and on every Redis."""

from __future__ import annotations

import random
import time
from contextlib import AsyncExitStack

import pytest

from resolver.index import Index, open_index, walk
from resolver.index.sizing import MAX_MEAN_IMAGES
from resolver.index.spreading import is_random
from resolver.models import Owner
from tests.contract.caching import Pair, cache, cached, invalidated
from tests.contract.conftest import Real
from tests.support.ids import make_ids, make_v1_ids, make_v6_ids, make_v7_ids
from tests.support.rebuilds import no_report
from tests.support.redis import RedisServer

BITS = 8
SORTED = {"1": make_v1_ids, "6": make_v6_ids, "7": make_v7_ids}
MIXED = [
    *(image_id for make in SORTED.values() for image_id in make(150)),
    *make_ids(150),
    *make_ids(50, version=None, seed=5),
]
META = "glr:{reg}:meta"


async def contents(index: Index) -> dict[bytes, list[Owner]]:
    """Each image with its owners, after a check that the walk shows each once."""
    found: list[bytes] = []
    async for rows in walk(index.claims):
        found += (image_id for image_id, _ in rows)
    assert len(found) == len(set(found))
    in_order = [image_id for image_id in found if is_random(image_id)]
    assert in_order == sorted(in_order)
    owners = (await index.claims.lookup(found)).owners
    return {
        image_id: sorted(some, key=lambda owner: owner.number)
        for image_id, some in zip(found, owners, strict=True)
    }


async def test_what_is_claimed_is_there_until_it_is_released(index: Index) -> None:
    choose = random.Random(1)
    model: dict[bytes, set[int]] = {}
    for number in (1, 2, 300):
        ids = choose.sample(MIXED, 400)
        assert await index.claims.claim(number, ids) == 400
        for image_id in ids:
            model.setdefault(image_id, set()).add(number)
    released = choose.sample(MIXED, 200)
    expected = sum(2 in model.get(image_id, ()) for image_id in released)
    assert await index.claims.release(2, released) == expected
    for image_id in released:
        model.get(image_id, set()).discard(2)
    model = {image_id: numbers for image_id, numbers in model.items() if numbers}
    assert {
        image_id: {owner.number for owner in owners}
        for image_id, owners in (await contents(index)).items()
    } == model
    for number in (1, 2, 300):
        claimed = {
            image_id async for _, some in index.claims.of_location(number) for image_id in some
        }
        assert claimed == {image_id for image_id, numbers in model.items() if number in numbers}
        assert (await index.claims.stored(number, MIXED)).keys() == claimed
    census = await index.census()
    assert (census.images, census.buckets) == (
        len(model),
        len({index.claims.buckets.number(image_id) for image_id in model}),
    )
    assert await index.claims.purge([1, 2, 300]) == sum(map(len, model.values()))
    assert await contents(index) == {}


@pytest.mark.parametrize("version", SORTED)
async def test_no_bucket_of_the_index_is_crowded(index: Index, version: str) -> None:
    await index.claims.claim(1, SORTED[version](4000))
    census = await index.census()
    assert census.buckets == 1 << index.bits
    assert census.fullest < 4 * 4000 >> index.bits


async def test_a_change_in_another_process_reaches_the_cache(pair: Pair) -> None:
    index, other = pair
    for make in SORTED.values():
        (image_id,) = make(1)
        await other.claims.claim(1, [image_id])
        await cache(index, image_id)
        await other.claims.claim(2, [image_id])
        await invalidated(index, image_id)
        await cache(index, image_id)
        assert cached(index, image_id) == {Owner(1), Owner(2)}


async def missing_after(index: Index, listed: list[bytes]) -> set[bytes]:
    """Claims of location 1 that a sweep with this listing finds not listed: those not random."""
    spans = await index.claim_counts.spans(1, time.monotonic())
    found: set[bytes] = set()
    with spans.unordered() as unordered:
        for start in range(0, len(listed), 100):
            page = listed[start : start + 100]
            unordered.add_listed(page)
            assert (await unordered.compare(page)).keys() <= set(page)
        async for claims in unordered.missing(b"", b"\xff" * 17):
            assert found.isdisjoint(claims)
            found |= claims.keys()
    return found


@pytest.mark.parametrize("seed", range(5))
async def test_claims_that_are_not_listed_are_found(index: Index, seed: int) -> None:
    choose = random.Random(seed)
    claimed = choose.sample(MIXED, 500)
    await index.claims.claim(1, claimed)
    await index.claims.claim(2, MIXED)
    unordered = {image_id for image_id in claimed if not is_random(image_id)}
    for share in (0.0, 0.5, 0.99, 1.0):
        listed = sorted(choose.sample(MIXED, int(share * len(MIXED))))
        listed = [image_id for image_id in listed if not is_random(image_id)]
        assert await missing_after(index, listed) == unordered - set(listed)


def bucket_reads(redis: RedisServer) -> int:
    with redis.client() as client:
        stats = client.info("commandstats").get("cmdstat_hgetall")
    return int(stats["calls"]) if stats else 0


@pytest.mark.redis
async def test_the_cost_depends_on_the_location_and_not_on_the_index(
    own_redis: RedisServer,
) -> None:
    """With nothing missing no bucket is read, with one image missing one."""
    async with open_index(own_redis.url, bits=BITS) as index:
        await index.claims.claim(1, make_v1_ids(100))
        await index.claims.claim(2, make_v7_ids(5000))
        before = bucket_reads(own_redis)
        assert await missing_after(index, make_v1_ids(100)) == set()
        assert bucket_reads(own_redis) == before
        listed = make_v1_ids(100)
        gone = listed.pop(50)
        assert await missing_after(index, listed) == {gone}
        assert bucket_reads(own_redis) == before + 1


# An index that an older version has made


async def as_older(index: Index) -> None:
    """Makes an empty index one that a version of format 2 has made."""
    await index.client.command("HSET", META, "bits", BITS, "format", 1, "writers", 1, "newest", 2)
    await index.identity()
    assert index.bits == BITS


async def formats(index: Index) -> list[int]:
    return [
        int(v) for v in await index.client.command("HMGET", META, "format", "writers", "newest")
    ]


async def test_an_index_of_an_older_version_stays_as_it_is(index: Index) -> None:
    """Older processes go on to use it."""
    await as_older(index)
    await index.claims.claim(1, MIXED)
    assert await formats(index) == [1, 1, 3]
    buckets = index.claims.buckets
    v7 = SORTED["7"](1)[0]
    assert buckets.key(buckets.number(v7)) == b"glr:e:%02x" % v7[0]
    assert await index.client.command("HEXISTS", b"glr:e:%02x" % v7[0], v7[1:])
    before = await contents(index)
    assert before.keys() == set(MIXED)
    await index.rebuild.request(BITS + 2, keep_format=True)  # as it grows
    assert await index.rebuild.run(BITS + 2, no_report, drop_after=0)
    assert await contents(index) == before
    assert await formats(index) == [1, 1, 3]


@pytest.mark.parametrize("bits", [BITS, BITS + 3])
async def test_a_rebuild_by_an_operator_spreads_its_ids(index: Index, bits: int) -> None:
    await as_older(index)
    await index.claims.claim(1, MIXED)
    await index.claims.claim(300, dict.fromkeys(MIXED[::3], 4026531840))
    before = await contents(index)
    await index.rebuild.request(bits)
    assert await index.rebuild.requested() == bits
    assert await index.rebuild.run(bits, no_report, copy_buckets=8, drop_after=0)
    assert await formats(index) == [3, 3, 3]
    assert index.bits == bits
    assert await contents(index) == before
    census = await index.census()
    assert census.images == len(MIXED)
    assert census.fullest < 4 * (1 + len(MIXED) >> BITS) + 8
    await index.rebuild.request(bits)
    assert not await index.rebuild.run(bits, no_report, drop_after=0), "nothing is left to do"


async def test_a_walk_goes_on_while_ids_are_spread(index: Index) -> None:
    await as_older(index)
    await index.claims.claim(1, MIXED)
    found: list[bytes] = []
    async for rows in walk(index.claims):
        found += (image_id for image_id, _ in rows)
        if len(found) > len(MIXED) // 2 and not index.claims.buckets.spreads:
            await index.rebuild.request(BITS)
            assert await index.rebuild.run(BITS, no_report, drop_after=0)
    assert sorted(found) == sorted(MIXED)


@pytest.mark.redis
async def test_an_index_with_such_ids_grows(real: Real) -> None:
    async with open_index(real.url, bits=4):
        pass
    ids = make_v7_ids((MAX_MEAN_IMAGES << 4) + 1000)
    async with AsyncExitStack() as stack:
        index = await stack.enter_async_context(open_index(real.url))
        await index.claims.claim(1, ids)
        assert await index.sizing.grow_if_needed()
        bits = await index.rebuild.requested()
        assert bits == 5
        assert await index.rebuild.run(bits, no_report, drop_after=0)
        assert (await index.claims.lookup(ids)).owners == [(Owner(1),)] * len(ids)
