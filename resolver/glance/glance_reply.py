"""A response of a Glance server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resolver.errors import LocationUnavailable
from resolver.glance.json_pages import JsonPage, has_many_values, read_page

READ_MEMBERS = (
    *("id", "status", "os_hash_algo", "os_hash_value", "checksum", "size"),
    *("os_hidden", "visibility", "owner", "deleted", "updated_at"),
)
"""The members of a listing's row that the rooms of `resolver.glance` read."""


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
        """The body as JSON. It is parsed only if it has few values (`json_pages.MAX_VALUES`),
        since they take the time, not the bytes. For listings there is `page`.

        Raises:
            LocationUnavailable: the body is not JSON, or has more.
        """
        if has_many_values(self.body):
            raise LocationUnavailable("its answer has too many values", code="too-long")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise LocationUnavailable("its answer is not JSON", code="junk") from error

    async def page(self, max_rows: int) -> JsonPage[Any]:
        """The first ``max_rows`` rows of a listing; a server that ignores `limit` sends more. A row
        with an id has its `READ_MEMBERS` only.

        Raises:
            LocationUnavailable: the body is not a listing, or a row is too large.
        """
        try:
            page = await read_page(self.body, max_rows, _read_members)
        except (ValueError, RecursionError) as error:
            raise LocationUnavailable("its answer is not JSON", code="junk") from error
        if not page.has_rows:
            raise LocationUnavailable("the listing has no `images`", code="junk")
        return page


def _read_members(row: Any, _text: str) -> Any:
    """What is kept of a row while its page is read. Whole rows take several times as much, some
    megabytes a page, and each sweep has two pages at a time."""
    if isinstance(row, dict) and "id" in row:
        return {name: row[name] for name in READ_MEMBERS if name in row}
    return row
