"""An index grows with its images, in use, unless somebody chose its number of buckets."""

from __future__ import annotations

import pytest

from resolver.index import Index, open_index
from resolver.index.sizing import MAX_MEAN_IMAGES
from resolver.models import Owner
from tests.contract.conftest import Real
from tests.support.ids import make_ids
from tests.support.rebuilds import no_report

pytestmark = pytest.mark.redis
BITS = 4
FULL = MAX_MEAN_IMAGES << BITS
IDS = make_ids(FULL + 2000)


async def small_index(real: Real) -> None:
    async with open_index(real.url, bits=BITS):
        pass


async def grow(index: Index) -> None:
    """As the indexer does when it is requested."""
    bits = await index.rebuild.requested()
    assert bits is not None
    assert await index.rebuild.run(bits, no_report, drop_after=0)


async def test_an_index_grows_when_its_buckets_are_full(real: Real) -> None:
    await small_index(real)
    async with open_index(real.url) as index, open_index(real.url) as other:
        await index.claims.claim(1, IDS[:500])
        assert not await index.sizing.grow_if_needed()
        await index.claims.claim(1, IDS)
        assert await index.sizing.grow_if_needed()
        assert not await other.sizing.grow_if_needed(), "it is requested already"
        await grow(index)
        assert index.bits == BITS + 1
        assert not await index.sizing.grow_if_needed()
        assert (await other.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)
        assert other.bits == index.bits


async def test_an_index_grows_ahead_of_a_sweep(real: Real) -> None:
    await small_index(real)
    async with open_index(real.url) as index:
        await index.claims.claim(1, IDS[:100])
        assert not await index.sizing.grow_if_needed(FULL)
        assert await index.sizing.grow_if_needed(100 * FULL)
        await grow(index)
        assert index.bits == BITS + 7
        assert (await index.claims.lookup(IDS[:100])).owners == [(Owner(1),)] * 100


async def test_an_index_that_must_grow_has_room_for_what_is_expected(real: Real) -> None:
    await small_index(real)
    async with open_index(real.url) as index:
        await index.claims.claim(1, IDS[:500])
        assert not await index.sizing.grow_if_needed(expected_growth=4.0), "it need not grow yet"
        await index.claims.claim(1, IDS)
        assert await index.sizing.grow_if_needed(expected_growth=4.0)
        await grow(index)
        assert index.bits == BITS + 3


async def test_an_index_keeps_a_chosen_number_of_buckets(real: Real) -> None:
    async with open_index(real.url, bits=BITS) as index:
        assert not await index.sizing.grow_if_needed(100 * FULL)
        assert await index.rebuild.requested() is None


async def test_the_embedded_index_does_not_grow() -> None:
    async with open_index("memory:") as index:
        assert not await index.sizing.grow_if_needed(10**9)
