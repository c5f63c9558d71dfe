"""A response of a Glance server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from resolver.errors import LocationUnavailable
from resolver.glance.json_pages import JsonPage, RowReading, read_page, read_row

READ_MEMBERS = (
    *("id", "status", "os_hash_algo", "os_hash_value", "checksum", "size"),
    *("os_hidden", "visibility", "owner", "deleted", "updated_at"),
)
"""The members of a listing's row that the rooms of `resolver.glance` read."""

MAX_READ_CHARACTERS = 255
"""Of these. Glance's own are shorter."""

MAX_DOCUMENT_BYTES = 64 * 1024
"""A document that is decoded as a whole. A list of versions has some kilobytes."""

MAX_EXAMPLE_CHARACTERS = 60


class UnnamedRow(NamedTuple):
    """A row of a listing that has no id."""

    example: str
    """What it has in place of one as JSON, or else the row; perhaps cut."""


ReadRow = dict[str, Any] | UnnamedRow
"""A row of a listing; one that has an id has its `READ_MEMBERS` only."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response of a Glance server."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray
    """The latter where it is large, and a copy would take long."""

    def field_to_pass_on(self, name: str) -> str:
        """The value of a header field, where it can be sent on to a client; else empty. A server
        may send control characters, and aiohttp's client takes most of them."""
        value = self.headers.get(name, "")
        return value if value.isascii() and value.isprintable() else ""

    def json(self) -> Any:
        """The body as JSON, if it is short. For records and listings there are `record` and `page`.

        Raises:
            LocationUnavailable: the body is not JSON, or is longer than `MAX_DOCUMENT_BYTES`.
        """
        if len(self.body) > MAX_DOCUMENT_BYTES:
            raise LocationUnavailable(
                "its answer is too long to be a list of versions", code="junk"
            )
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise _not_json() from error

    async def record(self) -> Mapping[str, Any]:
        """The `READ_MEMBERS` of an image's record; none where the body is something else.

        Raises:
            LocationUnavailable: the body is not JSON, or a value in it is too large.
        """
        try:
            row = await read_row(self.body, READING)
        except (ValueError, RecursionError) as error:
            raise _not_json() from error
        return row if isinstance(row, dict) else {}

    async def page(self, max_rows: int) -> JsonPage[ReadRow]:
        """The first ``max_rows`` rows of a listing; a server that ignores `limit` sends more.

        Raises:
            LocationUnavailable: the body is not a listing, or a value in it is too large.
        """
        try:
            page = await read_page(self.body, max_rows, READING)
        except (ValueError, RecursionError) as error:
            raise _not_json() from error
        if not page.has_rows:
            raise LocationUnavailable("the listing has no `images`", code="junk")
        return page


def _not_json() -> LocationUnavailable:
    return LocationUnavailable("its answer is not JSON", code="junk")


def _read_members(row: Any, _text: str) -> ReadRow:
    """What is kept of a row while its page is read. Whole rows take several times as much, some
    megabytes a page, and each sweep has two pages at a time."""
    if isinstance(row, dict):
        kept = {
            name: value
            for name in READ_MEMBERS
            if name in row
            and (
                len(value) <= MAX_READ_CHARACTERS
                if (kind := type(value := row[name])) is str
                else kind not in (list, dict)
            )
        }
        if isinstance(kept.get("id"), str):
            return kept
    shown = row["id"] if isinstance(row, dict) and "id" in row else row
    return UnnamedRow(shortened(shown))


def shortened(shown: Any) -> str:
    """A value as JSON, perhaps cut."""
    text = json.dumps(shown)
    if len(text) > MAX_EXAMPLE_CHARACTERS:
        text = text[: MAX_EXAMPLE_CHARACTERS - 3] + "..."
    return text


READING = RowReading(_read_members, frozenset(READ_MEMBERS))
