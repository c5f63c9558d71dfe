"""Asking locations on behalf of one client, and what becomes of those that do not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from resolver.errors import (
    ImageUnknown,
    InvalidRequest,
    ListingForbidden,
    ListingIncomplete,
    LocationUnavailable,
    ResolverError,
    TokenRefused,
)
from resolver.glance import CallerListings
from resolver.listing.location_stream import LocationStream
from resolver.listing.query import ListingQuery, Params
from resolver.listing.rows import Row, parse_page, parse_record
from resolver.registry import LocationView
from resolver.resolution import RETRY_AFTER_SECONDS
from resolver.turns import parts_of

LISTING_PATH = "/v2/images"

IDS_PER_QUESTION = 100
"""Image ids in one request to a location: a URL of 4 KB."""

MAX_NAMED = 8
"""Locations that an error names."""

REFUSALS: Mapping[int, type[ResolverError]] = {
    401: TokenRefused,
    403: ListingForbidden,
    400: InvalidRequest,
}
"""What is passed on of what locations answer, the first of these first."""


class Advice(NamedTuple):
    """How a client gives these on the route that it used, for the texts of errors."""

    region: str
    """A region of the Keystone that issued its token."""
    partial: str = ""
    """That it accepts a listing without some locations; empty where the route has no such way."""


T = TypeVar("T")

OnRows = Callable[[LocationStream, Sequence[Row]], None]
"""Called with the rows of a location as soon as they have arrived."""


class Caller:
    """Asks locations with one client's token, or each with its own credential, until one
    deadline."""

    def __init__(
        self,
        listings: CallerListings,
        query: ListingQuery,
        token: str | None,
        deadline: float,
        locations: int,
        unasked: Mapping[str, str],
        advice: Advice,
        *,
        allow_partial: bool,
    ) -> None:
        """Args:
        token: the client's; None: each location's own credential.
        deadline: on `time.monotonic`.
        locations: how many are asked.
        unasked: names of locations that cannot be asked, each with the reason.
        allow_partial: whether the client is content with the others' images.
        """
        self._listings = listings
        self._query = query
        self._token = token
        self._deadline = deadline
        self._locations = locations
        self._advice = advice
        self._allow_partial = allow_partial
        self._unasked = {
            name: LocationUnavailable(reason, code="not-asked") for name, reason in unasked.items()
        }
        self._failures: dict[str, LocationUnavailable] = {}

    @property
    def missing(self) -> list[str]:
        """Names of the locations whose images are not in the answer."""
        return sorted({*self._unasked, *self._failures})

    async def fetch(self, view: LocationView, params: Params, limit: int) -> bytes | bytearray:
        """See `resolver.listing.location_stream.Fetch`."""
        return await self._read(view, LISTING_PATH, (("limit", str(limit)), *params), limit)

    async def read_rows(
        self, wanted: Sequence[tuple[LocationStream, int]], on_rows: OnRows
    ) -> None:
        """See `resolver.listing.merge.ReadRows`.

        Raises:
            ResolverError: a location failed, and the client wants all.
        """

        async def read(stream: LocationStream, size: int) -> Sequence[Row]:
            rows = await stream.read(size)
            on_rows(stream, rows)
            return rows

        await self._all([(stream, read(stream, size)) for stream, size in wanted])

    async def ask_listed(
        self, asked: Sequence[tuple[LocationStream, Sequence[str]]]
    ) -> Sequence[Sequence[Row]]:
        """See `resolver.listing.owners.AskListed`.

        Raises:
            ResolverError: a location failed, and the client wants all.
        """
        return await self._all([(stream, self._list_ids(stream, ids)) for stream, ids in asked])

    async def find(self, streams: Sequence[LocationStream], text: str) -> list[Row | None]:
        """What each location shows the client of the image with this id; None for nothing.

        Raises:
            ResolverError: a location failed, and the client wants all.
        """
        found = await self._all([(stream, self._show(stream, text)) for stream in streams])
        return [rows[0] if rows else None for rows in found]

    def check(self, streams: Iterable[LocationStream]) -> None:
        """
        Raises:
            ResolverError: a location failed and the client wants all, or all failed.
        """
        self._failures |= {s.view.name: s.failure for s in streams if s.failure}
        if not self._locations and not self._unasked:
            raise ImageUnknown(
                "no location is in service", code="no-location", headers={"Retry-After": "5"}
            )
        by_all = len(self._failures) == self._locations
        if by_all or (self.missing and not self._allow_partial):
            raise self._error(by_all=by_all)

    def _error(self, *, by_all: bool) -> ResolverError:
        """The client's error for what locations answered. What they refuse comes before silence:
        then it is the request that must change."""
        failures, silent = self._failures, {**self._failures, **self._unasked}
        refusals = REFUSALS if self._token is not None else {400: InvalidRequest}
        for status, error_class in refusals.items():
            refused = {n: e for n, e in failures.items() if e.extra.get("status") == status}
            if refused:
                details = {error.detail for error in refused.values()}
                # What all say is passed on in Glance's own words.
                alike = len(details) == 1 and by_all and len(refused) == len(failures)
                text = details.pop() if alike else _named(refused)
                challenge = next(iter(refused.values())).extra.get("challenge")
                headers = {"WWW-Authenticate": str(challenge)} if challenge else {}
                return error_class(text, headers=headers)
        waits = [float(e.extra["retry_after"]) for e in silent.values() if "retry_after" in e.extra]
        wait = max([RETRY_AFTER_SECONDS, *waits])
        text = f"not every location could be asked: {_named(silent)}"
        if self._advice.partial and not by_all:
            text += f". With {self._advice.partial} the others' images are listed"
        return ListingIncomplete(
            text, extra={"missing": sorted(silent)}, headers={"Retry-After": f"{wait:.0f}"}
        )

    async def _all(
        self, work: Sequence[tuple[LocationStream, Awaitable[Sequence[T]]]]
    ) -> list[Sequence[T]]:
        """The results of all, with nothing for those that failed.

        The slowest is asked first: to send twenty requests takes some milliseconds.
        """
        order = sorted(
            range(len(work)),
            key=lambda index: -self._listings.last_seconds(work[index][0].view.location),
        )
        results = dict(
            zip(order, await asyncio.gather(*(_attempt(*work[i]) for i in order)), strict=True)
        )
        self.check(stream for stream, _ in work)
        return [results[index] for index in range(len(work))]

    async def _list_ids(self, stream: LocationStream, ids: Sequence[str]) -> list[Row]:
        """The rows that a location lists of these images."""
        found = await asyncio.gather(
            *(self._list_batch(stream, part) for part in parts_of(ids, IDS_PER_QUESTION))
        )
        return [row for rows in found for row in rows]

    async def _list_batch(self, stream: LocationStream, ids: Sequence[str]) -> list[Row]:
        params: Params = (*self._query.without("id"), ("id", f"in:{','.join(ids)}"))
        rows: list[Row] = []
        marker: Params = ()
        while True:
            body = await self.fetch(stream.view, (*marker, *params), len(ids))
            page = await parse_page(body, self._query.order, len(ids))
            rows += page.rows
            if not (page.rows and page.has_next) or len(rows) >= len(ids):
                return rows
            marker = (("marker", page.rows[-1].id),)  # its pages are smaller than that

    async def _show(self, stream: LocationStream, text: str) -> list[Row]:
        try:
            body = await self._read(stream.view, f"{LISTING_PATH}/{quote(text, safe='')}", (), 1)
        except LocationUnavailable as error:
            if error.extra.get("status") == 404:
                return []
            raise
        return [await parse_record(body, self._query.order)]

    async def _read(
        self, view: LocationView, path: str, params: Params, rows: int
    ) -> bytes | bytearray:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise LocationUnavailable("there was no time left to ask it", code="timeout")
        return await self._listings.read(view.location, path, params, self._token, seconds, rows)


async def _attempt(stream: LocationStream, work: Awaitable[Sequence[T]]) -> Sequence[T]:
    try:
        return await work
    except LocationUnavailable as error:
        stream.failure = error
        return ()


def _named(failures: Mapping[str, LocationUnavailable]) -> str:
    named = [f"{name}: {error.detail}" for name, error in sorted(failures.items())]
    more = f"; and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    return "; ".join(named[:MAX_NAMED]) + more
