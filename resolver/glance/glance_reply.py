"""A response of a Glance server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resolver.errors import LocationUnavailable
from resolver.glance.json_pages import JsonPage, has_many_values, read_page


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response of a Glance server."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray
    """The latter where it is large, and a copy would take long."""

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
        """The first ``max_rows`` rows of a listing; a server that ignores `limit` sends more.

        Raises:
            LocationUnavailable: the body is no listing, or a row is too large.
        """
        try:
            page = await read_page(self.body, max_rows, lambda row, _: row)
        except (ValueError, RecursionError) as error:
            raise LocationUnavailable("its answer is not JSON", code="junk") from error
        if not page.has_rows:
            raise LocationUnavailable("the listing has no `images`", code="junk")
        return page
