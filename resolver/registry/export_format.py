"""The text form of an index, as an export writes it and an import reads it.

``docs/export-format.md`` describes it. Nothing in this module knows HTTP or Redis. Writer and
reader keep one block of lines in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from binascii import unhexlify
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from resolver.errors import InvalidLocation, InvalidRequest
from resolver.index import lookup_owners, summarize, walk_key
from resolver.models import Location, format_id, letter_case_of
from resolver.registry.presentation import fields_of
from resolver.registry.validation import parse_location

FORMAT_NAME = b"glance-resolver-index "
FIRST_LINE = FORMAT_NAME + b"1\n"

BLOCK_CLAIMS = 1024
"""Claims after which a block ends with its checksum. Reading and claiming one takes some 2 ms."""

MAX_BLOCK_BYTES = 2 * 1024 * 1024
"""Bytes of a block that a reader buffers. The longest block that a writer makes has `BLOCK_CLAIMS`
claims and one more image. It reaches this size with 40,000 locations, each with its own spelling of
the id."""

MAX_HEAD_BYTES = 16 * 1024 * 1024
"""Bytes before the first checksum that a reader buffers. Ten thousand locations take 2 MB."""

MAX_CACHED_OWNERS = 4096
"""Owners whose text a writer caches: most images have one of few sets of owners."""

_CHECKSUM_LINE = re.compile(rb"^(sum|end|error) (.*)\n", re.MULTILINE)
_LOCATION_LINE = re.compile(rb"location ([0-9]+) (\{.*\})")
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
        """Bytes of the buffer that are known to contain no checksum line."""
        self._hash = hashlib.sha256()
        self._lines_read = 0
        self._location_count = 0
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
            end = _CHECKSUM_LINE.search(buffer, self._searched) if b"\n" in data else None
            if end is None:
                self._searched = buffer.rfind(b"\n") + 1
                if len(buffer) > (MAX_BLOCK_BYTES if self._lines_read else MAX_HEAD_BYTES):
                    self._raise_first_fault(bytes(buffer))
                    raise _invalid(
                        self._lines_read + 1, "there is no checksum where there must be one"
                    )
                return
            text, kind, value, line = bytes(buffer[: end.start()]), end[1], end[2], end[0]
            del end, buffer[: len(text) + len(line)]
            self._searched = 0
            yield self._checked(text, kind, value, line)

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

    def _checked(self, text: bytes, kind: bytes, value: bytes, end_line: bytes) -> Head | Block:
        """The part in ``text``. ``end_line``: its checksum line, of this ``kind`` and ``value``."""
        line = self._lines_read + text.count(b"\n") + 1
        if kind == b"error":
            why = value.decode("ascii", "replace")[:500]
            raise _invalid(line, f"the export stopped here: {why}")
        part = self._parse_block(text) if self._lines_read else self._parse_head(text)
        self._hash.update(text)
        expected = f"sha256={self._hash.hexdigest()}"
        if value[-len(expected) :] != expected.encode():
            raise _invalid(
                line, f"checksum: something in lines {self._lines_read + 1} to {line} was changed"
            )
        if kind == b"end":
            expected = f"{self.images} {self.claims} {expected}"
            self._ended = True
        if value != expected.encode():
            raise _invalid(line, f"it must be `{kind.decode()} {expected}`")
        self._hash.update(end_line)
        self._lines_read = line
        return part

    def _parse_head(self, text: bytes) -> Head:
        locations: dict[str, Location] = {}
        fields_of_locations: list[dict[str, Any]] = []
        for line, item in enumerate(text.split(b"\n")[1:-1], 2):
            match = _LOCATION_LINE.fullmatch(item)
            if match is None or match[1] != b"%d" % len(locations):
                raise _invalid(line, f"it must be `location {len(locations)} {{…}}`")
            try:
                fields = json.loads(match[2])
                name = str(fields.pop("name", ""))
                location = parse_location(name, fields)
            except (ValueError, RecursionError) as error:
                raise _invalid(line, "the location is not JSON") from error
            except InvalidLocation as error:
                raise _invalid(line, error.detail) from error
            if location.name in locations:
                raise _invalid(line, f"location {location.name!r} is given twice")
            locations[location.name] = location
            fields_of_locations.append(fields)
        self._location_count = len(locations)
        return Head(list(locations.values()), fields_of_locations)

    def _parse_block(self, text: bytes) -> Block:
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
            if not _NUMBER.fullmatch(number) or not last < int(number) < self._location_count:
                raise _invalid(
                    line, f"owners must be ascending numbers below {self._location_count}"
                )
            last = int(number)
            letter_case = letter_case_of(spelling) if has_spelling else 0
            if has_spelling and not (
                letter_case
                and all(format_id(image_id, letter_case) == spelling for image_id in ids)
            ):
                raise _invalid(line, "a spelling must be the id with some letters in upper case")
            yield last, letter_case

    def _raise_first_fault(self, text: bytes) -> None:
        """Raises InvalidExport for the first complete line that no block can contain, if any."""
        if not self._lines_read:
            return
        for line, item in enumerate(text.split(b"\n")[:-1], self._lines_read + 1):
            if not _IMAGE_LINE.fullmatch(item):
                raise _invalid(line, "it must be an id in lower case and its owners' numbers")


def _check_first_line(start: bytes) -> None:
    if not FIRST_LINE.startswith(start):
        if start.startswith(FORMAT_NAME):
            raise _invalid(1, "it is an export of another format; this version reads 1")
        raise _invalid(1, "it is no export of glance-resolver")
