"""An image without an owner is claimed with one command where its bucket gets few images, and by a
script where it gets many. Both store the same."""

from __future__ import annotations

import pytest

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.index import Index
from resolver.index.claims import FEW_IDS
from tests.support.ids import make_ids

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
