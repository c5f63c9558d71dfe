"""The text form of an index: written by an export, read by an import.

``docs/export-format.md`` describes it. Nothing here knows of HTTP or Redis; both sides hold one
block of lines at a time.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
from binascii import unhexlify
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from resolver.errors import InvalidLocation, InvalidRequest
from resolver.index import decode_owners
from resolver.models import Location, format_id, letter_case_of
from resolver.registry.validation import FIELDS, parse_location

NAME = b"glance-resolver-index "
FIRST = NAME + b"1\n"

BLOCK = 1024
"""Claims after which a block is closed with its checksum: some 2 ms of reading and claiming."""

MAX_BLOCK = 2 * 1024 * 1024
"""Bytes of a block that a reader waits for. The largest that is written has `BLOCK` claims and one
more image, which takes as much from 40,000 locations on, each with a spelling of its own."""

MAX_HEAD = 16 * 1024 * 1024
"""Bytes before the first checksum; ten thousand locations take two million."""

KEPT = 4096
"""Owners kept as text, since most images have the same few."""

_SEAL = re.compile(rb"^(sum|end|error) (.*)\n", re.MULTILINE)
_LOCATION = re.compile(rb"location ([0-9]+) (\{.*\})")
_ID = rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_IMAGE = re.compile(rb"^(%b) ([0-9A-Fa-f,=-]+)$" % _ID, re.MULTILINE)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,6}", re.ASCII)


class BadDump(InvalidRequest):
    """What was read is no whole export, as it was written."""

    code, title = "invalid-export", "Not a whole export"


def _bad(line: int, why: str) -> BadDump:
    return BadDump(f"line {line}: {why}", extra={"line": line})


def fields_of(location: Location) -> dict[str, Any]:
    """What ``PUT /locations/{name}`` takes to make this location, and its name."""
    return {"name": location.name, **{field: getattr(location, field) for field in FIELDS}}


class Writer:
    """Makes the text. Numbers in it count the locations given from 0."""

    def __init__(self, locations: Iterable[Location]) -> None:
        self._locations = list(locations)
        self._local = {location.number: i for i, location in enumerate(self._locations)}
        self._hash = hashlib.sha256()
        self._kept: dict[bytes, tuple[str, int]] = {}
        self._open = 0
        """Claims since the last checksum."""
        self.images = self.claims = 0

    def head(self) -> bytes:
        """What comes first."""
        lines = [FIRST.decode()]
        for i, location in enumerate(self._locations):
            lines.append(f"location {i} {json.dumps(fields_of(location))}\n")
        return self._add(lines) + self._sum()

    def add(self, rows: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Lines for images: each an id, in ascending order, and its owners as the index has them.

        Owners that are none of the locations are left out, and images that then have none.
        """
        out: list[bytes] = []
        lines: list[str] = []
        kept = self._kept
        for image_id, value in rows:
            text, count = kept.get(value) or self._owners(value, image_id)
            if not count:
                continue
            h = image_id.hex()
            lines.append(f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]} {text}\n")
            self.images += 1
            self.claims += count
            self._open += count
            if self._open >= BLOCK:
                out += (self._add(lines), self._sum())
                lines = []
        out.append(self._add(lines))
        return b"".join(out)

    def end(self) -> bytes:
        """What comes last."""
        return f"end {self.images} {self.claims} sha256={self._hash.hexdigest()}\n".encode()

    @staticmethod
    def error(why: str) -> bytes:
        """What comes instead of the end when there is no going on."""
        return f"error {' '.join(why.split())}\n".encode("ascii", "backslashreplace")

    def _add(self, lines: Iterable[str]) -> bytes:
        text = "".join(lines).encode("ascii")
        self._hash.update(text)
        return text

    def _sum(self) -> bytes:
        self._open = 0
        return self._add([f"sum sha256={self._hash.hexdigest()}\n"])

    def _owners(self, value: bytes, image_id: bytes) -> tuple[str, int]:
        """The owners of an image as text, and how many they are."""
        local = self._local
        owners = sorted(
            (local[n], letter_case) for n, letter_case in decode_owners(value) if n in local
        )
        made = (
            ",".join(
                f"{n}={format_id(image_id, letter_case)}" if letter_case else str(n)
                for n, letter_case in owners
            ),
            len(owners),
        )
        if not any(letter_case for _, letter_case in owners):  # else it is for this image only
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[value] = made
        return made


@dataclass(frozen=True, slots=True)
class Head:
    """The locations of an export, in order of their numbers in it."""

    locations: Sequence[Location]


@dataclass(frozen=True, slots=True)
class Block:
    """Some images: for each location, by its number in the export, ids and their letter case."""

    owned: dict[int, dict[bytes, int]]
    images: int
    claims: int


class Reader:
    """Reads the text, in whatever pieces it comes. What it gives was checked against its checksum,
    so nothing that was changed or cut on the way is ever given."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._hash = hashlib.sha256()
        self._line = 0
        """Lines read so far."""
        self._locations = 0
        self._last = b""
        self._ended = False
        self.images = self.claims = 0

    def feed(self, data: bytes) -> Iterator[Head | Block]:
        """What this piece completes: the head first, then blocks.

        Raises:
            BadDump: with the line that is wrong.
        """
        buffer = self._buffer
        buffer += data
        while buffer:
            if self._ended:
                raise _bad(self._line + 1, "something follows the last line")
            if not self._line:
                _check_first(bytes(buffer[: len(FIRST)]))
            seal = _SEAL.search(buffer, self._searched) if b"\n" in data else None
            if seal is None:
                self._searched = buffer.rfind(b"\n") + 1
                if len(buffer) > (MAX_BLOCK if self._line else MAX_HEAD):
                    raise self._first_bad(bytes(buffer)) or _bad(
                        self._line + 1, "no checksum follows where one must be"
                    )
                return
            text, kind, rest, whole = bytes(buffer[: seal.start()]), seal[1], seal[2], seal[0]
            del seal, buffer[: len(text) + len(whole)]
            self._searched = 0
            yield self._sealed(text, kind, rest, whole)

    def close(self) -> None:
        """There is no more.

        Raises:
            BadDump: there had to be.
        """
        if not self._ended:
            text = bytes(self._buffer)
            line = self._line + text.count(b"\n") + 1
            raise self._first_bad(text) or _bad(line, "the file ends before its last line")

    def _sealed(self, text: bytes, kind: bytes, rest: bytes, whole: bytes) -> Head | Block:
        line = self._line + text.count(b"\n") + 1
        if kind == b"error":
            raise _bad(line, f"the export stopped here: {rest.decode('ascii', 'replace')[:500]}")
        made = self._block(text) if self._line else self._head(text)
        self._hash.update(text)
        wanted = f"sha256={self._hash.hexdigest()}"
        if rest[-len(wanted) :] != wanted.encode():
            raise _bad(line, f"checksum: something in lines {self._line + 1} to {line} was changed")
        if kind == b"end":
            wanted = f"{self.images} {self.claims} {wanted}"
            self._ended = True
        if rest != wanted.encode():
            raise _bad(line, f"it must be `{kind.decode()} {wanted}`")
        self._hash.update(whole)
        self._line = line
        return made

    def _head(self, text: bytes) -> Head:
        locations: dict[str, Location] = {}
        for line, item in enumerate(text.split(b"\n")[1:-1], 2):
            match = _LOCATION.fullmatch(item)
            if match is None or match[1] != b"%d" % len(locations):
                raise _bad(line, f"it must be `location {len(locations)} {{…}}`")
            try:
                fields = json.loads(match[2])
                location = parse_location(str(fields.get("name", "")), fields)
            except (ValueError, RecursionError) as error:
                raise _bad(line, "the location is not JSON") from error
            except InvalidLocation as error:
                raise _bad(line, error.detail) from error
            if location.name in locations:
                raise _bad(line, f"location {location.name!r} is there twice")
            locations[location.name] = location
        self._locations = len(locations)
        return Head(list(locations.values()))

    def _block(self, text: bytes) -> Block:
        found = _IMAGE.findall(text)
        if len(found) != text.count(b"\n"):
            raise self._first_bad(text) or _bad(self._line + 1, "it is no whole line")
        if not found:
            return Block({}, 0, 0)
        ids = [self._last, *(one for one, _ in found)]
        if not all(map(operator.lt, ids, islice(ids, 1, None))):
            at = next(i for i in range(len(found)) if ids[i] >= ids[i + 1])
            raise _bad(self._line + 1 + at, "ids must ascend, each once")
        self._last = ids[-1]
        image_ids = unhexlify(b"".join(ids[1:]).replace(b"-", b""))
        groups: dict[bytes, list[int]] = {}
        for at, (_, owners) in enumerate(found):
            groups.setdefault(owners, []).append(at)
        owned: dict[int, dict[bytes, int]] = {}
        claims = 0
        for owners, views in groups.items():
            some = [image_ids[16 * at : 16 * at + 16] for at in views]
            for number, letter_case in self._owners(owners, some, self._line + 1 + views[-1]):
                owned.setdefault(number, {}).update(dict.fromkeys(some, letter_case))
                claims += len(some)
        self.images += len(found)
        self.claims += claims
        return Block(owned, len(found), claims)

    def _owners(self, text: bytes, ids: list[bytes], line: int) -> Iterator[tuple[int, int]]:
        """(number, letter case) of each owner; ``line`` is the last that has these owners."""
        last = -1
        for piece in text.decode("ascii").split(","):
            number, spelt, spelling = piece.partition("=")
            if not _NUMBER.fullmatch(number) or not last < int(number) < self._locations:
                raise _bad(line, f"owners must be ascending numbers below {self._locations}")
            last = int(number)
            letter_case = letter_case_of(spelling) if spelt else 0
            if spelt and not (
                letter_case
                and all(format_id(image_id, letter_case) == spelling for image_id in ids)
            ):
                raise _bad(line, "a spelling must be the id with some letters in upper case")
            yield last, letter_case

    def _first_bad(self, text: bytes) -> BadDump | None:
        """The first whole line of a block that no block has; None where all could be."""
        if not self._line:
            return None
        for line, item in enumerate(text.split(b"\n")[:-1], self._line + 1):
            if not _IMAGE.fullmatch(item):
                return _bad(line, "it must be an id in lower case and its owners' numbers")
        return None


def _check_first(start: bytes) -> None:
    if not FIRST.startswith(start):
        if start.startswith(NAME):
            raise _bad(1, "it is an export of another format; this version reads 1")
        raise _bad(1, "it is no export of glance-resolver")
