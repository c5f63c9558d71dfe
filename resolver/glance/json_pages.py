"""Reads a page of a listing, or an image's record, part by part, and gives other tasks turns in
between.

Python's JSON decoder holds the interpreter until it has read a whole document, in a thread too: a
page in which a hostile server packs some millions of values would hold up all clients for seconds.
Here the decoder gets a window of the text, with some tens of rows. A row that is longer than the
window is read member by member, and so are the lists and objects in it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Container, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from resolver.errors import LocationUnavailable
from resolver.turns import in_turns

ROWS = "images"
"""The member of a listing's document that has its rows."""

NEXT = "next"
"""The member that has the link to the next page."""

WINDOW_BYTES = 32 * 1024
"""Bytes decoded at a time: some tens of rows."""

MAX_TEXT_BYTES = 400 * 1024
"""Bytes of one text. A property has up to 64 KiB, and JSON may write six bytes for each."""

MAX_VALUE_BYTES = 128 * 1024
"""Bytes of any other value that is decoded as a whole, which takes up to 4 ms."""

MAX_ITEMS = 10_000
"""Members of a long row, and items of a long list or object in it. To free more takes long."""

MAX_SPACES = 4096
"""White space that may follow the document, in bytes."""

_SPACE = re.compile(r"[ \t\n\r]*")


def _refuse_constant(name: str) -> NoReturn:
    """NaN and infinities are not JSON (RFC 8259, 6), but Python's decoder takes them, and rows are
    sent on as text."""
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_decode = _DECODER.raw_decode

T = TypeVar("T")

Read = Callable[[str, int], tuple[T, int]]
"""Reads something at a position of a text; returns it and the position behind it. It raises
JSONDecodeError or IndexError where it may need more text."""

Keep = Callable[[str, Any, str], None]
"""Gets the name of a member (empty for an item of a list), its value, and its text. A long list or
object has None for a value."""


@dataclass(frozen=True, slots=True)
class RowReading(Generic[T]):
    """How rows are read."""

    make: Callable[[Any, str], T]
    """Makes a row of its value and its text."""
    kept: Container[str]
    """The members that a long row still has in its value."""
    text_without: str | None = None
    """Its text lacks the member of this name. None: there is no text of a long row."""


@dataclass(slots=True)
class JsonPage(Generic[T]):
    """What was read of a listing's document."""

    rows: list[T] = field(default_factory=list)
    has_rows: bool = False
    """Whether there is a list of rows, which may be empty."""
    is_cut: bool = False
    """Whether there are more rows. Neither they nor the members behind them were read."""
    has_next: bool = False
    """Whether there is a link to the next page, or something in its place."""
    next: str = ""
    """That link; empty where it is not a text."""


async def read_page(body: bytes | bytearray, max_rows: int, reading: RowReading[T]) -> JsonPage[T]:
    """Reads a document, up to its row number ``max_rows``.

    Raises:
        ValueError, RecursionError: the body is not JSON, or not an object.
        LocationUnavailable: a value in it is too large.
        Exception: whatever the making of a row raises.
    """
    page: JsonPage[T] = JsonPage()
    async for _ in in_turns(_read_parts(_Window(body), page, max_rows, reading)):
        pass
    return page


async def read_row(body: bytes | bytearray, reading: RowReading[T]) -> T:
    """Reads a document that is one row. Raises as `read_page`."""
    if len(body) <= WINDOW_BYTES:
        text = body.decode("utf-8-sig").strip()
        return reading.make(_DECODER.decode(text), text)
    window, rows = _Window(body), list[T]()
    async for _ in in_turns(_read_long_row(window, reading, rows)):
        pass
    window.check_end()
    return rows[0]


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
        self._load()

    def read(self, read: Read[T]) -> T:
        """What is read at the position, which moves behind it.

        Raises:
            ValueError: the document ends early, or is not JSON.
            LocationUnavailable: a value is too large.
        """
        while (found := self.read_short(read)) is None:
            self._enlarge()
        return found[0]

    def read_short(self, read: Read[T]) -> tuple[T] | None:
        """The same, for what may be longer than the window: None where it is.

        Raises:
            ValueError: as `read`.
        """
        while True:
            try:
                value, position = read(self._text, self._position)
            except (json.JSONDecodeError, IndexError):
                if self._end == len(self._body):
                    raise ValueError("the document ends early, or is not JSON") from None
                if not self._position:
                    return None
                self._move()
                continue
            self._position = position
            if self._size > WINDOW_BYTES:  # else what follows would be decoded twice
                self._move()
            return (value,)

    def is_at(self, characters: str) -> bool:
        """Whether one of these is the next character. It is in the window."""
        return self._text[self._position] in characters

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
        """Moves the window to its position."""
        self._start += len(self._text[: self._position].encode())
        self._size = WINDOW_BYTES
        self._load()

    def _enlarge(self) -> None:
        """Enlarges the window to the longest value that may begin where it does."""
        largest = MAX_TEXT_BYTES if self.is_at('"') else MAX_VALUE_BYTES
        if self._size >= largest:
            raise _too_large()
        self._size = largest
        self._load()


def _too_large() -> LocationUnavailable:
    return LocationUnavailable("a value in its answer is too large, or not JSON", code="too-long")


class _Container(NamedTuple):
    """Objects, or lists."""

    opening: str
    closing: str

    def read_opening(self, text: str, position: int) -> tuple[None, int]:
        return None, _after(text, _skip(text, position), self.opening)

    def read_end(self, text: str, position: int) -> tuple[bool, int]:
        """Whether the container ends here."""
        is_end = text[position] == self.closing
        return is_end, position + is_end

    def read_item(self, text: str, position: int) -> tuple[tuple[Any, str], int]:
        """An item, or the value of a member, and its text. It ends at the next one."""
        value, end = _decode(text, position)
        # As Glance writes rows; anything else takes longer.
        behind = end + 2 if text.startswith(", {", end) else self.read_comma(text, end)[1]
        return (value, text[position:end]), behind

    def read_comma(self, text: str, position: int) -> tuple[None, int]:
        """What is between two items, or before the end."""
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
            if text[position] == self.closing:
                raise ValueError("an item is missing")
        elif text[position] != self.closing:
            raise ValueError("no comma")
        return None, position


_OBJECT, _LIST = _Container("{", "}"), _Container("[", "]")


def _read_parts(
    window: _Window, page: JsonPage[T], max_rows: int, reading: RowReading[T]
) -> Iterator[None]:
    """Reads the document into ``page``, a part each time."""
    window.read(_OBJECT.read_opening)
    while not window.read(_OBJECT.read_end):
        name = window.read(_read_name)
        if name == ROWS and window.is_at("["):
            page.has_rows = True
            yield from _read_rows(window, page, max_rows, reading)
            if page.is_cut:
                return
            window.read(_OBJECT.read_comma)
        else:
            value, _ = window.read(_OBJECT.read_item)
            if name == NEXT:
                page.has_next, page.next = True, value if isinstance(value, str) else ""
        yield
    window.check_end()


def _read_rows(
    window: _Window, page: JsonPage[T], max_rows: int, reading: RowReading[T]
) -> Iterator[None]:
    """Reads the list of rows into ``page``."""
    window.read(_LIST.read_opening)
    while not window.is_at("]"):
        if len(page.rows) == max_rows:
            page.is_cut = True
            return
        found = window.read_short(_LIST.read_item)
        if found is not None or not window.is_at("{"):
            value = found[0] if found is not None else window.read(_LIST.read_item)
            page.rows.append(reading.make(*value))
        else:
            yield from _read_long_row(window, reading, page.rows)
            window.read(_LIST.read_comma)
        yield
    window.read(_LIST.read_end)


def _read_long_row(window: _Window, reading: RowReading[T], rows: list[T]) -> Iterator[None]:
    """Reads a row member by member into ``rows``."""
    row: dict[str, Any] = {}
    texts: list[str] = []

    def keep(name: str, value: Any, text: str) -> None:
        if name in reading.kept:
            row[name] = value
        if reading.text_without not in (None, name):
            texts.append(f"{json.dumps(name)}: {text}")

    yield from _read_items(window, _OBJECT, keep)
    text = "" if reading.text_without is None else f"{{{', '.join(texts)}}}"
    rows.append(reading.make(row, text))


def _read_items(
    window: _Window, container: _Container, keep: Keep, *, may_nest: bool = True
) -> Iterator[None]:
    """Reads an object or a list. ``may_nest``: those in it may be long, too."""
    window.read(container.read_opening)
    count = 0
    while not window.read(container.read_end):
        if (count := count + 1) > MAX_ITEMS:
            raise _too_large()
        name = window.read(_read_name) if container is _OBJECT else ""
        found = window.read_short(container.read_item)
        if found is None and may_nest and window.is_at("[{"):
            keep(name, None, (yield from _read_nested(window)))
            window.read(container.read_comma)
        else:
            keep(name, *(found[0] if found is not None else window.read(container.read_item)))
        yield


def _read_nested(window: _Window) -> Generator[None, None, str]:
    """Reads a list or an object in a row item by item, and returns its text."""
    container = _LIST if window.is_at("[") else _OBJECT
    texts: list[str] = []

    def keep(name: str, _value: Any, text: str) -> None:
        texts.append(text if container is _LIST else f"{json.dumps(name)}: {text}")

    yield from _read_items(window, container, keep, may_nest=False)
    return f"{container.opening}{', '.join(texts)}{container.closing}"


def _read_name(text: str, position: int) -> tuple[str, int]:
    """The name of a member. It ends at the value."""
    if text[position] != '"':
        raise ValueError("no name")
    name, position = _decode(text, position)
    return name, _after(text, _skip(text, position), ":")


def _after(text: str, position: int, expected: str) -> int:
    """The position behind a character and the white space that follows it. Something must follow
    that."""
    if text[position] != expected:
        raise ValueError(expected)
    position = _skip(text, position + 1)
    if position == len(text):
        raise IndexError
    return position


def _skip(text: str, position: int) -> int:
    """The position behind white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position
