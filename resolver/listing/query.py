"""What a client asks of a listing: Glance's parameters, read as Glance reads them.

Only what the merge itself needs is validated here, with Glance's own texts: ``limit`` and the sort
order. All other parameters are filters, which go to each location as they were sent: a location
answers 400 to one that it does not accept.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from resolver.errors import InvalidRequest
from resolver.listing.sort_order import SortOrder

DEFAULT_LIMIT = 25
"""Glance's ``limit_param_default``."""

MAX_LIMIT = 1000
"""Glance's ``api_limit_max``: a larger ``limit`` means this one."""

MAX_PARAMETERS = 200

Params = tuple[tuple[str, str], ...]
"""Names and values of a query, in their order. A name may occur several times."""


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """A listing, and which page of it."""

    limit: int
    """Rows on a page, at most `MAX_LIMIT`."""
    marker: str | None
    """What the page begins after; None for the first page."""
    order: SortOrder
    filters: Params
    """All that is neither above nor a part of the order."""
    params: Params
    """All as sent, but for the marker."""

    @classmethod
    def parse(cls, query: str) -> ListingQuery:
        """``query``: without its ``?``.

        Raises:
            InvalidRequest: as Glance answers 400.
        """
        try:
            pairs = parse_qsl(
                query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
            )
        except UnicodeDecodeError as error:
            raise InvalidRequest("the query is not UTF-8") from error
        except ValueError as error:
            raise InvalidRequest(f"the query has more than {MAX_PARAMETERS} parameters") from error
        return cls.of(pairs)

    @classmethod
    def of(cls, pairs: list[tuple[str, str]]) -> ListingQuery:
        """The same for a query that is decoded already."""
        rest = list(pairs)
        limit, marker = _take(rest, "limit"), _take(rest, "marker")
        params = tuple(pair for pair in pairs if pair[0] != "marker")
        size = _parse_limit(limit)
        order = SortOrder.take_from(rest)
        return cls(size, marker, order, tuple(rest), params)

    @property
    def location_params(self) -> Params:
        """What every request for rows of this listing has."""
        return (*self.filters, *self.order.params)

    def without(self, name: str) -> Params:
        """The filters but for those of this name."""
        return tuple(pair for pair in self.filters if pair[0] != name)

    def has_filter(self, name: str) -> bool:
        return any(key == name for key, _ in self.filters)


def _take(pairs: list[tuple[str, str]], name: str) -> str | None:
    """Removes the first parameter of this name. Glance takes another one for a property."""
    for position, (key, value) in enumerate(pairs):
        if key == name:
            del pairs[position]
            return value
    return None


def _parse_limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    try:
        limit = int(text)
    except ValueError as error:
        raise InvalidRequest("limit param must be an integer") from error
    if limit < 0:
        raise InvalidRequest("limit param must be positive")
    return min(limit, MAX_LIMIT)
