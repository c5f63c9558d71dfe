"""The text form of an index, as an export writes it and an import reads it.

``docs/export-format.md`` describes it. Nothing in this module knows HTTP or Redis. Writer and
reader keep one block of lines in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from binascii import unhexlify
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from resolver.errors import InvalidLocation, InvalidRequest
from resolver.index import lookup_owners, summarize, walk_key
from resolver.models import Location, format_id, letter_case_of
from resolver.registry.presentation import fields_of
from resolver.registry.validation import parse_location
from resolver.turns import in_turns

FORMAT_NAME = b"glance-resolver-index "
FIRST_LINE = FORMAT_NAME + b"1\n"

BLOCK_CLAIMS = 1024
"""Claims after which a block ends with its checksum. Reading and claiming one takes some 2 ms."""

MAX_LINE_BYTES = 128 * 1024
"""Longest line that is read. A location has at most the fields that a record may have, 64 KiB, and
an image as many owners as its value in the index may have: 2,700, each with its own spelling of the
id, take 123 kB."""

MAX_BLOCK_BYTES = 256 * 1024
"""Bytes of a block that a reader buffers: `BLOCK_CLAIMS` claims of one owner each, and one more
image."""

MAX_LOCATIONS = 40_000
"""Locations that a reader takes. An index has had ten thousand."""

STEP_BYTES = 4096
"""Bytes that are read before other tasks may get a turn: a hundred of the shortest locations, in
2 ms."""

MAX_CACHED_OWNERS = 4096
"""Owners whose text a writer caches: most images have one of few sets of owners."""

_CHECKSUM_LINE = re.compile(rb"^(sum|end|error) (.*)\n", re.MULTILINE)
_LOCATION_LINE = re.compile(rb"location ([0-9]+) (\{.*\})\n")
_ID = rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_IMAGE_LINE = re.compile(rb"^(%b) ([0-9A-Fa-f,=-]+)$" % _ID, re.MULTILINE)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,6}", re.ASCII)


class InvalidExport(InvalidRequest):
    """The input is not a complete, unchanged export. ``extra`` has the ``line`` of the fault."""

    code, title = "invalid-export", "Not a complete export"


def _invalid(line: int, why: str) -> InvalidExport:
    return InvalidExport(f"line {line}: {why}", extra={"line": line})


def _walk_key(image_text: bytes) -> tuple[bool, bytes]:
    return walk_key(unhexlify(image_text.replace(b"-", b""))) if image_text else (False, b"")


class Writer:
    """Writes the text. In it the locations are numbered from 0, in the order they are given."""

    def __init__(self, locations: Iterable[Location], block_claims: int = BLOCK_CLAIMS) -> None:
        """``block_claims``: claims after which a block ends."""
        self._locations = list(locations)
        self._export_numbers = {
            location.number: position for position, location in enumerate(self._locations)
        }
        self._block_claims = block_claims
        self._hash = hashlib.sha256()
        self._owners_cache: dict[bytes, tuple[str, int]] = {}
        self._claims_in_block = 0
        self.images = self.claims = 0

    def head(self) -> bytes:
        """The first part: the format and the locations."""
        lines = [FIRST_LINE.decode()]
        for position, location in enumerate(self._locations):
            fields = {"name": location.name, **fields_of(location)}
            lines.append(f"location {position} {json.dumps(fields)}\n")
        return self._hashed(lines) + self._checksum_line()

    def add(self, rows: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The lines of some images.

        ``rows``: image ids of 16 bytes in the order of `resolver.index.walk`, each with its owners
        as the index stores them. Owners that are not among the locations are left out, and so are
        images without any other owner.
        """
        parts: list[bytes] = []
        lines: list[str] = []
        cache = self._owners_cache
        for image_id, stored in rows:
            value = summarize(stored)
            text, count = cache.get(value) or self._owners(value, image_id)
            if not count:
                continue
            h = image_id.hex()
            lines.append(f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]} {text}\n")
            self.images += 1
            self.claims += count
            self._claims_in_block += count
            if self._claims_in_block >= self._block_claims:
                parts += (self._hashed(lines), self._checksum_line())
                lines = []
        parts.append(self._hashed(lines))
        return b"".join(parts)

    def end(self) -> bytes:
        """The last line of a complete export."""
        return f"end {self.images} {self.claims} sha256={self._hash.hexdigest()}\n".encode()

    @staticmethod
    def error(why: str) -> bytes:
        """The last line of an export that could not be completed."""
        return f"error {' '.join(why.split())}\n".encode("ascii", "backslashreplace")

    def _hashed(self, lines: Iterable[str]) -> bytes:
        text = "".join(lines).encode("ascii")
        self._hash.update(text)
        return text

    def _checksum_line(self) -> bytes:
        self._claims_in_block = 0
        return self._hashed([f"sum sha256={self._hash.hexdigest()}\n"])

    def _owners(self, value: bytes, image_id: bytes) -> tuple[str, int]:
        """The owners of an image as text, and how many there are."""
        numbers = self._export_numbers
        owners = sorted(
            (numbers[owner.number], owner.letter_case)
            for owner in lookup_owners(value)
            if owner.number in numbers
        )
        text = ",".join(
            f"{number}={format_id(image_id, letter_case)}" if letter_case else str(number)
            for number, letter_case in owners
        )
        # A text with a spelling is valid for this image only.
        if not any(letter_case for _, letter_case in owners):
            if len(self._owners_cache) >= MAX_CACHED_OWNERS:
                self._owners_cache.clear()
            self._owners_cache[value] = text, len(owners)
        return text, len(owners)


@dataclass(frozen=True, slots=True)
class Head:
    """The locations of an export, in the order of their numbers in it."""

    locations: Sequence[Location]
    fields: Sequence[Mapping[str, Any]]
    """Of each location, the fields that the export has."""


@dataclass(frozen=True, slots=True)
class Block:
    """The claims of some images."""

    ids_by_location: dict[int, dict[bytes, int]]
    """For each location, by its number in the export: image ids, each with its letter case."""
    images: int
    claims: int


class Reader:
    """Reads the text, in pieces of any size.

    Everything that it returns was compared with its checksum first, so nothing that was changed or
    cut off is ever returned.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        """Bytes of the buffer that are known to contain no end: of a line in the head, of a block
        behind it."""
        self._hash = hashlib.sha256()
        self._lines_read = 0
        self._part_start = 0
        """Lines before the head or the block that is being read."""
        self._locations: dict[str, Location] = {}
        self._fields: list[dict[str, Any]] = []
        self._has_head = False
        self._last_id = b""
        self._ascending_ended = False
        self._ended = False
        self.images = self.claims = 0

    def feed(self, data: bytes) -> Iterator[Head | Block]:
        """The parts that ``data`` completes: first the head, then blocks.

        Raises:
            InvalidExport: with the line that is wrong.
        """
        buffer = self._buffer
        buffer += data
        while buffer:
            if self._ended:
                raise _invalid(self._lines_read + 1, "something follows the last line")
            if not self._lines_read:
                _check_first_line(bytes(buffer[: len(FIRST_LINE)]))
            part = self._read_block() if self._has_head else self._read_head_line()
            if part is not None:
                yield part
            elif self._has_head or self._searched:  # there is no complete line
                self._check_size()
                return

    async def feed_in_turns(self, data: bytes) -> AsyncIterator[Head | Block]:
        """As `feed`. Other tasks get turns, whatever the data are."""
        async for part in in_turns(self._feed_in_steps(data)):
            if part is not None:
                yield part

    def _feed_in_steps(self, data: bytes) -> Iterator[Head | Block | None]:
        for start in range(0, len(data), STEP_BYTES):
            yield from self.feed(data[start : start + STEP_BYTES])
            yield None

    def _read_head_line(self) -> Head | None:
        """Reads the next line before the first checksum, if it is complete. Returns the head at its
        end. Lines are parsed one by one, as they come; none is used before its checksum."""
        end = self._buffer.find(b"\n", self._searched) + 1
        if not end:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._searched = 0
        if match := _CHECKSUM_LINE.fullmatch(line):
            self._check_sum(match[1], match[2], line)
            self._has_head = True
            return Head(list(self._locations.values()), self._fields)
        if self._lines_read:
            self._parse_location(line, self._lines_read + 1)
        self._hash.update(line)
        self._lines_read += 1
        return None

    def _read_block(self) -> Block | None:
        """Reads the next block, if it is complete."""
        buffer = self._buffer
        has_line = buffer.find(b"\n", self._searched) >= 0
        match = _CHECKSUM_LINE.search(buffer, self._searched) if has_line else None
        if match is None:
            self._searched = buffer.rfind(b"\n") + 1
            return None
        text, kind, value, line = bytes(buffer[: match.start()]), match[1], match[2], match[0]
        del match, buffer[: len(text) + len(line)]
        self._searched = 0
        block = self._parse_block(text)
        self._hash.update(text)
        self._lines_read += text.count(b"\n")
        self._check_sum(kind, value, line)
        return block

    def _check_size(self) -> None:
        """Raises InvalidExport where what is buffered cannot become a line, or a block."""
        line_start = self._searched if self._has_head else 0
        is_long = len(self._buffer) - line_start > MAX_LINE_BYTES
        if is_long or len(self._buffer) > MAX_BLOCK_BYTES:
            text = bytes(self._buffer)
            self._raise_first_fault(text)
            if is_long:
                line = self._lines_read + 1 + text.count(b"\n")
                raise _invalid(line, f"it is longer than {MAX_LINE_BYTES} bytes")
            raise self._no_checksum_error()

    def close(self) -> None:
        """Ends the reading.

        Raises:
            InvalidExport: the export is not complete.
        """
        if not self._ended:
            text = bytes(self._buffer)
            self._raise_first_fault(text)
            line = self._lines_read + text.count(b"\n") + 1
            raise _invalid(line, "the file ends before its last line")

    def _check_sum(self, kind: bytes, value: bytes, line: bytes) -> None:
        """Checks a checksum line, of this ``kind`` and ``value``."""
        number = self._lines_read + 1
        if kind == b"error":
            why = value.decode("ascii", "replace")[:500]
            raise _invalid(number, f"the export stopped here: {why}")
        expected = f"sha256={self._hash.hexdigest()}"
        if value[-len(expected) :] != expected.encode():
            first = self._part_start + 1
            raise _invalid(number, f"checksum: something in lines {first} to {number} was changed")
        if kind == b"end":
            expected = f"{self.images} {self.claims} {expected}"
            self._ended = True
        if value != expected.encode():
            raise _invalid(number, f"it must be `{kind.decode()} {expected}`")
        self._hash.update(line)
        self._lines_read = self._part_start = number

    def _parse_location(self, line: bytes, number: int) -> None:
        """Adds the location of a line."""
        count = len(self._locations)
        match = _LOCATION_LINE.fullmatch(line)
        if len(line) > MAX_LINE_BYTES:
            raise _invalid(number, f"it is longer than {MAX_LINE_BYTES} bytes")
        if match is None or match[1] != b"%d" % count:
            raise _invalid(number, f"it must be `location {count} {{…}}`")
        if count == MAX_LOCATIONS:
            raise _invalid(number, f"there are more than {MAX_LOCATIONS} locations")
        try:
            fields = json.loads(match[2])
            name = str(fields.pop("name", ""))
            location = parse_location(name, fields)
        except (ValueError, RecursionError) as error:
            raise _invalid(number, "the location is not JSON") from error
        except InvalidLocation as error:
            raise _invalid(number, error.detail) from error
        if location.name in self._locations:
            raise _invalid(number, f"location {location.name!r} is given twice")
        self._locations[location.name] = location
        self._fields.append(fields)

    def _parse_block(self, text: bytes) -> Block:
        if text.count(b"\n") > BLOCK_CLAIMS:  # each image has a claim
            raise self._no_checksum_error()
        found = _IMAGE_LINE.findall(text)
        if len(found) != text.count(b"\n"):
            self._raise_first_fault(text)
            raise _invalid(self._lines_read + 1, "it is not a complete line")
        if not found:
            return Block({}, 0, 0)
        self._check_order([image_text for image_text, _ in found])
        image_ids = unhexlify(b"".join(image_text for image_text, _ in found).replace(b"-", b""))
        positions_by_owners: dict[bytes, list[int]] = {}
        for position, (_, owners) in enumerate(found):
            positions_by_owners.setdefault(owners, []).append(position)
        ids_by_location: dict[int, dict[bytes, int]] = {}
        claims = 0
        for owners, positions in positions_by_owners.items():
            ids = [image_ids[16 * position : 16 * position + 16] for position in positions]
            last_line = self._lines_read + 1 + positions[-1]
            for number, letter_case in self._parse_owners(owners, ids, last_line):
                ids_by_location.setdefault(number, {}).update(dict.fromkeys(ids, letter_case))
                claims += len(ids)
        self.images += len(found)
        self.claims += claims
        return Block(ids_by_location, len(found), claims)

    def _check_order(self, image_texts: list[bytes]) -> None:
        """Raises InvalidExport unless the ids go on from the last one that was read. They ascend,
        or from where they cease to they are in the order of `resolver.index.walk`."""
        ids = [self._last_id, *image_texts]
        start = 0
        if not self._ascending_ended:
            start = next((i for i, (a, b) in enumerate(pairwise(ids)) if a >= b), len(image_texts))
            self._ascending_ended = start < len(image_texts)
        keys = [_walk_key(text) for text in ids[start:]]
        for position, (before, after) in enumerate(pairwise(keys), start):
            if before >= after:
                why = "ids must ascend, each once: first those of UUID version 4, then all others"
                raise _invalid(self._lines_read + 1 + position, why)
        self._last_id = ids[-1]

    def _parse_owners(self, text: bytes, ids: list[bytes], line: int) -> Iterator[tuple[int, int]]:
        """The (number, letter case) of each owner of the images ``ids``. ``line``: the last line
        with this text."""
        last = -1
        for item in text.decode("ascii").split(","):
            number, has_spelling, spelling = item.partition("=")
            if not _NUMBER.fullmatch(number) or not last < int(number) < len(self._locations):
                raise _invalid(
                    line, f"owners must be ascending numbers below {len(self._locations)}"
                )
            last = int(number)
            letter_case = letter_case_of(spelling) if has_spelling else 0
            if has_spelling and not (
                letter_case
                and all(format_id(image_id, letter_case) == spelling for image_id in ids)
            ):
                raise _invalid(line, "a spelling must be the id with some letters in upper case")
            yield last, letter_case

    def _no_checksum_error(self) -> InvalidExport:
        return _invalid(self._lines_read + 1, "there is no checksum where there must be one")

    def _raise_first_fault(self, text: bytes) -> None:
        """Raises InvalidExport for the first complete line that no block can contain, if any."""
        if not self._has_head:
            return
        for line, item in enumerate(text.split(b"\n")[:-1], self._lines_read + 1):
            if not _IMAGE_LINE.fullmatch(item):
                raise _invalid(line, "it must be an id in lower case and its owners' numbers")


def _check_first_line(start: bytes) -> None:
    if not FIRST_LINE.startswith(start):
        if start.startswith(FORMAT_NAME):
            raise _invalid(1, "it is an export of another format; this version reads 1")
        raise _invalid(1, "it is not an export of glance-resolver")
