"""Ids and owners as Redis stores them: what Python writes, Python and Lua read, and the reverse."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.index import open_index
from resolver.index.buckets import Buckets
from resolver.index.codec import (
    CONTENT_BITS,
    FIRST_MARK,
    content_bits,
    decode_owners,
    encode_owner,
    encode_owners,
    lookup_owners,
    stored_content,
    summarize,
)
from resolver.models import MAX_BITS, MIN_BITS, Owner
from tests.support.claim_model import ImageModel
from tests.support.ids import make_id

numbers = st.one_of(st.integers(1, 200), st.integers(8000, 9000), st.integers(1, FIRST_MARK - 1))
letter_cases = st.one_of(st.just(0), st.integers(0, 0xFFFFFFFF))
contents = st.builds(
    Content, st.sampled_from(HashKind), st.binary(min_size=8, max_size=8), st.integers(0, 2**40)
)
statuses = st.sampled_from([None, *ImageStatus])
facts = st.builds(ImageFacts, statuses, st.one_of(st.none(), contents))
named_owners = st.builds(Owner, numbers, letter_cases)
owner_lists = st.lists(
    st.builds(Owner, numbers, letter_cases, statuses, st.one_of(st.none(), contents)),
    max_size=8,
    unique_by=lambda owner: owner.number,
)
image_ids = st.binary(min_size=16, max_size=16)


def as_stored(owner: Owner) -> Owner:
    content = owner.content and stored_content(owner.content)
    return owner._replace(content=content)


@given(owner_lists)
def test_owners_are_read_as_written(owners: list[Owner]) -> None:
    value = encode_owners(owners)
    assert set(decode_owners(value)) == set(map(as_stored, owners))
    assert encode_owners(decode_owners(value)) == value


@pytest.mark.parametrize(
    ("number", "size"), [(1, 1), (63, 1), (64, 2), (8191, 2), (8192, 3), (FIRST_MARK - 1, 3)]
)
def test_an_entry_takes_few_bytes(number: int, size: int) -> None:
    assert len(encode_owner(number)) == size
    assert len(encode_owner(number, 1)) == size + 4


CONTENT = Content(HashKind.OS_HASH, b"12345678")
ACTIVE = ImageStatus.ACTIVE


@pytest.mark.parametrize(
    ("owners", "size"),
    [
        ([Owner(1)], 1),
        ([Owner(1, 0, ACTIVE)], 2),
        ([Owner(1, 0, ACTIVE), Owner(2, 0, ACTIVE)], 3),
        ([Owner(1, 0, ACTIVE, CONTENT), Owner(2, 0, ACTIVE, CONTENT)], 9),
        ([Owner(1, 0, ACTIVE, CONTENT), Owner(2, 0, ImageStatus.DEACTIVATED, CONTENT)], 17),
        ([Owner(1, 0, ImageStatus.PENDING)], 9),
    ],
)
def test_owners_with_facts_take_few_bytes(owners: list[Owner], size: int) -> None:
    assert len(encode_owners(owners)) == size


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
    named = [(owner.number, owner.letter_case) for owner in decode_owners(value)]
    assert [(owner.number, owner.letter_case) for owner in read] == named[: len(read)]


@given(contents, contents)
def test_bits_stand_for_the_hash_its_kind_and_the_size(one: Content, other: Content) -> None:
    assert 0 < content_bits(one) < 1 << CONTENT_BITS
    if one.kind is other.kind and content_bits(one) == content_bits(other):
        assert one == other, "or 50 bits are too few"
    assert stored_content(stored_content(one)) == stored_content(one)


@given(owner_lists)
def test_a_summary_keeps_numbers_statuses_and_equality_of_contents(owners: list[Owner]) -> None:
    value = encode_owners(owners)
    full, short = decode_owners(value), lookup_owners(summarize(value))
    assert [owner[:3] for owner in full] == [owner[:3] for owner in short]
    for position in range(len(full)):
        for other in range(len(full)):
            first, second = full[position].content, full[other].content
            if first is not None and second is not None:
                labels = short[position].content, short[other].content
                assert labels[0] is not None
                assert labels[1] is not None
                assert labels[0].same_as(labels[1]) == first.same_as(second)
    assert summarize(summarize(value)) == summarize(value)


def test_images_with_other_bytes_have_the_same_summary() -> None:
    """So they share a template, and one copy in the cache."""
    other = Content(HashKind.OS_HASH, b"another!")
    for status in (ACTIVE, ImageStatus.DEACTIVATED):
        summaries = {
            summarize(encode_owners([Owner(n, 0, status, content) for n in (1, 300)]))
            for content in (CONTENT, other)
        }
        assert len(summaries) == 1


@given(st.lists(st.tuples(named_owners, facts), max_size=12), st.lists(st.integers(0, 11)))
@example([(Owner(2**18, 5), ImageFacts()), (Owner(1), ImageFacts(ACTIVE, CONTENT))], [0])
async def test_lua_and_python_use_the_same_form(
    claims: list[tuple[Owner, ImageFacts]], releases: list[int]
) -> None:
    """Claims with what is known of them, some again, some released: Python decodes what Lua wrote,
    and a model says what that must be."""
    image_id = make_id(1)
    model = ImageModel()
    async with open_index("memory:", bits=4) as index:
        bucket, field = index.claims.buckets.locate(image_id)
        key = index.claims.buckets.key(bucket)

        async def check() -> None:
            value = await index.client.command("HGET", key, field) or b""
            assert set(decode_owners(value)) == model.owners()
            assert len(value) == len(encode_owners(model.owners())), "no orphaned marks"

        for owner, news in claims:
            new = await index.claims.claim(
                owner.number, {image_id: owner.letter_case}, {image_id: news}
            )
            assert new == model.claim(owner.number, owner.letter_case, news)
            await check()
        for position in releases:
            number = claims[position % len(claims)][0].number if claims else 1
            assert await index.claims.release(number, [image_id]) == model.release(number)
            await check()


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
