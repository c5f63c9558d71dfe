"""Pages of the merged listing's locations: rows are cut out of their text as JSON's own parser
reads them, and what is no listing is refused as such."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import LocationUnavailable
from resolver.listing.rows import LOCATIONS_PROPERTY, RowPage, parse_page, parse_record
from resolver.listing.sort_order import SORT_KEYS, SortKey, SortOrder

ORDER = SortOrder(tuple(SortKey(name, True) for name in SORT_KEYS))

texts = st.text(max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
sort_values = st.fixed_dictionaries(
    {"id": texts},
    optional={
        name: st.none() | (st.integers() if name == "size" else texts)
        for name in SORT_KEYS
        if name != "id"
    },
)
rows = st.builds(lambda known, more: {**more, **known}, sort_values, st.dictionaries(texts, values))
documents = st.builds(
    lambda some, more, follows: {**more, "images": some, **({"next": "/v2"} if follows else {})},
    st.lists(rows, max_size=5),
    st.dictionaries(texts.filter(lambda name: name not in ("images", "next")), values, max_size=3),
    st.booleans(),
)
layouts = st.sampled_from(
    [{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" ,\t", "\n:  ")}]
)


def parse(body: bytes, limit: int = 1000) -> RowPage:
    return asyncio.run(parse_page(body, ORDER, limit))


def check(page: RowPage, document: dict[str, Any]) -> None:
    assert [json.loads(row.text) for row in page.rows] == document["images"]
    for row, read in zip(page.rows, document["images"], strict=True):
        assert (row.id, row.values) == (read["id"], tuple(read.get(name) for name in SORT_KEYS))
        shown = json.loads(row.with_locations("one,two"))
        assert shown == {**read, LOCATIONS_PROPERTY: "one,two"}
        assert list(shown) == [*read, LOCATIONS_PROPERTY]
    assert page.has_next == ("next" in document)


@given(documents, layouts, st.booleans())
def test_rows_equal_those_of_a_json_parser(
    document: dict[str, Any], layout: dict[str, Any], ascii_only: bool
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, **layout)
    check(parse(text.encode()), document)


@given(documents, layouts, st.data())
def test_damaged_pages_are_refused_or_are_json(
    document: dict[str, Any], layout: dict[str, Any], data: st.DataObject
) -> None:
    body = bytearray(json.dumps(document, **layout).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        replacement = data.draw(st.sampled_from([b"", b",", b"]", b"}", b"{", b'"', b"\xff", b"1"]))
        body[at : at + 1] = replacement
        if not body:
            break
    try:
        page = parse(bytes(body))
    except LocationUnavailable:
        return
    read = json.loads(bytes(body))
    assert [json.loads(row.text) for row in page.rows] == [
        {name: value for name, value in row.items() if name != LOCATIONS_PROPERTY}
        for row in read["images"]
    ]


@given(st.binary(max_size=60))
def test_bodies_that_are_not_pages_are_refused(body: bytes) -> None:
    with pytest.raises(LocationUnavailable, match="cannot be read"):
        parse(body)


def test_half_of_a_surrogate_pair_can_be_sent_on() -> None:
    """With `resolver_locations` in the row, the whole page of the merged listing was a 500."""
    text = json.dumps({"images": [{"id": "a", "x": "\ud800", LOCATIONS_PROPERTY: "one"}]})
    (row,) = parse(text.encode()).rows
    assert row.with_locations("two").encode()
    assert json.loads(row.with_locations("two"))["x"] == "\ud800"


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_json_is_refused(constant: str) -> None:
    """The page of the merged listing could not be read by clients in other languages."""
    row = f'{{"id": "a", "x": {constant}}}'
    with pytest.raises(LocationUnavailable, match="cannot be read"):
        parse(f'{{"images": [{row}]}}'.encode())
    with pytest.raises(LocationUnavailable, match="cannot be read"):
        asyncio.run(parse_record(row.encode(), ORDER))
