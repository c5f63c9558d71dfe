"""The rows of one page, each kept as the text that its owner wrote.

A row is decoded to read its sort keys, and passed on unchanged. (msgspec, which can leave rows
undecoded, saved 1.3 ms of a page of 25 from 20 locations: not enough for a dependency.)
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from resolver.errors import LocationUnavailable
from resolver.glance.json_pages import RowReading, read_page, read_row
from resolver.image_facts import ImageStatus, status_of
from resolver.listing.sort_order import SortOrder, Values

LOCATIONS_PROPERTY = "resolver_locations"
"""Names the locations that have the image, best first, separated by commas."""


class Row(NamedTuple):
    """An image as one location lists it."""

    image: str
    """The id in lower case: what is the same image elsewhere."""
    id: str
    """The id as the location spells it."""
    values: Values
    """Of the sort keys: its place in the order."""
    status: ImageStatus | None
    """As `resolver.image_facts.status_of` reads it."""
    glance_status: str | None
    """As the location has it."""
    name: str | None
    text: str
    """The row as JSON, without `LOCATIONS_PROPERTY`."""

    def with_locations(self, names: str) -> str:
        """The row's text, with the locations added as its last member."""
        return f'{self.text[:-1]}, "{LOCATIONS_PROPERTY}": {json.dumps(names)}}}'


class RowPage(NamedTuple):
    """What a location answered."""

    rows: list[Row]
    has_next: bool
    """Whether the location says that there is more."""


async def parse_page(body: bytes | bytearray, order: SortOrder, limit: int) -> RowPage:
    """The page in a location's answer, of which no more than ``limit`` rows are read.

    Raises:
        LocationUnavailable: it is not a page of a Glance listing.
    """
    unreadable = LocationUnavailable(
        "its listing cannot be read: it is not the JSON that Glance writes", code="junk"
    )
    try:
        page = await read_page(body, limit, _reading(order))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise unreadable from error
    if not page.has_rows:
        raise unreadable
    return RowPage(page.rows, page.is_cut or bool(page.next))


async def parse_record(body: bytes | bytearray, order: SortOrder) -> Row:
    """The row in a location's answer about one image.

    Raises:
        LocationUnavailable: it is not an image's record.
    """
    try:
        return await read_row(body, _reading(order))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LocationUnavailable("its record of an image cannot be read", code="junk") from error


def _reading(order: SortOrder) -> RowReading[Row]:
    return RowReading(
        lambda row, text: _row(row, text, order),
        kept=("status", "name", *order.names),
        text_without=LOCATIONS_PROPERTY,
    )


def _row(row: Any, text: str, order: SortOrder) -> Row:
    if not isinstance(row, dict):
        raise TypeError("a row is not an object")
    values = order.values_of(row)
    if LOCATIONS_PROPERTY in row:
        del row[LOCATIONS_PROPERTY]
        text = json.dumps(row)
    image_id = row["id"]
    return Row(
        image_id.lower(),
        image_id,
        values,
        status_of(row),
        _text(row.get("status")),
        _text(row.get("name")),
        text,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
