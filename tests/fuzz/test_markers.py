"""Markers of the merged listing: what was encoded is decoded, and anything else is refused."""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import InvalidRequest
from resolver.listing.markers import (
    MAX_MARKER_BYTES,
    MAX_QUESTIONS,
    PREFIX,
    Marker,
    Place,
    Questions,
    decode,
    encode,
    is_marker,
)
from resolver.listing.sort_order import SORT_KEYS, SortKey, SortOrder
from resolver.models import parse_stored_id

sort_orders = st.lists(
    st.builds(SortKey, st.sampled_from(sorted({*SORT_KEYS} - {"created_at", "id"})), st.booleans()),
    max_size=4,
    unique_by=lambda key: key.name,
).map(lambda keys: SortOrder((*keys, SortKey("created_at", True), SortKey("id", True))))

uuids = st.uuids().map(str) | st.uuids().map(lambda value: str(value).upper())
ids = uuids | st.text("0123456789abcdefABCDEF-", min_size=1, max_size=36)
places = st.one_of(
    st.builds(Place, st.integers(0, 99), ids, *[st.just(False)] * 3),
    st.builds(Place, st.integers(0, 99), st.none(), *[st.booleans()] * 3),
)


@st.composite
def markers(draw: st.DrawFn) -> tuple[SortOrder, Marker]:
    order = draw(sort_orders)
    values = tuple(
        draw(st.none() | st.integers(0))
        if name == "size"
        else draw(st.text(max_size=300) if name == "id" else st.none() | st.text(max_size=300))
        for name in order.names
    )
    numbers = st.integers(0, 2**31)
    at = draw(st.dictionaries(numbers, places, max_size=30))
    asked = draw(st.dictionaries(numbers, st.lists(uuids, max_size=6), max_size=9))
    questions = Questions(asked, draw(st.booleans()))
    return order, Marker(values, at, draw(st.booleans()), questions)


@given(markers())
def test_a_marker_is_what_was_encoded(made: tuple[SortOrder, Marker]) -> None:
    order, marker = made
    text = encode(order, marker)
    assert is_marker(text)
    assert text.isascii()
    read = decode(order, text)
    assert read.position == marker.position
    assert read[1:] == marker[1:]


@given(sort_orders, st.text(max_size=200))
def test_other_texts_are_refused(order: SortOrder, text: str) -> None:
    with pytest.raises(InvalidRequest):
        decode(order, PREFIX + text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


def packed(document: object) -> str:
    data = zlib.compress(json.dumps(document).encode())
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


@given(sort_orders, json_values)
def test_other_documents_are_refused(order: SortOrder, value: object) -> None:
    with pytest.raises(InvalidRequest):
        decode(order, packed(value))


@given(sort_orders, json_values, json_values, json_values)
def test_wrong_members_are_refused_or_harmless(
    order: SortOrder, values: object, at: object, questions: object
) -> None:
    try:
        marker = decode(order, packed([order.text, values, at, 0, questions]))
    except InvalidRequest:
        return
    assert all(type(number) is int for number in (*marker.places, *marker.questions.ids))
    assert all(place.after is None or place.after.isprintable() for place in marker.places.values())
    for text in chain(*marker.questions.ids.values()):
        parse_stored_id(text)


@pytest.mark.parametrize(
    "questions",
    [
        [[1, "a,b"]],
        [[1, f"{uuid.UUID(int=1)},{uuid.UUID(int=2)}"]],
        [["1", str(uuid.UUID(int=1))]],
        [[1, 2]],
        [[1, *[str(uuid.UUID(int=n)) for n in range(MAX_QUESTIONS + 1)]]],
    ],
)
def test_wrong_questions_are_refused(questions: list[object]) -> None:
    order = SortOrder((SortKey("created_at", True), SortKey("id", True)))
    values = ["2024-01-01T00:00:00Z", str(uuid.UUID(int=1))]
    assert decode(order, packed([order.text, values, [], 0, [1]]))
    with pytest.raises(InvalidRequest):
        decode(order, packed([order.text, values, [], 0, [1, *questions]]))


def test_a_marker_that_unpacks_to_more_than_the_limit_is_refused() -> None:
    order = SortOrder((SortKey("created_at", True), SortKey("id", True)))
    bomb = packed(["x" * 100 * MAX_MARKER_BYTES])
    assert len(bomb) < MAX_MARKER_BYTES
    with pytest.raises(InvalidRequest):
        decode(order, bomb)
