"""A response of a Glance server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resolver.errors import LocationUnavailable

MAX_PAGE_VALUES = 2_000_000
"""JSON values in a page of a listing: a thousand images with two thousand properties each."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response of a Glance server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, max_values: int = MAX_PAGE_VALUES) -> Any:
        """The body as JSON. It is parsed only if it has at most ``max_values`` values, since they
        take the time, not the bytes.

        Raises:
            LocationUnavailable: the body is not JSON, or has more.
        """
        if self.body.count(b",") > max_values:
            raise LocationUnavailable("its answer has too many values", code="too-long")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise LocationUnavailable("its answer is not JSON", code="junk") from error
