"""After any history of claims and releases the index equals a plain dictionary."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.index import open_index
from resolver.models import Owner

# Few ids and numbers, so that steps concern the same claims: neighbours in and across buckets.
IDS = [bytes([first, last]) * 8 for first in (0, 1, 15, 16, 255) for last in (0, 1, 255)]
NUMBERS = (1, 63, 64, 8192)


class Step(NamedTuple):
    what: str
    number: int
    ids: dict[bytes, int]


steps = st.builds(
    Step,
    st.sampled_from(["claim", "claim", "claim", "release", "release", "purge"]),
    st.sampled_from(NUMBERS),
    st.dictionaries(st.sampled_from(IDS), st.sampled_from([0, 0, 1, 0xFFFFFFFF]), max_size=10),
)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.sampled_from([4, 5, 8, 9]), st.lists(steps, max_size=12))
async def test_any_history_of_claims_gives_the_same_owners_as_a_dictionary(
    bits: int, history: list[Step]
) -> None:
    model: dict[bytes, dict[int, int]] = defaultdict(dict)
    async with open_index("memory:", bits=bits) as index:
        for what, number, ids in history:
            if what == "claim":
                expected = sum(number not in model[image_id] for image_id in ids)
                assert await index.claims.claim(number, ids) == expected
                for image_id, letter_case in ids.items():
                    model[image_id][number] = letter_case
            elif what == "release":
                expected = sum(model[image_id].pop(number, None) is not None for image_id in ids)
                assert await index.claims.release(number, ids) == expected
            else:
                purged = [
                    image_id for image_id in IDS if model[image_id].pop(number, None) is not None
                ]
                assert await index.claims.purge([number]) == len(purged)

        found = (await index.claims.lookup(IDS)).owners
        assert [dict(owners) for owners in found] == [model[image_id] for image_id in IDS]
        assert all(
            len(owners) == len(model[image_id]) for owners, image_id in zip(found, IDS, strict=True)
        )
        for number in NUMBERS:
            claims: dict[bytes, int] = {}
            async for _, some in index.claims.of_location(number):
                claims |= some
            assert claims == {
                image_id: owners[number] for image_id, owners in model.items() if number in owners
            }
        census = await index.census()
        assert census.images == sum(1 for owners in model.values() if owners)
        assert sum(census.claims.values()) == sum(map(len, model.values()))
        # Nothing else remains, such as an empty bucket.
        keys = await index.client.command("KEYS", "glr:?:*")
        assert len(keys) == census.buckets


def test_an_owner_equals_the_tuple_of_the_model() -> None:
    """The comparisons above hold only while an owner is a (number, case) pair."""
    assert dict([Owner(1, 2)]) == {1: 2}
