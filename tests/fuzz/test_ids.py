"""Image ids: every spelling is accepted and gives its bytes; any other text is refused."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.errors import InvalidImageId
from resolver.gateway.api.resolve import parse_ids
from resolver.models import format_id, letter_case_of, parse_id
from tests.fuzz.conftest import count_examples, examples

IMAGE_BYTES = st.binary(min_size=16, max_size=16)
CASE = st.integers(0, 0xFFFFFFFF)
ID = re.compile(
    r"(?:urn:uuid:)?(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})",
    re.ASCII | re.IGNORECASE,
)
ALMOST_IDS = st.from_regex(ID, fullmatch=True).flatmap(
    lambda text: st.builds(
        lambda at, inserted, cut: text[:at] + inserted + text[at + cut :],
        st.integers(0, len(text)),
        st.text(max_size=3) | st.sampled_from(["-", "\n", "\0", "۴", "K", "f" * 40]),
        st.integers(0, 3),
    )
)
"""An id with a text inserted or removed at one position."""


@examples(300)
@given(
    IMAGE_BYTES, CASE, st.sampled_from(["", "urn:uuid:", "URN:UUID:", "Urn:Uuid:"]), st.booleans()
)
def test_every_spelling_of_an_id_is_parsed_and_its_letter_case_kept(
    image_id: bytes, letter_case: int, prefix: str, plain: bool
) -> None:
    count_examples("ids: spellings")
    text = format_id(image_id, letter_case)
    assert text.lower() == str(uuid.UUID(bytes=image_id))
    sent = prefix + (text.replace("-", "") if plain else text)
    assert parse_id(sent) == image_id
    # Digits have no case, so the result may have fewer bits set.
    assert format_id(image_id, letter_case_of(sent)) == text


@examples(500)
@example("")
@example("\u017f" * 32)
@given(ALMOST_IDS | st.text() | st.text("0123456789abcdefABCDEF-{}:", min_size=30, max_size=40))
def test_a_malformed_id_is_refused_with_a_clear_message(text: str) -> None:
    count_examples("ids: almost ids")
    if ID.fullmatch(text):
        assert parse_id(text) == uuid.UUID(text.lower()).bytes
        return
    with pytest.raises(InvalidImageId, match="is not an image id") as caught:
        parse_id(text)
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@examples(150)
@given(st.lists(st.uuids().map(str) | ALMOST_IDS | JSON, max_size=12))
async def test_a_list_of_ids_is_parsed_like_each_id_alone(items: list[object]) -> None:
    """The fast path for lists and the slow one agree with `parse_id`."""
    count_examples("ids: lists")
    ids = await parse_ids(items)
    good = [item for item in items if isinstance(item, str) and ID.fullmatch(item)]
    assert ids.image_ids == [parse_id(item) for item in good]
    assert list(ids.texts) == [format_id(parse_id(item)) for item in good]
    assert len(ids.invalid) == len(items) - len(good)
    for place, item in enumerate(good):
        assert ids.letter_cases.get(place, 0) == letter_case_of(item)
