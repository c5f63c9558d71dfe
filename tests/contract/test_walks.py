"""Walks through the buckets: one location's claims, the census, purging removed locations."""

from __future__ import annotations

import pytest

from resolver.index import Index, open_index
from resolver.models import Owner
from tests.contract.conftest import Real
from tests.support.ids import first_id, make_id, make_ids


async def of_location(index: Index, number: int, span: range | None = None) -> dict[bytes, int]:
    """All claims of a location, after a check that each bucket came once, in order."""
    found: dict[bytes, int] = {}
    buckets = []
    async for bucket, claims in index.claims.of_location(number, span):
        assert claims, "an empty bucket was yielded"
        assert {index.claims.buckets.number(image_id) for image_id in claims} == {bucket}
        buckets.append(bucket)
        found |= {image_id: claim.letter_case for image_id, claim in claims.items()}
    assert buckets == sorted(set(buckets))
    return found


async def test_claims_of_one_location(index: Index) -> None:
    ids = make_ids(600)
    mine = {image_id: i % 3 for i, image_id in enumerate(ids[:400])}
    await index.claims.claim(1, mine)
    await index.claims.claim(2, ids[200:])
    assert await of_location(index, 1) == mine
    assert await of_location(index, 2) == dict.fromkeys(ids[200:], 0)
    assert await of_location(index, 3) == {}


async def test_claims_of_one_location_in_a_range_of_buckets(index: Index) -> None:
    ids = [first_id(bytes([bucket])) for bucket in range(256)]
    await index.claims.claim(1, ids)
    assert list(await of_location(index, 1, range(10, 13))) == ids[10:13]
    assert list(await of_location(index, 1, range(255, 256))) == ids[255:]
    assert list(await of_location(index, 1, range(1))) == ids[:1]
    assert list(await of_location(index, 1, range(250, 256))) == ids[250:]
    assert await of_location(index, 1, range(0)) == {}


async def test_census_of_an_empty_index(index: Index) -> None:
    census = await index.census()
    assert (census.images, dict(census.claims), census.buckets, census.fullest) == (0, {}, 0, 0)
    assert census.bytes == 0


async def test_the_census_counts_images_and_claims(index: Index) -> None:
    limiter = make_ids(40, prefix=b"\x10")
    rest = [first_id(bytes([bucket])) for bucket in (1, 2, 200)]
    await index.claims.claim(1, limiter)
    await index.claims.claim(2, dict.fromkeys(limiter[:15], 7))
    await index.claims.claim(300, rest)
    census = await index.census()
    assert census.images == 43
    assert dict(census.claims) == {1: 40, 2: 15, 300: 3}
    assert (census.buckets, census.fullest) == (4, 40)
    assert census.bytes is None or census.bytes > 43 * 16


@pytest.mark.redis
async def test_census_estimates_the_memory_of_redis(real: Real) -> None:
    async with open_index(real.url, bits=8) as index:
        ids = make_ids(20_000)
        await index.claims.claim(1, ids)
        census = await index.census()
        assert census.bytes is not None
        assert 17 * len(ids) < census.bytes < 60 * len(ids), (
            "an image costs little more than its bytes"
        )


async def test_purging_drops_only_the_claims_of_these_locations(index: Index) -> None:
    ids = make_ids(300)
    await index.claims.claim(1, ids)
    await index.claims.claim(2, dict.fromkeys(ids[:200], 9))
    await index.claims.claim(300, ids[100:])
    assert await index.claims.purge([1, 300]) == 500
    census = await index.census()
    assert dict(census.claims) == {2: 200}
    assert census.images == 200, "an image without owners is gone"
    assert await of_location(index, 2) == dict.fromkeys(ids[:200], 9)
    assert await index.claims.purge([1, 300]) == 0


async def test_purging_no_location_changes_nothing(index: Index) -> None:
    await index.claims.claim(1, [make_id(1)])
    assert await index.claims.purge([]) == 0
    assert (await index.claims.lookup([make_id(1)])).owners == [(Owner(1),)]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 7, 9, 11])
async def test_index_bits_need_not_be_a_multiple_of_8(index_url: str, bits: int) -> None:
    async with open_index(index_url, bits=bits) as index:
        # Neighbours in the last bucket and the first, and ids that differ in the shared byte only.
        ids = [*make_ids(500), b"\xff" * 16, bytes(16), *(bytes([1, n]) * 8 for n in range(64))]
        await index.claims.claim(1, dict.fromkeys(ids, 3))
        await index.claims.claim(2, ids[::2])
        assert await of_location(index, 1) == dict.fromkeys(ids, 3)
        assert await of_location(index, 2) == dict.fromkeys(ids[::2], 0)
        census = await index.census()
        assert (census.images, dict(census.claims)) == (
            len(ids),
            {1: len(ids), 2: len(ids[::2])},
        )
        assert await index.claims.release(1, ids) == len(ids)
        assert await of_location(index, 1) == {}
        assert await index.claims.purge([2]) == len(ids[::2])
        assert (await index.census()).images == 0


async def test_the_largest_number_of_bits(index_url: str) -> None:
    async with open_index(index_url, bits=28) as index:
        ids = [first_id(bytes([1, 2, 3, n])) for n in range(64)]
        await index.claims.claim(1, ids)
        first, last = (index.claims.buckets.number(image_id) for image_id in (ids[0], ids[-1]))
        assert last == first + 3
        assert await of_location(index, 1, range(first, last + 1)) == dict.fromkeys(ids, 0)
        assert (await index.claims.lookup(ids)).owners == [(Owner(1),)] * 64
