"""Image ids: every spelling gives the same bytes, and the letter case of a server is kept."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import InvalidImageId
from resolver.models import api_versions, format_id, letter_case_of, minor_version, parse_id

image_ids = st.binary(min_size=16, max_size=16)
letter_cases = st.one_of(st.just(0), st.just(0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))


@st.composite
def spellings(draw: st.DrawFn, image_id: bytes) -> str:
    """A random spelling of an image id."""
    text = format_id(image_id, draw(letter_cases))
    if draw(st.booleans()):
        text = text.replace("-", "")
    return draw(st.sampled_from(["", "", "urn:uuid:", "URN:UUID:", "Urn:uuid:"])) + text


@given(st.data(), image_ids)
def test_every_spelling_gives_the_same_bytes(data: st.DataObject, image_id: bytes) -> None:
    assert parse_id(data.draw(spellings(image_id))) == image_id


@given(image_ids)
def test_the_default_form_is_that_of_a_uuid(image_id: bytes) -> None:
    assert format_id(image_id) == str(uuid.UUID(bytes=image_id))
    assert letter_case_of(format_id(image_id)) == 0


@given(image_ids, letter_cases)
def test_a_spelling_is_restored(image_id: bytes, letter_case: int) -> None:
    text = format_id(image_id, letter_case)
    assert text.lower() == format_id(image_id)
    restored = letter_case_of(text)
    assert format_id(parse_id(text), restored) == text
    # Digits have no case, so their bits are 0.
    assert restored & letter_case == restored
    letters = sum(c.isupper() for c in text)
    assert restored.bit_count() == letters


@given(st.data(), image_ids)
def test_letter_case_does_not_depend_on_the_form(data: st.DataObject, image_id: bytes) -> None:
    text = data.draw(spellings(image_id))
    bare = text.replace("-", "")[-32:]
    assert letter_case_of(text) == letter_case_of(bare)
    assert format_id(image_id, letter_case_of(text)).replace("-", "") == bare


def test_the_prefix_of_a_urn_does_not_count_as_digits() -> None:
    assert letter_case_of("URN:UUID:" + "a" * 32) == 0


def test_the_first_digit_is_the_highest_bit() -> None:
    assert letter_case_of("A" + "a" * 31) == 1 << 31
    assert letter_case_of("a" * 31 + "A") == 1
    assert format_id(b"\xaa" * 16, 1 << 31) == "Aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "image",
        "0" * 31,
        "0" * 33,
        "g" * 32,
        "00000000-0000-0000-0000-00000000000",
        "00000000-0000-0000-0000-0000000000000",
        "00000000-000000000000-0000-000000000000",
        "0000000-00000-0000-0000-000000000000",
        "00000000-0000-0000-0000-000000000000\n",
        " 00000000-0000-0000-0000-000000000000",
        "{00000000-0000-0000-0000-000000000000}",
        "urn:uuid:urn:uuid:" + "0" * 32,
        "urn:uuid:",
        "uuid:" + "0" * 32,
        "0x" + "0" * 30,
        "\u0660" * 32,
        "\uff10" * 32,
        "00000000_0000_0000_0000_000000000000",
        "00000000-0000-0000-0000-000000000000/file",
        "0" * 10_000,
    ],
)
def test_texts_that_are_not_image_ids(text: str) -> None:
    with pytest.raises(InvalidImageId) as caught:
        parse_id(text)
    assert caught.value.status == 400
    assert len(caught.value.detail) < 250, "a long text is shortened"


@given(st.one_of(st.text(), st.from_regex(r"[0-9a-fA-F-]{30,40}", fullmatch=True)))
def test_only_uuids_are_accepted(text: str) -> None:
    try:
        image_id = parse_id(text)
    except InvalidImageId:
        return
    assert uuid.UUID(text).bytes == image_id


def test_api_versions_of_version_ids() -> None:
    assert api_versions(()) == (False, False)
    assert api_versions(("v2.15", "v2.0")) == (False, True)
    assert api_versions(("v1.1", "v1.0")) == (True, False)
    assert api_versions(("v2.5", "v1.0")) == (True, True)
    assert api_versions(("v20.1", "v10", "x")) == (False, False)
    assert minor_version(("v2.9", "v2.15", "v1.20", "v2.x")) == 15
    assert minor_version(("v1.1",)) == -1
