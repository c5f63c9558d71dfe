"""Ids and owners as Redis stores them: what Python writes, Python and Lua read, and the reverse."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.index import open_index
from resolver.index.buckets import Buckets
from resolver.index.codec import decode_owners, encode_owner, encode_owners
from resolver.models import MAX_BITS, MIN_BITS, Owner
from tests.support.ids import make_id

numbers = st.one_of(st.integers(1, 200), st.integers(8000, 9000), st.integers(1, 2**40))
letter_cases = st.one_of(st.just(0), st.integers(0, 0xFFFFFFFF))
owner_lists = st.lists(
    st.builds(Owner, numbers, letter_cases), max_size=8, unique_by=lambda owner: owner.number
)
image_ids = st.binary(min_size=16, max_size=16)


@given(owner_lists)
def test_owners_are_read_as_written(owners: list[Owner]) -> None:
    assert decode_owners(encode_owners(owners)) == tuple(owners)


@pytest.mark.parametrize(
    ("number", "size"), [(1, 1), (63, 1), (64, 2), (8191, 2), (8192, 3), (2**40, 6)]
)
def test_an_entry_takes_few_bytes(number: int, size: int) -> None:
    assert len(encode_owner(Owner(number))) == size
    assert len(encode_owner(Owner(number, 1))) == size + 4


@given(owner_lists.filter(bool), st.data())
def test_a_truncated_value_is_refused_or_has_whole_owners(
    owners: list[Owner], data: st.DataObject
) -> None:
    value = encode_owners(owners)
    cut = value[: data.draw(st.integers(0, len(value) - 1))]
    try:
        read = decode_owners(cut)
    except ValueError as error:
        assert "cut short" in str(error)  # noqa: PT017 - both ways are right
        return
    assert read == tuple(owners[: len(read)])
    assert encode_owners(read) == cut


@given(owner_lists, owner_lists)
@example([Owner(2**40, 5), Owner(1)], [Owner(2**40)])
async def test_lua_and_python_use_the_same_form(first: list[Owner], then: list[Owner]) -> None:
    """Claims, some with another letter case, some released: Python decodes what Lua wrote."""
    image_id = make_id(1)
    model: dict[int, int] = {}
    async with open_index("memory:", bits=4) as index:
        for owner in [*first, *then]:
            new = await index.claims.claim(owner.number, {image_id: owner.letter_case})
            assert new == (owner.number not in model)
            model[owner.number] = owner.letter_case
        value = await index.client.command(
            "HGET", index.claims.buckets.key(0), index.claims.buckets.field(image_id)
        )
        assert {Owner(*item) for item in model.items()} == set(decode_owners(value or b""))
        assert len(value or b"") == len(encode_owners(Owner(*item) for item in model.items()))
        for owner in first:
            assert await index.claims.release(owner.number, [image_id]) == 1
            del model[owner.number]
        (left,) = (await index.claims.lookup([image_id])).owners
        assert dict(left) == model
        assert len(left) == len(model)


@given(st.integers(MIN_BITS, MAX_BITS), image_ids)
def test_bucket_and_field_together_give_the_id(bits: int, image_id: bytes) -> None:
    buckets = Buckets(b"b:", bits)
    number, field = buckets.number(image_id), buckets.field(image_id)
    assert 0 <= number < buckets.count == 1 << bits
    assert len(field) == buckets.field_bytes
    assert buckets.join(number, field) == image_id


@given(st.integers(MIN_BITS, MAX_BITS), image_ids, image_ids)
def test_buckets_follow_the_order_of_ids(bits: int, first: bytes, second: bytes) -> None:
    buckets = Buckets(b"b:", bits)
    low, high = sorted((first, second))
    assert buckets.number(low) <= buckets.number(high)
    keys = [buckets.key(buckets.number(image_id)) for image_id in (low, high)]
    assert keys == sorted(keys), "and so do their keys"
    assert (keys[0] == keys[1]) == (buckets.number(low) == buckets.number(high))


@pytest.mark.parametrize("bits", [MIN_BITS - 1, MAX_BITS + 1, 0, -1])
def test_index_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"{MIN_BITS} to {MAX_BITS}"):
        Buckets(b"b:", bits)
