"""Pages are read as Python's JSON decoder reads them, and none holds up others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import LocationUnavailable
from resolver.glance.glance_reply import Reply
from resolver.glance.json_pages import MAX_VALUES, WINDOW_BYTES, JsonPage, read_page
from tests.support.turns import check_turns

ROW = {"id": "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "name": "a", "tags": ["b", "c"]}
MANY = 300_000


def page_of(text: str) -> bytes:
    return b'{"images": [%s]}' % text.encode()


HOSTILE = {
    "lists": lambda: page_of(",".join(["[]"] * MANY)),
    "numbers": lambda: page_of(",".join(["0"] * MANY)),
    "small rows": lambda: page_of(",".join([json.dumps(ROW)] * 100_000)),
    "a wide row": lambda: page_of('{"id": [' + ",".join(["[]"] * MANY) + "]}"),
    "a deep row": lambda: page_of(",".join(["[" * 50 + "]" * 50] * 20_000)),
    "a row of depth": lambda: page_of('{"id": [' + ",".join(["[" * 50 + "]" * 50] * 20_000) + "]}"),
    "many members": lambda: page_of("{" + ",".join(f'"{n}": 0' for n in range(MANY)) + "}"),
    "another member": lambda: b'{"images": [], "next": [%s]}' % b",".join([b"0"] * MANY),
    "members": lambda: b'{"images": [], %s}' % b",".join(b'"%d": 0' % n for n in range(MANY)),
    "spaces": lambda: b'{"images": %s[]}' % (b" " * 10_000_000),
    "spaces behind": lambda: b'{"images": []}' + b" " * 10_000_000,
    "a long text": lambda: page_of('"' + "a" * 10_000_000 + '"'),
    "escapes": lambda: page_of('"' + "\\n" * 5_000_000 + '"'),
    "escapes before values": lambda: page_of(
        '{"a": "' + '\\"' * 2_000_000 + '", "b": [' + "0," * 20_000 + "0]}"
    ),
    "other letters": lambda: page_of('"' + "\U0001f600" * 2_000_000 + '"'),
    "depth": lambda: b'{"images": ' + b"[" * 10_000_000,
    "a long number": lambda: page_of("9" * 10_000_000),
    "a long fraction": lambda: page_of("1." + "9" * 10_000_000),
    "commas": lambda: page_of("," * 10_000_000),
}
"""Made where they are needed: 170 MB, and every worker reads this file."""

NO_LISTINGS = [
    *(b"", b" ", b"{", b"[]", b"1", b"null", b"{1: 2}", b'{"a": 1,}', b'{"a": []}', b'{"images"}'),
    *(b'{"images": []', b'{"images": [1,]}', b'{"images": [,]}', b'{"images": [1 2]}'),
    *(b'{"images": []} x', b'{"images": [] "a": 1}', b'{"images": [1}', b'{"images": {}}'),
    *(b'{"images": "\xff"}', b'{"images": [], "\xff": 1}', b'{"images": []}}', b'{"images": []\0}'),
]


async def read(body: bytes, max_rows: int = 1000) -> JsonPage[Any]:
    return await read_page(body, max_rows, lambda row, _: row)


SLOW_TEXTS = {"escapes", "escapes before values"}
"""One text of millions of bytes, which is read in one go."""


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_page_holds_up_others_for_long(name: str) -> None:
    """By the whole page it was 100 ms to some seconds."""
    body, limit = HOSTILE[name](), 0.1 if name in SLOW_TEXTS else 0.05
    await check_turns(limit, lambda: Reply(200, {}, body).page(1000), LocationUnavailable)


@pytest.mark.parametrize("size", [0, 10, 1000, WINDOW_BYTES, 9 * WINDOW_BYTES, 1_000_000])
@pytest.mark.parametrize("letter", ["a", "\u00e9", "\U0001f600", '"', ","])
async def test_rows_of_any_size_are_read(size: int, letter: str) -> None:
    long = {
        **ROW,
        "x": letter * (min(size, 9999 if letter == "," else size) // len(letter.encode())),
    }
    rows = [long, ROW, long, ROW]
    for ascii_only in (False, True):
        text = json.dumps({"first": "/", "images": rows, "next": "/n"}, ensure_ascii=ascii_only)
        if len(text) < 4_000_000 and not (ascii_only and len(json.dumps(long)) > 1_000_000):
            page = await read(text.encode())
            assert page.rows == rows
            assert page.members == {"first": "/", "next": "/n"}
            assert not page.is_cut


async def test_as_many_rows_are_read_as_were_asked_for() -> None:
    body = json.dumps({"images": [ROW] * 10, "next": "/n"}).encode()
    for asked in (0, 3, 9):
        page = await read(body, asked)
        assert (len(page.rows), page.is_cut, page.members) == (asked, True, {})
    page = await read(body, 10)
    assert (len(page.rows), page.is_cut, page.members) == (10, False, {"next": "/n"})


async def test_rows_have_as_many_values_as_one_image_may_have() -> None:
    wide = {"id": list(range(MAX_VALUES - 9))}
    assert (await read(json.dumps({"images": [wide, ROW, wide]}).encode())).rows == [
        wide,
        ROW,
        wide,
    ]
    wider: dict[str, Any] = {"id": [[]] * 4 * MAX_VALUES}
    with pytest.raises(LocationUnavailable, match="too large"):
        await read(json.dumps({"images": [ROW, wider]}).encode())


@pytest.mark.parametrize(
    "properties",
    [
        {"a": "," * 65_535},
        {"a": '"[{' * 20_000, "b": "\\," * 30_000},
        {f"property{n}": "x" * 65_535 for n in range(128)},
        {f"property{n}": ",\\" * 20_000 for n in range(128)},
    ],
    ids=["commas", "quotes", "all that Glance allows", "all that Glance allows, of commas"],
)
async def test_long_properties_cost_no_row(properties: dict[str, str]) -> None:
    """Any user may give an image 128 properties of 64 KiB."""
    row = {**ROW, **properties}
    assert (await read(json.dumps({"images": [ROW, row, ROW]}).encode())).rows == [ROW, row, ROW]


def test_commas_in_texts_are_no_values_of_a_record() -> None:
    record = {"id": "x", "a": "," * 40_000, "b": '"[' * 20_000}
    assert Reply(200, {}, json.dumps(record).encode()).json() == record


@pytest.mark.parametrize("body", NO_LISTINGS)
async def test_what_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(LocationUnavailable, match=r"is not JSON|has no `images`"):
        await Reply(200, {}, body).page(10)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.builds(
    lambda rows, members: {**members, "images": rows},
    st.lists(values, max_size=6),
    st.dictionaries(st.text(max_size=9), values, max_size=3),
)


@given(documents, st.sampled_from([None, 1]), st.integers(0, 3 * WINDOW_BYTES), st.booleans())
def test_pages_are_read_as_json_is(
    document: dict[str, Any], indent: int | None, padding: int, ascii_only: bool
) -> None:
    """Wherever a window ends."""
    document = {"padding": "x" * padding, **document}
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    page = asyncio.run(read(body))
    assert {**page.members, "images": page.rows} == document


@pytest.mark.parametrize("item", ["0", "[]", "{}", "[" * 50 + "]" * 50, '{"":' * 9 + "0" + "}" * 9])
def test_a_record_with_many_values_is_not_parsed(item: str) -> None:
    """Half a million lists, nested and with few commas, took 250 ms."""
    body = f'{{"id": [{", ".join([item] * (1_000_000 // (len(item) + 2)))}]}}'.encode()
    with pytest.raises(LocationUnavailable, match="too many values"):
        Reply(200, {}, body).json()
