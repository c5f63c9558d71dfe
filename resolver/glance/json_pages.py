"""Reads a page of a listing row by row, and gives other tasks turns in between.

Python's JSON decoder holds the interpreter until it has read a whole document, in a thread too: a
page in which a hostile server packs some millions of values would hold up all clients for seconds.
Here the decoder gets a window of the text, with some tens of rows.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from resolver.errors import LocationUnavailable
from resolver.turns import in_turns

ROWS = "images"
"""The member of a listing's document that has its rows."""

WINDOW_BYTES = 32 * 1024
"""Bytes decoded at a time: some tens of rows."""

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""Bytes of a row or of another member. Glance allows an image 128 properties of 64 KiB."""

MAX_VALUES = 10_000
"""JSON values in a row or a record, which are read in some milliseconds. Each begins behind one of
``,[{`` outside of strings, but for the first."""

MAX_SPACES = 4096
"""White space that may follow the document, in bytes."""

_TOKEN = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[,\[{]'
"""A string, whose end may be missing; or what is in front of a value. Possessive quantifiers
remember nothing of a megabyte of escapes, which would take six times as long."""
_TOKENS = re.compile(_TOKEN, re.DOTALL)
_BYTE_TOKENS = re.compile(_TOKEN.encode(), re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode

T = TypeVar("T")

MakeRow = Callable[[Any, str], T]
"""Makes a row of its value and its text."""


@dataclass(slots=True)
class JsonPage(Generic[T]):
    """What was read of a listing's document."""

    rows: list[T] = field(default_factory=list)
    has_rows: bool = False
    """Whether there is a list of rows, which may be empty."""
    is_cut: bool = False
    """Whether there are more rows. Neither they nor the members behind them were read."""
    members: dict[str, Any] = field(default_factory=dict)
    """The other members of the document, by name."""


def has_many_values(text: str | bytes | bytearray) -> bool:
    """Whether a text may have more than `MAX_VALUES` JSON values."""
    return _end_of_values(text) is not None


def _end_of_values(text: str | bytes | bytearray) -> int | None:
    """The position behind the first `MAX_VALUES` values; None where there are no more."""
    tokens: Iterator[re.Match[str]] | Iterator[re.Match[bytes]]
    if isinstance(text, str):
        if sum(map(text.count, ",[{")) <= MAX_VALUES:
            return None
        tokens = _TOKENS.finditer(text)
    else:
        if sum(map(text.count, (b",", b"[", b"{"))) <= MAX_VALUES:
            return None
        tokens = _BYTE_TOKENS.finditer(text)
    values = strings = 0
    for token in tokens:
        if token[0][:1] in ('"', b'"'):
            strings += 1
        else:
            values += 1
        if values > MAX_VALUES or strings > 2 * MAX_VALUES:  # of a value and its name
            return token.start()
    return None


async def read_page(body: bytes | bytearray, max_rows: int, make: MakeRow[T]) -> JsonPage[T]:
    """Reads a document, up to its row number ``max_rows``.

    Raises:
        ValueError, RecursionError: the body is not JSON, or no object.
        LocationUnavailable: a value in it is too large.
        Exception: whatever ``make`` raises.
    """
    page: JsonPage[T] = JsonPage()
    async for _ in in_turns(_read_parts(_Window(body), page, max_rows, make)):
        pass
    return page


class _Window:
    """The part of a body that is being read, as text."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._body = memoryview(body)
        self._start = len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
        self._end = 0
        """Of the window in the body."""
        self._size = WINDOW_BYTES
        self._text = ""
        self._position = 0
        """How far the text is read."""
        self._is_cut = False
        """Whether the text ends where it has as many values as one row may have."""
        self._load()

    def read(self, read: Callable[[str, int], tuple[T, int]]) -> T:
        """Calls a function with the text and the position, and moves to the position that it
        returns with its value. The function raises JSONDecodeError or IndexError where it may need
        more text; then it is called again, as long as there is more.

        Raises:
            ValueError: the document ends early, or is not JSON.
            LocationUnavailable: a value is too large.
        """
        while True:
            try:
                value, position = read(self._text, self._position)
            except (json.JSONDecodeError, IndexError):
                self._move()
                continue
            self._position = position
            return value

    def check_end(self) -> None:
        """Raises ValueError where anything but white space follows."""
        rest = self._text[self._position :].encode() + self._body[self._end :][:MAX_SPACES]
        if len(self._body) - self._end > MAX_SPACES or rest.strip(b" \t\r\n"):
            raise ValueError("something follows the document")

    def _load(self) -> None:
        end = min(self._start + self._size, len(self._body))
        is_last = end == len(self._body)
        self._text, used = codecs.utf_8_decode(self._body[self._start : end], "strict", is_last)
        self._end = self._start + used
        self._position = 0

    def _move(self) -> None:
        """Moves the window to its position, and enlarges it where it is there already."""
        if self._end == len(self._body):
            raise ValueError("the document ends early, or is not JSON")
        if self._position:
            self._start += len(self._text[: self._position].encode())
            self._size = WINDOW_BYTES
        elif self._size < MAX_VALUE_BYTES and not self._is_cut:
            self._size = min(self._size * 8, MAX_VALUE_BYTES)
        else:
            raise LocationUnavailable(
                "a row of its listing is too large, or not JSON", code="too-long"
            )
        self._load()
        end = _end_of_values(self._text) if self._size > WINDOW_BYTES else None
        self._is_cut = end is not None
        if end is not None:
            self._text = self._text[:end]
            self._end = self._start + len(self._text.encode())


def _read_parts(
    window: _Window, page: JsonPage[T], max_rows: int, make: MakeRow[T]
) -> Iterator[None]:
    """Reads the document into ``page``, a part each time."""
    window.read(_read_opening)
    while (name := window.read(_read_name)) is not None:
        if name == ROWS and window.read(_read_list_opening):
            page.has_rows = True
            while (row := window.read(_read_row)) is not None:
                if len(page.rows) == max_rows:
                    page.is_cut = True
                    return
                page.rows.append(make(*row))
                yield
        else:
            page.members[name] = window.read(_read_value)
        yield
    window.check_end()


def _read_opening(text: str, position: int) -> tuple[None, int]:
    return None, _after(text, _skip(text, position), "{")


def _read_name(text: str, position: int) -> tuple[str | None, int]:
    """The name of a member and the position of its value; None at the end of the document."""
    if text[position] == "}":
        return None, position + 1
    if text[position] != '"':
        raise ValueError("no name")
    name, position = _decode(text, position)
    return name, _after(text, _skip(text, position), ":")


def _read_value(text: str, position: int) -> tuple[Any, int]:
    value, position = _decode(text, position)
    return value, _after_item(text, position, "}")


def _read_list_opening(text: str, position: int) -> tuple[bool, int]:
    if text[position] != "[":
        return False, position
    return True, _skip(text, position + 1)


def _read_row(text: str, position: int) -> tuple[tuple[Any, str] | None, int]:
    """A row and its text; None behind the last one."""
    if text[position] == "]":
        return None, _after_item(text, position + 1, "}")
    row, end = _decode(text, position)
    # As Glance writes it; anything else takes longer.
    behind = end + 2 if text.startswith(", {", end) else _after_item(text, end, "]")
    return (row, text[position:end]), behind


def _after_item(text: str, position: int, closing: str) -> int:
    """The position of the next item, or of ``closing``."""
    position = _skip(text, position)
    if text[position] == ",":
        position = _skip(text, position + 1)
        if text[position] == closing:
            raise ValueError("an item is missing")
    elif text[position] != closing:
        raise ValueError("no comma")
    return position


def _after(text: str, position: int, expected: str) -> int:
    """The position behind a character and the white space that follows it."""
    if text[position] != expected:
        raise ValueError(expected)
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    """The position behind white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position
