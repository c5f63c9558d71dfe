"""Exports that were cut, changed or made by hand: only what was exported is imported."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.index.codec import encode_owners
from resolver.models import Location, Owner
from resolver.registry.export_format import Block, Head, InvalidExport, Reader, Writer
from tests.fuzz.conftest import ErrorLog, count_examples, examples
from tests.fuzz.test_ids import JSON
from tests.gateway.conftest import ADMIN, Gateway, Start, start

__all__ = ["start"]

LOCATIONS = [
    Location(name="one", url="https://one.example", number=7),
    Location(name="two", url="https://two.example/image", number=9, region="\u00e9u"),
]
OWNERS = st.lists(
    st.sampled_from([Owner(7), Owner(9), Owner(7, 1), Owner(9, 0xFFFFFFFF), Owner(8)]),
    max_size=3,
    unique_by=lambda owner: owner.number,
)
ROWS = st.dictionaries(st.binary(min_size=16, max_size=16), OWNERS, max_size=12)

Claims = dict[tuple[str, bytes], int]
"""The letter case of each claim, by location and id."""


def export_of(rows: dict[bytes, list[Owner]]) -> bytes:
    writer = Writer(LOCATIONS, block_claims=4)
    text = writer.head()
    for image_id in sorted(rows):
        owners = [
            owner._replace(letter_case=_letter_case(image_id, owner.letter_case))
            for owner in rows[image_id]
        ]
        text += writer.add([(image_id, encode_owners(owners))])
    return text + writer.end()


def with_matching_checksums(text: bytes) -> bytes:
    """The same text with checksums that match it."""
    digest = hashlib.sha256()
    out = []
    for line in text.splitlines(keepends=True):
        if line.startswith((b"sum ", b"end ")):
            line = b"%b sha256=%b\n" % (  # noqa: PLW2901
                line.rpartition(b" ")[0],
                digest.hexdigest().encode(),
            )
        digest.update(line)
        out.append(line)
    return b"".join(out)


def read_export(text: bytes, cuts: list[int]) -> tuple[Claims, InvalidExport | None]:
    """The claims that a reader returns for a text that arrives in pieces, and its error."""
    reader, claims = Reader(), Claims()
    names: list[str] = []

    def pieces() -> Iterator[bytes]:
        before = 0
        for cut in [*sorted(cuts), len(text)]:
            yield text[before:cut]
            before = max(before, cut)

    try:
        for piece in pieces():
            for part in reader.feed(piece):
                if isinstance(part, Head):
                    names = [location.name for location in part.locations]
                elif isinstance(part, Block):
                    for local, ids in part.ids_by_location.items():
                        claims |= {
                            (names[local], image_id): letter_case
                            for image_id, letter_case in ids.items()
                        }
        reader.close()
    except InvalidExport as error:
        return claims, error
    return claims, None


LINE = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda more: b"location 0 " + json.dumps(more).encode(), JSON),
    st.builds(
        lambda name, more: b"location 1 " + json.dumps({"name": name, "url": more}).encode(),
        JSON | st.just("two"),
        JSON | st.just("https://two.example/image"),
    ),
    st.sampled_from(
        [
            b"glance-resolver-index 2",
            b"error it failed",
            b"end 99999999999999999999 -1 sha256=00",
            b"sum sha256=",
            b"00000000-0000-4000-8000-000000000000 0,1=00000000-0000-4000-8000-00000000000A",
            b"ffffffff-ffff-ffff-ffff-ffffffffffff 0=FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF,1",
            b"ffffffff-ffff-ffff-ffff-ffffffffffff 0=,1",
            b"ffffffff-ffff-ffff-ffff-ffffffffffff 1,0",
            b"ffffffff-ffff-ffff-ffff-ffffffffffff 9999999",
            b'location 0 {"a":' + b'{"a":' * 50_000 + b"}",
            b'location 0 {"priority": 1' + b"0" * 5000 + b"}",
        ]
    ),
)
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 3000), st.none()),
    st.tuples(st.just("flip"), st.integers(0, 30_000), st.none()),
    st.tuples(st.just("line"), st.integers(0, 30), LINE),
    st.tuples(st.just("drop"), st.integers(0, 30), st.none()),
    st.tuples(st.just("twice"), st.integers(0, 30), st.none()),
    st.tuples(st.just("swap"), st.integers(0, 30), st.none()),
)


def damaged(text: bytes, how: str, at: int, line: bytes | None) -> bytes:
    lines = text.splitlines(keepends=True)
    if how == "cut":
        return text[: at % len(text)]
    if how == "flip":
        at %= 8 * len(text)
        return text[: at // 8] + bytes([text[at // 8] ^ 1 << at % 8]) + text[at // 8 + 1 :]
    at %= len(lines)
    if how == "line":
        lines.insert(at, (line or b"") + b"\n")
    elif how == "drop":
        del lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    else:
        lines[at - 1], lines[at] = lines[at], lines[at - 1]
    return b"".join(lines)


CUTS = st.lists(st.integers(0, 2000), max_size=5)


@examples(300)
@given(ROWS, st.lists(DAMAGE, max_size=2), CUTS)
def test_a_reader_returns_only_claims_that_were_written(
    rows: dict[bytes, list[Owner]], damages: list[Any], cuts: list[int]
) -> None:
    count_examples("imports: read")
    text = whole = export_of(rows)
    for damage in damages:
        text = damaged(text, *damage) if text else text
    expected = {
        (location.name, image_id): _letter_case(image_id, owner.letter_case)
        for image_id, owners in rows.items()
        for owner in owners
        for location in LOCATIONS
        if location.number == owner.number
    }
    claims, error = read_export(text, cuts)
    assert claims.items() <= expected.items()
    assert (error is None) == (text == whole)
    if error is None:
        assert claims == expected
    else:
        assert error.detail.isprintable()
        assert 1 <= error.extra["line"] <= text.count(b"\n") + 2


def _letter_case(image_id: bytes, letter_case: int) -> int:
    """The letter case without the bits of digits, which have none."""
    return sum(
        1 << (31 - i)
        for i, c in enumerate(image_id.hex())
        if c.isalpha() and letter_case >> (31 - i) & 1
    )


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start(index_bits=4, allowed_hosts="*.example")


@examples(120)
@example({}, [("line", 2, b"location 1 {}")], True, "plain")
@example({b"a" * 16: [Owner(7)]}, [], False, "bomb")
@given(
    ROWS,
    st.lists(DAMAGE, max_size=2),
    st.booleans(),
    st.sampled_from(["plain", "gzip", "cut gzip", "no gzip", "deflate", "bomb"]),
)
async def test_an_import_ends_cleanly_and_reports_what_it_imported(
    loop_errors: ErrorLog,
    gateway: Gateway,
    rows: dict[bytes, list[Owner]],
    damages: list[Any],
    fix_checksums: bool,
    form: str,
) -> None:
    count_examples("imports: sent")
    text = export_of(rows)
    for damage in damages:
        text = damaged(text, *damage) if text else text
    text = with_matching_checksums(text) if fix_checksums else text
    headers = {
        **ADMIN,
        "Content-Encoding": {"plain": "identity", "deflate": "deflate"}.get(form, "gzip"),
    }
    body = {
        "gzip": gzip.compress(text),
        "cut gzip": gzip.compress(text)[:-5],
        "deflate": zlib.compress(text),
        "bomb": gzip.compress(text + b"0" * 3_000_000),
    }.get(form, text)
    before = await count_claims(gateway)
    response, result = await gateway.call("POST", "/index/import", data=body, headers=headers)
    loop_errors.check()
    # gzip is the only compression that is accepted.
    assert response.status in ((415,) if form == "deflate" else (200, 400, 409)), result
    applied = result if response.status == 200 else result.get("applied")
    if applied is None:  # refused before anything was imported
        assert await count_claims(gateway) == before
    else:
        assert await count_claims(gateway) - before == applied["new"]
    for name in gateway.services.tables.table.by_name:  # no location is registered incompletely
        shown, _ = await gateway.get(f"/locations/{name}", headers=ADMIN)
        assert shown.status == 200


async def count_claims(gateway: Gateway) -> int:
    census = await gateway.services.index.census()
    return sum(census.claims.values())
