"""An image without an owner is claimed with one command where its bucket gets few images, and by a
script where it gets many. Both store the same."""

from __future__ import annotations

import pytest

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.index import Index
from resolver.index.bucket_layout import SET_META_FIELD
from resolver.index.claims import CLAIM
from resolver.index.unowned_images import FEW_IDS, SAMPLED_IDS
from resolver.models import Owner
from tests.support.ids import make_ids
from tests.support.instrumented_client import InstrumentedClient

CONTENT = Content(HashKind.OS_HASH, bytes(range(8)))
FACTS = [
    ImageFacts(),
    ImageFacts(ImageStatus.ACTIVE),
    ImageFacts(ImageStatus.ACTIVE, CONTENT),
    ImageFacts(ImageStatus.PENDING),
    ImageFacts(ImageStatus.DEACTIVATED, CONTENT),
    ImageFacts(None, CONTENT),
]
LETTER_CASES = [0, 1, 0xFFFFFFFF]


@pytest.mark.parametrize("facts", FACTS, ids=str)
@pytest.mark.parametrize("letter_case", LETTER_CASES)
@pytest.mark.parametrize("number", [1, 63, 64, 8191, 8192, 500_000])
async def test_few_and_many_claims_store_the_same(
    index: Index, facts: ImageFacts, letter_case: int, number: int
) -> None:
    few = make_ids(FEW_IDS, prefix=b"\x10")
    many = make_ids(FEW_IDS + 1, prefix=b"\x20")
    for ids in (few, many):
        known = dict.fromkeys(ids, facts)
        assert await index.claims.claim(number, dict.fromkeys(ids, letter_case), known) == len(ids)
    stored = {bucket: set(fields.values()) async for bucket, fields in index.claims.read()}
    assert stored[0x10] == stored[0x20]
    assert len(stored[0x10]) == 1


async def test_new_and_known_images_of_one_bucket(index: Index) -> None:
    """Only those that are new are counted, and owners that were there stay."""
    ids = make_ids(3, prefix=b"\x10")
    await index.claims.claim(1, ids[:1])
    await index.claims.claim(2, ids[1:2])
    assert await index.claims.claim(1, ids) == 2
    owners = (await index.claims.lookup(ids)).owners
    assert [sorted(owner.number for owner in some) for some in owners] == [[1], [1, 2], [1]]
    assert await index.claims.claim(1, ids) == 0


COUNTS = [1, SAMPLED_IDS, 2 * SAMPLED_IDS, 2 * SAMPLED_IDS + 1, 500, 2500]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("known_of_ten", [0, 1, 5, 9, 10])
async def test_new_and_known_images_of_many_buckets(
    index: Index, count: int, known_of_ten: int
) -> None:
    """However many of a sample have an owner, each image is claimed and each new claim counted."""
    ids = make_ids(count)
    known = [image_id for at, image_id in enumerate(ids) if at % 10 < known_of_ten]
    await index.claims.claim(1, known)
    await index.claims.claim(2, known[::2])
    assert await index.claims.claim(1, ids) == len(ids) - len(known)
    owners = dict(zip(ids, (await index.claims.lookup(ids)).owners, strict=True))
    assert all(owners[image_id][0] == Owner(1) for image_id in ids)
    assert [i for i in ids if len(owners[i]) == 2] == known[::2]


async def test_claims_that_the_index_has_are_not_tried_as_new_ones_first() -> None:
    """That would cost as much again as the scripts, which must follow."""
    client = InstrumentedClient()
    index = client.index()
    await index.create_if_missing()
    ids = make_ids(1000)
    await index.claims.claim(1, ids)
    assert client.counts["HSETNX"] == len(ids)
    assert client.runs_of(CLAIM) == 0
    for number in (1, 2):
        client.counts.clear()
        await index.claims.claim(number, ids)
        assert client.counts["HSETNX"] <= 2 * SAMPLED_IDS


async def test_ids_in_upper_case_are_recorded_once() -> None:
    client = InstrumentedClient()
    index = client.index()
    await index.create_if_missing()
    for seed in range(3):
        await index.claims.claim(1, dict.fromkeys(make_ids(3, seed=seed), 5))
    assert client.runs_of(SET_META_FIELD) == 1
