"""One location's rows in order, read page by page as they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import pairwise

from resolver.errors import LocationUnavailable
from resolver.glance.caller_listings import REFUSAL_STATUSES
from resolver.image_facts import STATUS_ORDER, ImageStatus
from resolver.listing.markers import Place
from resolver.listing.query import MAX_LIMIT, ListingQuery, Params
from resolver.listing.rows import Row, RowPage, parse_page
from resolver.listing.sort_order import TIME_KEYS, Values
from resolver.registry import LocationView
from resolver.resolution.ranking import rendezvous_score

Fetch = Callable[[LocationView, Params, int], Awaitable[bytes | bytearray]]
"""Reads ``/v2/images`` of a location with these parameters, on behalf of the client. The number is
the ``limit`` that is put before them: of two, Glance takes the first.

Raises LocationUnavailable."""


MAX_REPEATED_ROWS = 16
"""Rows of images that a location has listed already, besides as many as there are images. It may
have an image in two spellings."""


class LocationStream:
    """The rows of one location from a place on."""

    def __init__(
        self,
        view: LocationView,
        query: ListingQuery,
        fetch: Fetch,
        place: Place,
        position: Values | None = None,
        *,
        ignores_case: bool = False,
        begin_near: Values | None = None,
    ) -> None:
        """Args:
        position: where there is no marker to begin after, rows up to here are skipped.
        ignores_case: whether names are compared without regard to letter case there.
        begin_near: rows of an earlier second need not be read.
        """
        if place.is_unread:
            begin_near, position = position, None
        self.view = view
        self.group = place.group
        self.rows: deque[Row] = deque()
        """Read and not yet taken."""
        self.is_ended = place.is_ended
        """Whether the location has no more rows than those."""
        begins_later = place.after or position or begin_near
        self._began_at_start = not place.is_ended and begins_later is None
        self.failure: LocationUnavailable | None = None
        self.taken: str | None = place.after
        """The id of the last row that was taken."""
        self._query = query
        self._fetch = fetch
        self._position = position
        self._ignores_case = ignores_case
        self._begin_near = begin_near
        self._skipping = place.after is None and position is not None
        self._marker = place.after
        self._marker_is_inherited = place.after is not None
        """Whether the marker comes from an earlier request: its image may be gone."""
        self._first: str | None = None
        """The id of the first row of the last page."""
        self._images: set[str] = set()
        """Those of all rows that were read."""
        self._repeated = 0
        """Rows of images that were among them already."""

    @property
    def number(self) -> int:
        return self.view.location.number

    @property
    def is_dry(self) -> bool:
        """Whether a page must be read before it is known what its next row is."""
        return not (self.rows or self.is_ended or self.failure)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing more to take from it."""
        return self.failure is not None or (not self.rows and self.is_ended)

    @property
    def was_read_whole(self) -> bool:
        """Whether all its rows from the first on have been read here."""
        return self._began_at_start and self.is_ended

    @property
    def place(self) -> Place:
        """Where the next request goes on."""
        if self.failure:
            return Place(self.group, is_left_out=True)
        if self.is_finished:
            return Place(self.group, is_ended=True)
        is_unread = self.taken is None and self._position is None
        return Place(self.group, self.taken, is_unread=is_unread)

    def rank(
        self, image_id: bytes | None, status: ImageStatus | None
    ) -> tuple[int, int, float, str]:
        """Orders the owners of an image as redirects do, the best first, with the groups that were
        made when the listing began. ``image_id``: None for an id that is not a UUID. ``status``:
        the image's there."""
        score = 0.0 if image_id is None else -rendezvous_score(self.view, image_id)
        return STATUS_ORDER[status], self.group, score, self.view.name

    def take(self) -> Row:
        row = self.rows.popleft()
        self.taken = row.id
        return row

    def give_back(self, row: Row, taken_before: str | None) -> None:
        """Undoes the last `take`, before which `taken` was this."""
        self.rows.appendleft(row)
        self.taken = taken_before

    async def read(self, size: int) -> list[Row]:
        """Reads the next ``size`` rows or fewer, past those that are skipped; returns the new ones.

        Raises:
            LocationUnavailable: the location gave no page of a listing in this order.
        """
        while True:
            page = await self._read_page(size)
            rows = self._after_position(page.rows)
            if rows or self.is_ended:
                self.rows.extend(rows)
                return rows
            size = MAX_LIMIT  # all were skipped: get past the others soon

    async def _read_page(self, size: int) -> RowPage:
        try:
            body = await self._fetch(self.view, self._params(), size)
        except LocationUnavailable as error:
            may_be_gone = self._marker_is_inherited and self._position is not None
            if not may_be_gone or error.extra.get("status") not in REFUSAL_STATUSES:
                raise
            # Glance refuses a marker whose image is gone.
            self._marker, self._skipping, self._marker_is_inherited = None, True, False
            body = await self._fetch(self.view, self._params(), size)
        self._marker_is_inherited = False
        page = await parse_page(body, self._query.order, size)
        self._check_order(page.rows)
        self._check_repeats(page.rows)
        # A page may be smaller than asked for; a server may also forget the link to the next one.
        self.is_ended = not page.rows or not (page.has_next or len(page.rows) >= size)
        if page.rows:
            self._first, self._marker = page.rows[0].id, page.rows[-1].id
        return page

    def _params(self) -> Params:
        params = self._query.location_params
        if self._marker is not None:
            return (("marker", self._marker), *params)
        near = self._position if self._skipping else self._begin_near
        if near is not None and (bound := self._time_filter(near)):
            return (*params, bound)
        return params

    def _time_filter(self, near: Values) -> tuple[str, str] | None:
        """A filter that leaves out the rows of the seconds before this place."""
        key = self._query.order.keys[0]
        if key.name not in TIME_KEYS or self._query.has_filter(key.name):
            return None
        try:
            second = datetime.fromisoformat(str(near[0]))
            if key.descends:  # the database has microseconds, which rows do not show
                second += timedelta(seconds=1)
        except (ValueError, OverflowError):
            return None
        return key.name, f"{'lt' if key.descends else 'gte'}:{second:%Y-%m-%dT%H:%M:%SZ}"

    def _after_position(self, rows: list[Row]) -> list[Row]:
        if not self._skipping or self._position is None:
            return rows
        order = self._query.order
        end = order.key(self._position, ignore_case=self._ignores_case)
        for index, row in enumerate(rows):
            if order.key(row.values, ignore_case=self._ignores_case) > end:
                self._skipping = False
                return rows[index:]
        return []

    def _check_repeats(self, rows: list[Row]) -> None:
        """Raises LocationUnavailable where most rows are of images that were listed before. A
        server could list one image that is shown from elsewhere in ever other spellings, and keep
        the listing busy for all of its time."""
        before = len(self._images)
        self._images.update(row.image for row in rows)
        self._repeated += len(rows) - (len(self._images) - before)
        if self._repeated > len(self._images) + MAX_REPEATED_ROWS:
            raise LocationUnavailable(
                "its listing repeats itself: it has the same images in many rows",
                code="bad-listing",
            )

    def _check_order(self, rows: list[Row]) -> None:
        """Raises LocationUnavailable where a sorted listing cannot go on with these rows."""
        if rows and rows[0].id in (self._first, self._marker):
            raise LocationUnavailable(
                "its listing does not go on after a marker: it repeats itself", code="bad-listing"
            )
        for before, row in pairwise(rows):
            if self._query.order.is_violated(before.values, row.values):
                raise LocationUnavailable(
                    f"its listing is out of order at {row.id[:64]}: it does not sort as asked",
                    code="bad-listing",
                )
