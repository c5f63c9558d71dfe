"""The text of an export: it is read as written, and no other text is accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.index import walk_key
from resolver.index.codec import MAX_VALUE_BYTES, encode_owners
from resolver.location_fields import MAX_NETWORKS, MAX_TEXT_LENGTH
from resolver.models import Location, Owner, format_id, letter_case_of
from resolver.registry.export_format import (
    BLOCK_CLAIMS,
    FIRST_LINE,
    MAX_BLOCK_BYTES,
    MAX_LINE_BYTES,
    MAX_LOCATIONS,
    Block,
    Head,
    InvalidExport,
    Reader,
    Writer,
)
from resolver.registry.presentation import fields_of
from resolver.registry.validation import parse_location
from tests.support.ids import make_id, make_ids, make_v7_ids

Claims = dict[bytes, dict[str, int]]
"""For each id, location names to letter case."""


def location(name: str, number: int, **fields: object) -> Location:
    made = parse_location(name, {"url": f"https://{name}.example", **fields})
    return Location(**{**{f: getattr(made, f) for f in made.__slots__}, "number": number})


def write(
    locations: list[Location], owners_by_id: dict[bytes, list[Owner]], block_claims: int = 1024
) -> bytes:
    writer = Writer(locations, block_claims)
    rows = [(image_id, encode_owners(owners)) for image_id, owners in sorted(owners_by_id.items())]
    return writer.head() + writer.add(rows) + writer.end()


def write_ids(ids: list[bytes]) -> bytes:
    """An export of images in this order, in blocks of four."""
    writer = Writer([location("one", 5)], 4)
    rows = [(image_id, encode_owners([Owner(5)])) for image_id in ids]
    return writer.head() + writer.add(rows) + writer.end()


def read(pieces: Iterable[bytes]) -> tuple[list[Location], Claims]:
    """Everything that a reader returns."""
    reader = Reader()
    locations: list[Location] = []
    claims: Claims = {}
    images = counted = 0

    def take(part: Head | Block) -> None:
        nonlocal images, counted
        if isinstance(part, Head):
            locations.extend(part.locations)
            return
        images += part.images
        counted += part.claims
        for number, ids in part.ids_by_location.items():
            for image_id, letter_case in ids.items():
                claims.setdefault(image_id, {})[locations[number].name] = letter_case

    for data in pieces:
        for part in reader.feed(data):
            take(part)
    reader.close()
    assert (len(claims), sum(map(len, claims.values()))) == (images, counted)
    assert (reader.images, reader.claims) == (images, counted)
    return locations, claims


def cut(text: bytes, size: int) -> list[bytes]:
    return [text[i : i + size] for i in range(0, len(text), size)]


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
printable = st.text(max_size=20).filter(str.isprintable)
fields = st.fixed_dictionaries(
    {"url": st.sampled_from(["https://a.example", "http://b:8080/image", "https://[::1]/x%20y"])},
    optional={
        "region": printable,
        "reason": printable,
        "api": st.sampled_from(["auto", "v1", "v2"]),
        "state": st.sampled_from(["active", "draining", "maintenance"]),
        "priority": st.integers(0, 1000),
        "weight": st.integers(0, 1000),
        "sees_all": st.sampled_from([None, True, False]),
        "auth": st.sampled_from([None, {"token_env": "T"}, {"token_file": "/a é"}]),
    },
)
ids = st.binary(min_size=16, max_size=16)


@given(
    st.dictionaries(names, fields, max_size=5),
    st.dictionaries(
        ids, st.dictionaries(st.integers(1, 8), st.integers(0, 2**32 - 1), max_size=5), max_size=20
    ),
    st.integers(1, 200),
    st.integers(1, 10),
)
def test_an_export_is_read_as_written(
    given_locations: dict[str, dict[str, object]],
    drawn: dict[bytes, dict[int, int]],
    size: int,
    block_claims: int,
) -> None:
    locations = [location(n, 3 * i + 1, **f) for i, (n, f) in enumerate(given_locations.items())]
    name_of = {each.number: each.name for each in locations}
    # Only letters have a case, so digits cannot keep theirs.
    owners_by_id = {
        image_id: {
            n: letter_case_of(format_id(image_id, letter_case)) for n, letter_case in of.items()
        }
        for image_id, of in drawn.items()
    }
    owners = {
        image_id: [Owner(*owner) for owner in of.items()] for image_id, of in owners_by_id.items()
    }
    text = write(locations, owners, block_claims)
    got, claims = read(cut(text, size))
    assert [(each.name, fields_of(each)) for each in got] == [
        (each.name, fields_of(each)) for each in locations
    ]
    wanted = {
        image_id: {name_of[n]: letter_case for n, letter_case in of.items() if n in name_of}
        for image_id, of in owners_by_id.items()
    }
    assert claims == {image_id: of for image_id, of in wanted.items() if of}


@pytest.fixture
def small() -> bytes:
    """An export of three blocks, in which an owner spells an id in upper case."""
    first, *others = sorted(make_ids(8))
    letter_case = letter_case_of(format_id(first).upper())
    owners_by_id = {
        first: [Owner(5), Owner(7, letter_case)],
        **{image_id: [Owner(7)] for image_id in others},
    }
    return write([location("one", 5), location("two", 7)], owners_by_id, block_claims=4)


def test_the_lines_of_an_export(small: bytes) -> None:
    lines = small.decode().splitlines()
    first = sorted(make_ids(8))[0]
    assert lines[0] == "glance-resolver-index 1"
    assert lines[1].startswith('location 0 {"name": "one", "url": "https://one.example", ')
    assert lines[3] == f"sum sha256={hashlib.sha256(small[: small.index(b'sum')]).hexdigest()}"
    assert lines[4] == f"{format_id(first)} 0,1={format_id(first).upper()}"
    assert lines[7].startswith("sum sha256=")  # four claims, three images
    before = small[: small.index(b"end")]
    assert lines[-1] == f"end 8 9 sha256={hashlib.sha256(before).hexdigest()}"
    assert len(read([small])[1]) == 8


def test_ids_ascend_or_follow_the_walk_of_an_index_that_spreads_them() -> None:
    ids = [*make_ids(50), *make_ids(50, seed=2, version=None), *make_v7_ids(50)]
    orders = [sorted(ids), sorted(ids, key=walk_key)]
    early = [image_id for image_id in orders[0] if image_id < b"\x40"]
    late = [image_id for image_id in ids if image_id not in early]
    orders.append([*early, *sorted(late, key=walk_key)])  # rebuilt while it was walked
    for order in orders:
        assert set(read([write_ids(order)])[1]) == set(ids)
    for order in orders[:2]:
        for at in (3, 40, 148):
            twice = [*order[:at], order[at - 1], *order[at:]]
            swapped = [*order[:at], order[at + 1], order[at], *order[at + 2 :]]
            for wrong in (twice, swapped, order[::-1]):
                with pytest.raises(InvalidExport, match="must ascend"):
                    read([write_ids(wrong)])


def test_a_change_of_any_byte_is_detected(small: bytes) -> None:
    complete = read([small])[1]
    for at in range(len(small)):
        for flip in (1, 0x20, 0x80):
            bad = bytearray(small)
            bad[at] ^= flip
            given: Claims = {}
            with pytest.raises(InvalidExport) as caught:
                gather(bytes(bad), given)
            line = small.count(b"\n", 0, at) + 1
            assert caught.value.extra["line"] >= line  # there, or at the checksum behind it
            assert given.items() <= complete.items()


def gather(text: bytes, claims: Claims) -> None:
    """Reads into ``claims`` until the text ends or is refused."""
    reader = Reader()
    locations: list[Location] = []
    for part in reader.feed(text):
        if isinstance(part, Head):
            locations = list(part.locations)
        else:
            for number, ids in part.ids_by_location.items():
                for image_id, letter_case in ids.items():
                    claims.setdefault(image_id, {})[locations[number].name] = letter_case
    reader.close()


def test_truncation_at_any_byte_is_detected(small: bytes) -> None:
    for end in range(len(small)):
        with pytest.raises(InvalidExport, match="line "):
            read([small[:end]])


def test_a_missing_repeated_or_moved_line_is_detected(small: bytes) -> None:
    lines = small.splitlines(keepends=True)
    for i in range(len(lines)):
        changed = [lines[:i] + lines[i + 1 :], [*lines[: i + 1], *lines[i:]]]
        if i:
            changed.append([*lines[: i - 1], lines[i], lines[i - 1], *lines[i + 1 :]])
        for some in changed:
            with pytest.raises(InvalidExport):
                read([b"".join(some)])


def sealed(*lines: str, counts: str = "1 1", head: str = "") -> bytes:
    """An export with these image lines and right checksums."""
    text = head.encode() or Writer([location("one", 1), location("two", 2)]).head()
    text += "".join(f"{line}\n" for line in lines).encode()
    return text + f"end {counts} sha256={hashlib.sha256(text).hexdigest()}\n".encode()


A, B = format_id(make_id(10)), format_id(make_id(11))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"", 1, "ends before"),
        (b"{}", 1, "not an export of glance-resolver"),
        (b"\x1f\x8b\x08", 1, "not an export of glance-resolver"),
        (b"glance-resolver-index 2\n", 1, "another format"),
        (FIRST_LINE, 2, "ends before"),
        (sealed(f"{A} 0", counts="2 1"), 6, "end 1 1"),
        (sealed(f"{A} 0") + b"\n", 7, "follows"),
        (sealed(f"{A.upper()} 0"), 5, "lower case"),
        (sealed(f"{A} 0", f"{A} 1"), 6, "ascend"),
        (sealed(f"{B} 0", f"{A} 1"), 6, "ascend"),
        (sealed(f"{A} 2"), 5, "numbers below 2"),
        (sealed(f"{A} 1,0"), 5, "ascending"),
        (sealed(f"{A} 00"), 5, "ascending"),
        (sealed(f"{A} 0,"), 5, "ascending"),
        (sealed(f"{A} 0={A}"), 5, "spelling"),
        (sealed(f"{A} 0={B.upper()}"), 5, "spelling"),
        (sealed(f"{A} 0=A"), 5, "spelling"),
        (sealed(f"{A} 0={A.upper()}", f"{B} 0={A.upper()}"), 6, "spelling"),
        (sealed(f"{A} 0\r"), 5, "owners' numbers"),
        (sealed("", f"{A} 0"), 5, "owners' numbers"),
        (sealed(head=f"{FIRST_LINE.decode()}location 1 {{}}\n"), 2, "location 0"),
        (sealed(head=f"{FIRST_LINE.decode()}location 0 {{\n"), 2, "location 0"),
        (sealed(head=f"{FIRST_LINE.decode()}location 0 {{a}}\n"), 2, "JSON"),
        (sealed(head=f'{FIRST_LINE.decode()}location 0 {{"name": "a"}}\n'), 2, "`url` is missing"),
        (
            sealed(head=f'{FIRST_LINE.decode()}location 0 {{"url": "http://a"}}\n'),
            2,
            "not a location name",
        ),
        (FIRST_LINE + b"error Redis went away\n", 2, "stopped here: Redis went away"),
    ],
)
def test_an_invalid_export_is_refused_with_the_line(text: bytes, line: int, message: str) -> None:
    for size in (1, len(text) or 1):
        with pytest.raises(InvalidExport, match=message) as caught:
            read(cut(text, size))
        assert caught.value.extra == {"line": line}


def test_a_location_name_that_appears_twice_is_refused() -> None:
    with pytest.raises(InvalidExport, match="twice"):
        read([Writer([location("one", 1), location("one", 2)]).head()])


HEAD = Writer([location("one", 1)]).head()
LONG_LINES = {
    "a location": (FIRST_LINE, b'location 0 {"name": "a", "region": "' + b"a" * MAX_LINE_BYTES),
    "no location": (FIRST_LINE, b"x" * (MAX_LINE_BYTES + 1)),
    "owners": (HEAD, f"{A} ".encode() + b"0," * (MAX_LINE_BYTES // 2)),
    "a checksum": (HEAD, b"sum sha256=" + b"a" * MAX_LINE_BYTES),
    "no image": (HEAD + f"{A} 0\n".encode(), b"x" * (MAX_LINE_BYTES + 1)),
}


@pytest.mark.parametrize("kind", LONG_LINES)
@pytest.mark.parametrize("size", [4096, 2**20])
def test_a_line_that_is_too_long_is_refused_before_it_ends(kind: str, size: int) -> None:
    before, line = LONG_LINES[kind]
    with pytest.raises(InvalidExport, match="longer than 131072 bytes") as caught:
        read(cut(before + line, size))
    assert caught.value.extra == {"line": before.count(b"\n") + 1}


def test_a_block_that_never_ends_is_not_buffered() -> None:
    reader = Reader()
    list(reader.feed(HEAD))
    size = 0
    with pytest.raises(InvalidExport, match="there is no checksum"):  # noqa: PT012
        for image_id in sorted(make_ids(100_000)):
            line = f"{format_id(image_id)} 0\n".encode()
            size += len(line)
            assert list(reader.feed(line)) == []
    assert size < MAX_BLOCK_BYTES + 100


def test_a_block_of_too_many_images_is_refused() -> None:
    ids = sorted(make_ids(BLOCK_CLAIMS + 1))
    for block_claims, message in ((BLOCK_CLAIMS, ""), (BLOCK_CLAIMS + 1, "there is no checksum")):
        writer = Writer([location("one", 5)], block_claims)
        text = writer.head() + writer.add((i, encode_owners([Owner(5)])) for i in ids)
        text += writer.end()
        if message:
            with pytest.raises(InvalidExport, match=message):
                read([text])
        else:
            assert len(read([text])[1]) == len(ids)


def test_too_many_locations_are_refused() -> None:
    line = 'location {} {{"name": "l{}", "url": "http://a"}}\n'
    head = FIRST_LINE + "".join(line.format(n, n) for n in range(MAX_LOCATIONS + 1)).encode()
    with pytest.raises(InvalidExport, match="more than 40000 locations") as caught:
        read([head])
    assert caught.value.extra == {"line": MAX_LOCATIONS + 2}


def test_the_largest_records_of_an_index_are_read() -> None:
    """A location with as many networks as it may have, and an image with as many owners, each with
    its own spelling, as a value may have that is read."""
    text = "\U0001f600" * MAX_TEXT_LENGTH
    networks = [
        f"2001:db8:aaaa:bbbb:cccc:dddd:{n:x}:0/112" for n in range(4096, 4096 + MAX_NETWORKS)
    ]
    urls = {
        "url": "https://a.example/" + "a" * 1000,
        "public_url": "https://a.example/" + "a" * 1000,
    }
    large = location("a" * 63, 1, region=text, reason=text, networks=networks, **urls)
    assert MAX_LINE_BYTES / 4 < len(Writer([large]).head()) < MAX_LINE_BYTES
    image_id = bytes([0xAA]) * 16
    letter_case = letter_case_of(format_id(image_id).upper())
    owners = [Owner(number, letter_case) for number in range(1, 2740)]
    value = encode_owners(owners)
    assert MAX_VALUE_BYTES - 100 < len(value) <= MAX_VALUE_BYTES
    locations = [large, *(location(f"l{n}", n) for n in range(2, 2740))]
    writer = Writer(locations)
    written = writer.head() + writer.add([(image_id, value)]) + writer.end()
    read_locations, claims = read(cut(written, 4096))
    assert fields_of(read_locations[0]) == fields_of(large)
    assert set(claims[image_id].values()) == {letter_case}
    assert len(claims[image_id]) == 2739


def test_claims_of_other_locations_are_left_out() -> None:
    text = write([location("one", 1)], {make_id(1): [Owner(2)], make_id(2): [Owner(2), Owner(1)]})
    assert read([text])[1] == {make_id(2): {"one": 0}}


def test_the_same_index_makes_the_same_text() -> None:
    some = [location("one", 1), location("two", 2)]
    text = write(some, {make_id(1): [Owner(1), Owner(2)]})
    assert write(some, {make_id(1): [Owner(2), Owner(1)]}) == text


def test_the_error_is_one_line() -> None:
    assert Writer.error("a\nb é") == b"error a b \\xe9\n"
