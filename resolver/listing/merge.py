"""Many sorted listings as one, of which each image is a row once."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

from resolver.listing.caller import OnRows
from resolver.listing.early_questions import EarlyQuestions
from resolver.listing.location_stream import LocationStream
from resolver.listing.markers import Questions
from resolver.listing.owners import DrawnRow, ImageOwners
from resolver.listing.query import MAX_LIMIT
from resolver.listing.rows import Row
from resolver.listing.sort_order import SortOrder, Values
from resolver.listing.start import AfterImage, Start

WHOLE_PAGE = 100
"""Pages up to this size are asked for in full from each location, so that one request to each is
enough. Of a larger page each location is asked for as many rows as it is likely to have there."""

READ_AHEAD = 3
"""Of so many pages of that size the owners are read from the index at once: of this one, of rows
that are not shown, and of the next one."""

DEVIATIONS = 3
"""How many standard deviations more than its share of the rows a location is asked for. What is
read and not shown is read again for the next page. Where 20 locations have equal shares of a page
of 1,000, this is 72 rows of each, and 3 pages in 100 need a second request."""

MAX_DRAWN = 2 * MAX_LIMIT
"""Rows whose owners are found at the same time."""

ReadRows = Callable[[Sequence[tuple[LocationStream, int]], OnRows], Awaitable[None]]
"""Reads that many rows from each location at the same time. Where the client accepts a partial
listing, the failure of a location is stored in its stream, which then gives no rows."""


class MergedRow(NamedTuple):
    """A row of the merged listing, and the names of its image's owners."""

    row: Row
    names: str


class Merge:
    """The rows of several locations in one order, drawn for one page.

    A row is *read* from its location, *drawn* in the merged order, and then *used up* (it is on the
    page, or another location's row shows its image) or *given back* for the next page. A stream is
    *dry* when its next row has to be read.
    """

    def __init__(
        self,
        start: Start,
        order: SortOrder,
        owners: ImageOwners,
        read: ReadRows,
    ) -> None:
        self._order = order
        self.ignores_case = start.ignores_case
        """Whether some location's rows show that its database compares names without regard to
        letter case. They can be merged in order only if all are compared so. Known when rows have
        been read; `_draw` makes its heap again after each read."""
        self._streams = start.streams
        self._owners = owners
        self._early = EarlyQuestions(owners, lambda: self._likely_rows(self._limit))
        self._expected = start.questions
        self._read = read
        self._taken: Counter[int] = Counter()
        """How many rows of each location are drawn or used up."""
        self._obtained = 0
        """How many rows of the page are known, as far as those that are drawn will be shown."""
        self._limit = 0
        """Rows of the page that is being read."""
        self._used: list[DrawnRow] = []
        """The rows that are used up for it."""
        self._read_first: set[tuple[str, int]] = set()
        """The images and locations of the rows that were read first."""
        self.last: Values | None = None
        """The place up to which rows are used up."""

    async def page(self, limit: int) -> list[MergedRow]:
        """The next ``limit`` rows, or fewer at the end."""
        self._limit = limit
        with self._early:
            return await self._page(limit)

    async def _page(self, limit: int) -> list[MergedRow]:
        merged: list[MergedRow] = []
        self._taken.clear()
        self._obtained = 0
        if self._expected.ids:
            self._early.ask_expected(self._expected)
        await self._fill(limit)
        if self._expected.ids:
            await self._early.wait_for_answers()
        if self._asks_early:
            self._read_first = {(r.image, s.number) for s in self._streams for r in s.rows}
            await self._owners.read_index(self._likely_rows(READ_AHEAD * limit))
        while (missing := limit - len(merged)) > 0:
            drawn = await self._draw(missing)
            if not drawn:
                break
            await self._draw_spare(drawn, missing)
            self._early.ask(drawn)
            await self._early.wait_for_answers()
            names = await self._owners.names_where_best(drawn)
            self._keep(drawn, names, merged, limit)
        return merged

    def questions_of_this_page(self) -> Questions:
        """What must be asked if the page is read again."""
        if not self._asks_early:
            return Questions()
        return self._owners.questions_about(self._used, self._limit, self._read_first, is_end=True)

    def questions_of_next_page(self) -> Questions:
        """What must be asked for the next page, as far as its rows are known: where there are many
        locations, nearly all are, since each is asked for as many as if it had the whole page."""
        unread = [stream for stream in self._streams if not stream.is_finished]
        if not self._asks_early or any(stream.is_dry for stream in unread):
            return Questions()
        rows = self._likely_rows((READ_AHEAD - 1) * self._limit, to_first_end=True)
        read = {(each.row.image, each.stream.number) for each in rows}
        is_end = all(stream.is_ended for stream in unread)
        return self._owners.questions_about(rows, self._limit, read, is_end=is_end)

    @property
    def _asks_early(self) -> bool:
        """Whether owners are asked before it is known which rows are on the page."""
        return 0 < self._limit <= WHOLE_PAGE and len(self._streams) > 1

    async def _draw_spare(self, drawn: list[DrawnRow], wanted: int) -> None:
        """Adds rows in place of those that may not be shown, so that the better owners of all are
        asked only once. Of a small page the locations have been asked for more rows than it has,
        and no others are read for this: its owners answer at the same time as its locations."""
        certain = 0
        new: Sequence[DrawnRow] = drawn
        while new:
            shown = await self._owners.count_certain(new)
            self._obtained -= len(new) - shown
            certain += shown
            count = min(wanted - certain, MAX_DRAWN - len(drawn))
            new = self._draw_read(count)
            if not new and count > 0 and not self._asks_early:
                new = await self._draw(count)
            drawn += new

    async def skip_past(self, after: AfterImage) -> bool:
        """Uses up the rows up to the one of an image that is shown; returns whether there is one.

        Rows show whole seconds, so the image's row alone does not give its place among the rows of
        other locations. They are merged again, which gives the same order as before.
        """
        while drawn := await self._draw(WHOLE_PAGE):
            for count, each in enumerate(drawn, 1):
                if each.row.image != after.image:
                    continue
                (names,) = await self._owners.names_where_best([each])
                if names:
                    self._use(drawn, count)
                    return True
            self._use(drawn, len(drawn))
            if self._order.is_past(drawn[-1].row.values, after.latest):
                break
        return False

    def _keep(
        self,
        drawn: Sequence[DrawnRow],
        names: Sequence[str],
        merged: list[MergedRow],
        limit: int,
    ) -> None:
        """Adds the rows that are shown, as long as there is room, and gives back those behind
        them."""
        used = 0
        for each, shown in zip(drawn, names, strict=True):
            if len(merged) == limit:
                break
            used += 1
            if shown:
                merged.append(MergedRow(each.row, shown))
        if self._asks_early:
            self._used += drawn[:used]
        self._use(drawn, used)
        self._obtained = len(merged)

    def _use(self, drawn: Sequence[DrawnRow], count: int) -> None:
        """The first ``count`` of these rows are used up, the others are given back."""
        self.last = self._order.used_up(self.last, [each.row.values for each in drawn[:count]])
        for each in reversed(drawn[count:]):
            each.stream.give_back(each.row, each.taken_before)
            self._taken[each.stream.number] -= 1

    async def _fill(self, missing: int) -> None:
        """Reads where it is not known what the next row is; and at the same time as many rows of
        the other locations as are likely to be among the next ``missing`` ones."""
        if not any(stream.is_dry for stream in self._streams):
            return
        unended = [stream for stream in self._streams if not (stream.is_ended or stream.failure)]
        sizes = [(stream, self._size(stream, missing, len(unended))) for stream in unended]
        wanted = [(stream, size) for stream, size in sizes if size > 0 or stream.is_dry]
        unread = len(wanted)

        def arrived(stream: LocationStream, rows: Sequence[Row]) -> None:
            nonlocal unread
            unread -= 1
            self._owners.record_listed(stream, rows)
            self.ignores_case = self.ignores_case or (
                "name" in self._order.names
                and any(
                    self._order.ignores_case(before.values, row.values)
                    for before, row in pairwise(rows)
                )
            )
            # Where all is asked already, only rows that will not be on the page are left.
            if unread and self._asks_early and not self._expected.are_all:
                self._early.rows_arrived()

        await self._read(wanted, arrived)

    def _size(self, stream: LocationStream, missing: int, locations: int) -> int:
        """How many rows to read of a location that has more, as one of ``locations``."""
        if self._taken:
            # Where some rows are not shown, more are taken for each that is.
            taken = self._taken[stream.number]
            share = missing * taken / max(self._obtained, 1)
            if stream.is_dry:  # it had more than was expected
                share = max(share, taken, 1)
            size = min(_with_spare(share), MAX_LIMIT)
        elif missing > WHOLE_PAGE:
            size = min(_with_spare(missing / locations), missing)
        else:
            size = missing
        return size - len(stream.rows)

    def _likely_rows(self, count: int, *, to_first_end: bool = False) -> list[DrawnRow]:
        """The rows that come next if no location has others between them.

        ``to_first_end``: only as far as that is certain.
        """
        known = [(stream, list(islice(stream.rows, count))) for stream in self._streams]
        heap = [(self._key(rows[0]), at, 0) for at, (_, rows) in enumerate(known) if rows]
        heapq.heapify(heap)
        likely: list[DrawnRow] = []
        while heap and len(likely) < count:
            _, at, index = heapq.heappop(heap)
            stream, rows = known[at]
            likely.append(DrawnRow(stream, rows[index], None))
            if index + 1 < len(rows):
                heapq.heappush(heap, (self._key(rows[index + 1]), at, index + 1))
            elif to_first_end and not stream.is_ended:
                break
        return likely

    async def _draw(self, count: int) -> list[DrawnRow]:
        """The next ``count`` rows in order, or fewer at the end; several may be of one image."""
        drawn: list[DrawnRow] = []
        while (missing := count - len(drawn)) > 0:
            await self._fill(missing)
            new = self._draw_read(missing)
            if not new:
                break
            drawn += new
        return drawn

    def _draw_read(self, count: int) -> list[DrawnRow]:
        """As `_draw`, but reads nothing: it ends where a stream is dry."""
        drawn: list[DrawnRow] = []
        if any(stream.is_dry for stream in self._streams):
            return drawn
        heap = self._heads()
        while heap and len(drawn) < count:
            _, index = heap[0]
            stream = self._streams[index]
            before = stream.taken
            drawn.append(DrawnRow(stream, stream.take(), before))
            if stream.rows:
                heapq.heapreplace(heap, (self._key(stream.rows[0]), index))
            elif stream.is_dry:
                break
            else:
                heapq.heappop(heap)
        self._taken.update([each.stream.number for each in drawn])
        self._obtained += len(drawn)
        return drawn

    def _heads(self) -> list[tuple[Any, int]]:
        """A heap of the next row of each location that has one."""
        heads = [
            (self._key(stream.rows[0]), index)
            for index, stream in enumerate(self._streams)
            if stream.rows
        ]
        heapq.heapify(heads)
        return heads

    def _key(self, row: Row) -> Any:
        return self._order.key(row.values, ignore_case=self.ignores_case)


def _with_spare(share: float) -> int:
    return math.ceil(share + DEVIATIONS * math.sqrt(share))
