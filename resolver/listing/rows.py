"""The rows of one page, each kept as the text that its owner wrote.

Python's own JSON decoder says where each row ends, so a row is decoded to read its sort keys and
passed on unchanged. (msgspec, which can leave rows undecoded, saved 1.3 ms of a page of 25 from 20
locations: not enough for a dependency.)
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from resolver.errors import LocationUnavailable
from resolver.listing.sort_order import SortOrder, Values

LOCATIONS_PROPERTY = "resolver_locations"
"""Names the locations that have the image, best first, separated by commas."""

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class Row(NamedTuple):
    """An image as one location lists it."""

    image: str
    """The id in lower case: what is the same image elsewhere."""
    id: str
    """The id as the location spells it."""
    values: Values
    """Of the sort keys: its place in the order."""
    is_usable: bool
    """Whether its bytes can be downloaded there."""
    text: str
    """The row as JSON, without `LOCATIONS_PROPERTY`."""

    def with_locations(self, names: str) -> str:
        """The row's text, with the locations added as its last member."""
        return f"{self.text[:-1]}, {json.dumps(LOCATIONS_PROPERTY)}: {json.dumps(names)}}}"


class RowPage(NamedTuple):
    """What a location answered."""

    rows: list[Row]
    has_next: bool
    """Whether the location says that there is more."""


def parse_page(body: bytes, order: SortOrder) -> RowPage:
    """The page in a location's answer.

    Raises:
        LocationUnavailable: it is not a page of a Glance listing.
    """
    rows: list[Row] = []
    try:
        text = body.decode()
        members = _members(text, rows, order)
    except (ValueError, IndexError, TypeError, KeyError, RecursionError) as error:
        raise LocationUnavailable(
            "its listing cannot be read: it is not the JSON that Glance writes", code="junk"
        ) from error
    return RowPage(rows, isinstance(members.get("next"), str))


def parse_record(body: bytes, order: SortOrder) -> Row:
    """The row in a location's answer about one image.

    Raises:
        LocationUnavailable: it is not an image's record.
    """
    try:
        text = body.decode().strip()
        return _row(json.loads(text), text, order)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LocationUnavailable("its record of an image cannot be read", code="junk") from error


def _members(text: str, rows: list[Row], order: SortOrder) -> dict[str, Any]:
    """The members of the document but for its rows, which are added to ``rows``.

    Raises:
        ValueError, IndexError, TypeError, KeyError, RecursionError: it is not such a document.
    """
    members: dict[str, Any] = {}
    position = _after(text, 0, "{")
    while text[position] != "}":
        name, position = _decode(text, position)
        position = _after(text, _skip(text, position), ":")
        if name == "images" and text[position] == "[":
            members[name] = True
            position = _read_rows(text, position + 1, rows, order)
        else:
            members[name], position = _decode(text, position)
        position = _after_item(text, position, "}")
    if _skip(text, position + 1) != len(text) or members.get("images") is not True:
        raise ValueError
    return members


def _read_rows(text: str, position: int, rows: list[Row], order: SortOrder) -> int:
    """Reads the rows behind a ``[``; returns the position behind their ``]``."""
    position = _skip(text, position)
    while text[position] != "]":
        row, end = _decode(text, position)
        rows.append(_row(row, text[position:end], order))
        # As Glance writes it; anything else takes longer.
        position = end + 2 if text.startswith(", {", end) else _after_item(text, end, "]")
    return position + 1


def _row(row: Any, text: str, order: SortOrder) -> Row:
    if not isinstance(row, dict):
        raise TypeError("a row is no object")
    image_id, status = row["id"], row.get("status")
    values = order.values_of(row)
    if LOCATIONS_PROPERTY in row:
        del row[LOCATIONS_PROPERTY]
        text = json.dumps(row, ensure_ascii=False)
    return Row(image_id.lower(), image_id, values, status in (None, "active"), text)


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
    position = _skip(text, position)
    if text[position] != expected:
        raise ValueError(expected)
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    """The position behind white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position
