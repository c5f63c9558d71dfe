"""The rows of one page, each kept as the text that its owner wrote.

A row is decoded to read its sort keys, and passed on unchanged. (msgspec, which can leave rows
undecoded, saved 1.3 ms of a page of 25 from 20 locations: not enough for a dependency.)
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from resolver.errors import LocationUnavailable
from resolver.glance.json_pages import has_many_values, read_page
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


async def parse_page(body: bytes | bytearray, order: SortOrder, limit: int) -> RowPage:
    """The page in a location's answer, of which no more than ``limit`` rows are read.

    Raises:
        LocationUnavailable: it is not a page of a Glance listing.
    """
    unreadable = LocationUnavailable(
        "its listing cannot be read: it is not the JSON that Glance writes", code="junk"
    )
    try:
        page = await read_page(body, limit, lambda row, text: _row(row, text, order))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise unreadable from error
    if not page.has_rows:
        raise unreadable
    return RowPage(page.rows, page.is_cut or isinstance(page.members.get("next"), str))


def parse_record(body: bytes | bytearray, order: SortOrder) -> Row:
    """The row in a location's answer about one image.

    Raises:
        LocationUnavailable: it is not an image's record.
    """
    unreadable = LocationUnavailable("its record of an image cannot be read", code="junk")
    try:
        text = body.decode().strip()
        if has_many_values(text):
            raise unreadable
        return _row(json.loads(text), text, order)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise unreadable from error


def _row(row: Any, text: str, order: SortOrder) -> Row:
    if not isinstance(row, dict):
        raise TypeError("a row is not an object")
    image_id, status = row["id"], status_of(row)
    values = order.values_of(row)
    if LOCATIONS_PROPERTY in row:
        del row[LOCATIONS_PROPERTY]
        text = json.dumps(row, ensure_ascii=False)
    return Row(image_id.lower(), image_id, values, status, text)
