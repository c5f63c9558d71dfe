"""Counts of claims by location, and what a sweep reads because of them."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from resolver.index import Index, LocationSpans, open_index
from resolver.index.buckets import Buckets
from resolver.index.claim_counts import MAX_COUNTS, ClaimCounts
from resolver.index.codec import encode_owners
from resolver.models import Owner
from tests.support.ids import first_id, make_ids
from tests.support.rebuilds import no_report
from tests.support.redis import RedisServer


async def spans_of(index: Index, number: int) -> LocationSpans:
    return await index.claim_counts.spans(number, since=time.monotonic())


async def compared(spans: LocationSpans, listed: list[bytes]) -> dict[bytes, int]:
    """The claims that a sweep with this listing sees, with the span of each that is not listed."""
    found: dict[bytes, int] = {}
    async for span, claims in spans.compare(0, spans.count, listed):
        found |= dict.fromkeys(claims, span)
    return found


async def test_claims_are_counted_by_location(index: Index) -> None:
    ids = make_ids(500)
    await index.claims.claim(1, ids[:300])
    await index.claims.claim(200, ids[250:])
    assert (await spans_of(index, 1)).total == 300
    assert (await spans_of(index, 200)).total == 250
    assert (await spans_of(index, 3)).total == 0
    assert await compared(await spans_of(index, 3), ids) == {}


@pytest.mark.parametrize("seed", range(10))
async def test_a_listing_is_compared_with_the_claims_that_matter(index: Index, seed: int) -> None:
    """Every claim that is not listed is seen, and every claim that is listed, except where
    the location has none in the span."""
    choose = random.Random(seed)
    ids = make_ids(400, seed=seed)
    await index.claims.claim(2, choose.sample(ids, 300))
    claimed = choose.sample(ids, choose.choice([1, 5, 50, 350]))
    await index.claims.claim(1, claimed)
    listed = choose.sample(ids, choose.choice([0, 1, 5, 50, 350]))
    listed = sorted({*listed, *choose.sample(claimed, len(claimed) * choose.randrange(5) // 4)})
    spans = await spans_of(index, 1)
    seen = await compared(spans, listed)
    assert seen.keys() == set(claimed)
    for image_id in set(claimed) - set(listed):
        assert seen[image_id] == spans.span(image_id)


async def test_only_the_spans_asked_for_are_compared(index: Index) -> None:
    ids = [first_id(bytes([first])) for first in range(256)]
    await index.claims.claim(1, ids)
    spans = await spans_of(index, 1)
    seen = [claims async for _, claims in spans.compare(10, 13, ids[10:12])]
    assert sorted(image_id for claims in seen for image_id in claims) == ids[10:13]


async def test_a_listed_image_is_compared_with_what_is_stored_now(index: Index) -> None:
    """The counts are older than a release by somebody else: the image must be claimed again."""
    ids = make_ids(100)
    await index.claims.claim(1, ids)
    await index.claims.claim(2, ids)
    spans = await spans_of(index, 1)
    await index.claims.release(1, ids[:10])
    assert (await compared(spans, ids)).keys() == set(ids[10:])


async def test_counts_of_a_rebuilt_index_are_not_used(index: Index) -> None:
    ids = make_ids(100)
    await index.claims.claim(1, ids)
    since = time.monotonic()
    before = await index.claim_counts.spans(1, since)
    await index.rebuild.request(10)
    await index.rebuild.run(10, no_report, drop_after=0)
    after = await index.claim_counts.spans(1, since)
    assert (before.count, after.count) == (256, 1024)
    assert (await compared(after, [])).keys() == set(ids)


def test_counts_of_very_many_locations_take_bounded_memory() -> None:
    counts = ClaimCounts(Buckets(b"glr:", 16))
    buckets_of = {number: [number * 7 % 65536, number] for number in range(1, 301)}
    for number, buckets in buckets_of.items():
        for bucket in buckets:
            counts.add(bucket, [encode_owners([Owner(number)])])
    assert 300 * counts.count <= MAX_COUNTS
    for number, buckets in buckets_of.items():
        claims = counts.of(number)
        assert sum(claims) == 2
        for bucket in buckets:
            assert claims[bucket >> counts.shift]
    assert sum(counts.images) == 600


def test_an_index_of_the_most_buckets_is_counted_in_few_spans() -> None:
    counts = ClaimCounts(Buckets(b"glr:", 28))
    counts.add(2**28 - 1, [encode_owners([Owner(1)])])
    assert counts.count <= MAX_COUNTS
    assert counts.of(1)[-1] == 1


def calls(redis: RedisServer, command: str) -> int:
    with redis.client() as client:
        stats = client.info("commandstats").get(f"cmdstat_{command}")
    return int(stats["calls"]) if stats else 0


@pytest.mark.redis
async def test_callers_that_wait_share_one_count(own_redis: RedisServer) -> None:
    async with open_index(own_redis.url, bits=8) as index:
        await index.claims.claim(1, make_ids(100))
        since = time.monotonic()
        found = await asyncio.gather(*(index.claim_counts.spans(1, since) for _ in range(50)))
        assert {spans.total for spans in found} == {100}
        assert calls(own_redis, "hvals") == index.claims.buckets.count, "each bucket was read once"


@pytest.mark.redis
async def test_the_cost_depends_on_the_location_and_not_on_the_index(
    own_redis: RedisServer,
) -> None:
    """With nothing missing, no bucket is read; with an image missing, one is."""
    async with open_index(own_redis.url, bits=8) as index:
        await index.claims.claim(1, make_ids(20_000, seed=1))
        few = sorted(make_ids(20, seed=2))
        await index.claims.claim(2, few)
        spans = await spans_of(index, 2)
        before = calls(own_redis, "hgetall")
        assert (await compared(spans, few)).keys() == set(few)
        assert calls(own_redis, "hgetall") == before
        assert (await compared(spans, few[1:])).keys() == set(few)
        assert calls(own_redis, "hgetall") == before + 1
