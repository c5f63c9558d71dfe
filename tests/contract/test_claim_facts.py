"""What claims say of an image besides its owners: its status, and whether owners have the same
bytes."""

from __future__ import annotations

import pytest

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus, differ
from resolver.index import Index, StoredClaim
from resolver.models import Owner
from tests.support.contents import ONE, OTHER
from tests.support.ids import make_ids

A, B, *_ = IDS = make_ids(20)
MD5 = Content(HashKind.CHECKSUM, b"12345678", 10)
ACTIVE, PENDING, DEACTIVATED, DEAD = ImageStatus


async def claim(
    index: Index, number: int, status: ImageStatus | None, content: Content | None = None
) -> int:
    return await index.claims.claim(number, [A], {A: ImageFacts(status, content)})


async def owners(index: Index) -> dict[int, Owner]:
    (found,) = (await index.claims.lookup([A])).owners
    return {owner.number: owner for owner in found}


async def conflict(index: Index) -> bool:
    found = (await owners(index)).values()
    return differ([owner.content for owner in found if owner.content])


async def stored(index: Index, number: int) -> StoredClaim:
    async for _, claims in index.claims.of_location(number):
        return claims[A]
    pytest.fail("no claim")


async def value(index: Index) -> bytes:
    buckets = index.claims.buckets
    found: bytes = await index.client.command(
        "HGET", buckets.key(buckets.number(A)), buckets.field(A)
    )
    return found


@pytest.mark.parametrize("status", [None, *ImageStatus])
async def test_a_claim_has_the_status_of_its_image(
    index: Index, status: ImageStatus | None
) -> None:
    assert await claim(index, 1, status) == 1
    assert (await owners(index))[1].status is status


async def test_a_change_of_status_is_written_and_is_no_new_claim(index: Index) -> None:
    for status in (PENDING, ACTIVE, DEACTIVATED, ACTIVE, DEAD):
        await claim(index, 1, status)
        await claim(index, 2, ACTIVE)
        assert {n: o.status for n, o in (await owners(index)).items()} == {1: status, 2: ACTIVE}
    assert await claim(index, 1, ACTIVE) == 0


async def test_a_claim_without_facts_keeps_the_stored_ones(index: Index) -> None:
    """A claim by hand says nothing of the image."""
    await claim(index, 1, ACTIVE, ONE)
    await claim(index, 2, ACTIVE, ONE)
    before = await stored(index, 2)
    assert await index.claims.claim(2, [A]) == 0
    assert await claim(index, 2, ACTIVE) == 0
    assert await stored(index, 2) == before
    assert before.facts.content is not None


async def test_one_owner_takes_two_bytes_with_any_facts(index: Index) -> None:
    await claim(index, 1, ACTIVE, ONE)
    assert len(await value(index)) == 2
    await claim(index, 2, ACTIVE, ONE)
    await claim(index, 1, ACTIVE, ONE)
    assert len(await value(index)) == 9
    await index.claims.release(1, [A])
    assert len(await value(index)) == 2, "what the bytes are matters to two owners only"


async def test_owners_with_other_bytes_are_in_conflict(index: Index) -> None:
    await claim(index, 1, ACTIVE, ONE)
    await claim(index, 2, ACTIVE, OTHER)
    assert not await conflict(index), "of the first one it is not known yet"
    await claim(index, 1, ACTIVE, ONE)
    assert await conflict(index)
    await claim(index, 2, ACTIVE, ONE)
    assert not await conflict(index)


@pytest.mark.parametrize(("first", "second"), [(ONE, None), (ONE, MD5), (None, None)])
async def test_hashes_that_cannot_be_compared_are_no_conflict(
    index: Index, first: Content | None, second: Content | None
) -> None:
    for _ in range(2):
        await claim(index, 1, ACTIVE, first)
        await claim(index, 2, ACTIVE, second)
    assert not await conflict(index)


async def test_checksums_are_compared_with_their_sizes(index: Index) -> None:
    for _ in range(2):
        await claim(index, 1, ACTIVE, MD5)
        await claim(index, 2, ACTIVE, MD5._replace(size=11))
    assert await conflict(index)


async def test_a_checksum_does_not_replace_a_better_hash(index: Index) -> None:
    """Notifications have only the checksum; else they and sweeps would take turns."""
    for number in (1, 2, 1):
        await claim(index, number, ACTIVE, ONE)
    before = await stored(index, 1)
    await claim(index, 1, ACTIVE, MD5)
    assert await stored(index, 1) == before
    assert not before.is_changed_by(0, ImageFacts(ACTIVE, MD5))


async def test_a_stored_claim_is_compared_with_new_facts(index: Index) -> None:
    await claim(index, 1, ACTIVE, ONE)
    alone = await stored(index, 1)
    assert not alone.is_changed_by(0, ImageFacts(ACTIVE, ONE))
    assert not alone.is_changed_by(0, ImageFacts())
    assert alone.is_changed_by(1, ImageFacts(ACTIVE, ONE))
    assert alone.is_changed_by(0, ImageFacts(DEACTIVATED, ONE))
    await claim(index, 2, ACTIVE, ONE)
    shared = await stored(index, 1)
    assert shared.is_changed_by(0, ImageFacts(ACTIVE, ONE)), "now its bytes matter"
    await claim(index, 1, ACTIVE, ONE)
    assert not (await stored(index, 1)).is_changed_by(0, ImageFacts(ACTIVE, ONE))
    assert (await stored(index, 1)).is_changed_by(0, ImageFacts(ACTIVE, OTHER))


async def test_claims_of_format_1_are_not_known(index: Index) -> None:
    """As programs of that format write them, also next to claims of ours, and change them."""
    buckets = index.claims.buckets
    key, field = buckets.key(buckets.number(A)), buckets.field(A)
    await index.client.command("HSET", key, field, b"\x02\x04")
    assert set((await owners(index)).values()) == {Owner(1), Owner(2)}
    for number in (1, 2, 1):
        await claim(index, number, ACTIVE, ONE)
    ours = await value(index)
    await index.client.command("HSET", key, field, ours + b"\x06")  # it adds location 3
    assert (await owners(index))[3] == Owner(3)
    assert (await owners(index))[1].status is ACTIVE
    await index.client.command("HSET", key, field, ours[2:] + b"\x06")  # it drops 1 and 2
    assert await owners(index) == {3: Owner(3)}
    await index.client.command("HSET", key, field, ours[2:])  # it drops the last one
    assert await owners(index) == {}
    assert await index.claims.purge([9]) == 0
    assert await value(index) is None, "what such a program left behind is collected"


async def test_a_mark_of_a_newer_version_is_ignored_and_kept(index: Index) -> None:
    buckets = index.claims.buckets
    key, field = buckets.key(buckets.number(A)), buckets.field(A)
    newer = b"\x81\x80\x80\x3c\0\0\0\0"  # number 63 << 20
    await index.client.command("HSET", key, field, b"\x02" + newer)
    assert await owners(index) == {1: Owner(1)}
    await index.claims.claim(2, [A])
    assert newer in await value(index), "it is kept"


async def test_many_images_are_claimed_with_their_facts(index: Index) -> None:
    facts = {
        image_id: ImageFacts(list(ImageStatus)[n % 4], ONE if n % 3 else OTHER)
        for n, image_id in enumerate(IDS)
    }
    for number in (1, 2, 1):
        await index.claims.claim(number, IDS, facts)
    found = (await index.claims.lookup(IDS)).owners
    for image_id, (one, two) in zip(IDS, found, strict=True):
        assert one.status is two.status is facts[image_id].status
        assert one.content == two.content
        assert one.content is not None
