"""After any history of claims and releases the index equals a plain model."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.index import Index, StoredClaim, open_index
from resolver.models import Owner
from tests.support.claim_model import ImageModel

# Few ids and numbers, so that steps concern the same claims: neighbours in and across buckets.
IDS = [bytes([first, last]) * 8 for first in (0, 1, 15, 16, 255) for last in (0, 1, 255)]
NUMBERS = (1, 63, 64, 8192)


CONTENTS = [
    Content(HashKind.OS_HASH, b"12345678"),
    Content(HashKind.OS_HASH, b"another!"),
    Content(HashKind.CHECKSUM, b"12345678", 5),
]


class Step(NamedTuple):
    what: str
    number: int
    ids: dict[bytes, tuple[int, ImageFacts]]


facts = st.builds(
    ImageFacts,
    st.sampled_from([None, ImageStatus.ACTIVE, ImageStatus.ACTIVE, ImageStatus.PENDING]),
    st.sampled_from([None, *CONTENTS]),
)
steps = st.builds(
    Step,
    st.sampled_from(["claim", "claim", "claim", "release", "release", "purge"]),
    st.sampled_from(NUMBERS),
    st.dictionaries(
        st.sampled_from(IDS),
        st.tuples(st.sampled_from([0, 0, 1, 0xFFFFFFFF]), facts),
        max_size=10,
    ),
)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.sampled_from([4, 5, 8, 9]), st.lists(steps, max_size=12))
async def test_any_history_of_claims_gives_the_same_owners_as_a_model(
    bits: int, history: list[Step]
) -> None:
    model = {image_id: ImageModel() for image_id in IDS}
    async with open_index("memory:", bits=bits) as index:
        for what, number, ids in history:
            if what == "claim":
                expected = [
                    model[image_id].claim(number, *known) for image_id, known in ids.items()
                ]
                letter_cases = {image_id: letter_case for image_id, (letter_case, _) in ids.items()}
                news = {image_id: known for image_id, (_, known) in ids.items()}
                assert await index.claims.claim(number, letter_cases, news) == sum(expected)
            elif what == "release":
                expected = [model[image_id].release(number) for image_id in ids]
                assert await index.claims.release(number, ids) == sum(expected)
            else:
                expected = [image.release(number) for image in model.values()]
                assert await index.claims.purge([number]) == sum(expected)

        found = (await index.claims.lookup(IDS)).owners
        for owners, image_id in zip(found, IDS, strict=True):
            expected_owners = model[image_id].owners()
            assert {owner[:3] for owner in owners} == {owner[:3] for owner in expected_owners}
            assert len(owners) == len(expected_owners)
        for number in NUMBERS:
            await check_claims_of_a_location(index, number, model)
        census = await index.census()
        assert census.images == sum(1 for image in model.values() if image.claims)
        assert sum(census.claims.values()) == sum(len(image.claims) for image in model.values())
        # Nothing else remains, such as an empty bucket.
        keys = await index.client.command("KEYS", "glr:?:*")
        assert len(keys) == census.buckets


async def check_claims_of_a_location(
    index: Index, number: int, model: dict[bytes, ImageModel]
) -> None:
    """They are those of the model, and claiming them again as they are changes nothing."""
    claims: dict[bytes, StoredClaim] = {}
    async for _, some in index.claims.of_location(number):
        claims |= some
    assert claims.keys() == {
        image_id for image_id, image in model.items() if number in image.claims
    }
    for image_id, claim in claims.items():
        owners = {owner.number: owner for owner in model[image_id].owners()}
        assert Owner(number, claim.letter_case, *claim.facts) == owners[number]
        assert bool(claim.others) == (len(owners) > 1)
        assert not claim.is_changed_by(claim.letter_case, claim.facts)
