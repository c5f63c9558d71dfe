"""Claims and lookups."""

from __future__ import annotations

import asyncio

import pytest

from resolver.index import Index, open_index
from resolver.index.claims import BATCH_CALLS, SCRIPT_IDS
from resolver.models import Location, Owner
from tests.support.ids import first_id, make_ids

A, B = make_ids(2)
UPPER = 0xFFFFFFFF


async def owners(index: Index, image_id: bytes) -> set[Owner]:
    (found,) = (await index.claims.lookup([image_id])).owners
    assert len(found) == len(set(found)), "an owner is listed twice"
    return set(found)


async def test_an_unknown_id_has_no_owner(index: Index) -> None:
    assert await owners(index, A) == set()


async def test_a_claim_is_found_until_it_is_released(index: Index) -> None:
    assert await index.claims.claim(1, [A]) == 1
    assert await owners(index, A) == {Owner(1)}
    assert await owners(index, B) == set()
    assert await index.claims.release(1, [A]) == 1
    assert await owners(index, A) == set()


async def test_claiming_and_releasing_again_changes_nothing(index: Index) -> None:
    assert await index.claims.claim(1, [A, B]) == 2
    assert await index.claims.claim(1, [A, B]) == 0
    assert await owners(index, A) == {Owner(1)}
    assert await index.claims.release(1, [A]) == 1
    assert await index.claims.release(1, [A]) == 0
    assert await owners(index, B) == {Owner(1)}


async def test_several_owners_are_added_and_removed(index: Index) -> None:
    numbers = [1, 63, 64, 8191, 8192, 2**18]  # where an entry takes another byte
    for number in numbers:
        assert await index.claims.claim(number, [A]) == 1
    assert await owners(index, A) == {Owner(n) for n in numbers}
    for number in [64, 1, 2**18, 8192, 63, 8191]:
        assert await index.claims.release(number, [A]) == 1
        numbers.remove(number)
        assert await owners(index, A) == {Owner(n) for n in numbers}


async def test_releasing_a_claim_of_another_location_does_nothing(index: Index) -> None:
    await index.claims.claim(64, [A])
    for other in (1, 32, 63, 65, 128, 8256):
        assert await index.claims.release(other, [A]) == 0
    assert await owners(index, A) == {Owner(64)}


async def test_letter_case_is_stored_for_each_owner(index: Index) -> None:
    await index.claims.claim(1, {A: UPPER})
    await index.claims.claim(2, {A: 0})
    await index.claims.claim(70, {A: 1})
    assert await owners(index, A) == {Owner(1, UPPER), Owner(2), Owner(70, 1)}
    assert await index.claims.release(1, [A]) == 1
    assert await owners(index, A) == {Owner(2), Owner(70, 1)}


@pytest.mark.parametrize(("first", "then"), [(0, UPPER), (UPPER, 0), (1, 1 << 31)])
async def test_a_new_spelling_replaces_the_old_one(index: Index, first: int, then: int) -> None:
    await index.claims.claim(2, [A])
    await index.claims.claim(1, {A: first})
    assert await index.claims.claim(1, {A: then}) == 0, "the claim is not new"
    assert await owners(index, A) == {Owner(1, then), Owner(2)}


async def test_bytes_of_a_letter_case_are_not_read_as_an_owner(index: Index) -> None:
    # The four bytes after a spelled entry look like the entries of locations 1 to 4.
    await index.claims.claim(9, {A: 0x02040608})
    for number in (1, 2, 3, 4):
        assert await index.claims.release(number, [A]) == 0
    assert await owners(index, A) == {Owner(9, 0x02040608)}


async def test_more_ids_in_one_bucket_than_fit_in_one_script(index: Index) -> None:
    ids = make_ids(2 * SCRIPT_IDS + 1, prefix=b"\x07")
    assert await index.claims.claim(1, ids) == len(ids)
    assert await index.claims.claim(1, ids) == 0
    assert (await index.claims.lookup(ids)).owners == [(Owner(1),)] * len(ids)
    assert await index.claims.release(1, ids[1:]) == len(ids) - 1
    assert await owners(index, ids[0]) == {Owner(1)}
    assert await owners(index, ids[-1]) == set()


async def test_more_buckets_than_fit_in_one_pipeline(index_url: str) -> None:
    async with open_index(index_url, bits=10) as index:
        ids = [first_id((bucket << 6).to_bytes(2, "big")) for bucket in range(1 << 10)]
        assert index.claims.buckets.half > 2 * BATCH_CALLS
        assert await index.claims.claim(3, ids) == len(ids)
        assert (await index.claims.lookup(ids)).owners == [(Owner(3),)] * len(ids)
        assert await index.claims.release(3, ids[::2]) == len(ids) // 2
        left = [image_id async for _, claims in index.claims.of_location(3) for image_id in claims]
        assert left == ids[1::2]


async def test_empty_claims_and_lookups_are_allowed(index: Index) -> None:
    assert await index.claims.claim(1, []) == 0
    assert await index.claims.claim(1, {}) == 0
    assert await index.claims.release(1, []) == 0
    assert (await index.claims.lookup([])).owners == []


async def test_lookup_results_have_the_order_of_the_ids(index: Index) -> None:
    ids = make_ids(300)
    for number, image_id in enumerate(ids, 1):
        if number % 3:
            await index.claims.claim(number, [image_id])
    asked = [*ids[::-1], ids[5], ids[5]]
    expected: dict[bytes, tuple[Owner, ...]] = {
        image_id: (Owner(n),) if n % 3 else () for n, image_id in enumerate(ids, 1)
    }
    assert (await index.claims.lookup(asked)).owners == [expected[image_id] for image_id in asked]


async def test_a_lookup_returns_the_registry_version(index: Index) -> None:
    before = (await index.claims.lookup([A])).version
    await index.records.put(Location(name="one", url="http://one.example"), None)
    after = (await index.claims.lookup([])).version
    assert after > before
    assert after == (await index.records.load()).version


async def test_claims_do_not_change_the_version_of_the_registry(index: Index) -> None:
    before = (await index.claims.lookup([A])).version
    await index.claims.claim(1, [A])
    await index.claims.release(1, [A])
    assert (await index.claims.lookup([A])).version == before


async def test_concurrent_changes_of_one_id_lose_nothing(index: Index) -> None:
    async def flap(number: int, times: int) -> None:
        for _ in range(times):
            assert await index.claims.claim(number, [A]) == 1
            assert await index.claims.release(number, [A]) == 1

    async def stay(number: int) -> None:
        assert await index.claims.claim(number, {A: number}) == 1

    await asyncio.gather(*(flap(n, 20) for n in (1, 2)), *(stay(n) for n in range(10, 30)))
    assert await owners(index, A) == {Owner(n, n) for n in range(10, 30)}


async def test_concurrent_claims_and_releases_of_many_ids(index: Index) -> None:
    ids = make_ids(400)
    await index.claims.claim(1, ids)
    await asyncio.gather(
        index.claims.release(1, ids[:200]), index.claims.claim(2, ids), index.claims.claim(3, ids)
    )
    found = (await index.claims.lookup(ids)).owners
    assert [set(o) for o in found] == [{Owner(2), Owner(3)}] * 200 + [
        {Owner(1), Owner(2), Owner(3)}
    ] * 200
