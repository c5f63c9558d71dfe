"""The rows of a Glance listing: those that are images, and those that name none.

Real listings have rows without a usable id: images from before UUIDs, rows of a broken database,
inventions of servers that only resemble Glance. One such row must not spoil the whole listing, so
it is skipped, counted and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from resolver.errors import InvalidImageId, LocationUnavailable
from resolver.glance.glance_reply import ReadRow, UnnamedRow, shortened
from resolver.glance.json_pages import JsonPage
from resolver.models import parse_stored_id

MAX_EXAMPLES_CHARACTERS = 120
"""Of the examples of skipped rows together, give or take one example."""

MAX_LINK_CHARACTERS = 8190
"""Read of the link to the next page: as long as a URL may be here."""


@dataclass(frozen=True, slots=True)
class SkippedRows:
    """Rows that name no image."""

    count: int = 0
    examples: str = ""
    """The ids of the first ones as JSON, separated by commas, or the row where it has none. For
    operators: it is text of the server."""

    def __add__(self, other: SkippedRows) -> SkippedRows:
        both = filter(None, (self.examples, other.examples))
        examples = (
            self.examples if len(self.examples) >= MAX_EXAMPLES_CHARACTERS else ", ".join(both)
        )
        return SkippedRows(self.count + other.count, examples)

    @classmethod
    def of(cls, rows: Iterable[ReadRow]) -> SkippedRows:
        """Counts and names these rows."""
        count, examples = 0, ""
        for row in rows:
            count += 1
            if len(examples) < MAX_EXAMPLES_CHARACTERS:
                example = row.example if isinstance(row, UnnamedRow) else shortened(row["id"])
                examples += ", " * bool(examples) + example
        return cls(count, examples)


NO_ROWS = SkippedRows()


class ListedImage(NamedTuple):
    """A row that is an image."""

    image_id: bytes
    letter_case: int
    """See `resolver.models.letter_case_of`."""
    text: str
    """The id as the server spells it."""
    row: dict[str, Any]


class ListedRows(NamedTuple):
    """One page of a listing."""

    images: Sequence[ListedImage]
    skipped: SkippedRows
    markers: Sequence[str]
    """What the next page can be requested after, the best last: ids of rows in their order, whether
    they are image ids or not. Empty where the page has none: then it is the last."""

    @classmethod
    def of(cls, page: JsonPage[ReadRow], max_markers: int, page_size: int) -> ListedRows:
        """The images of a page. ``page_size``: the rows that were asked for.

        Raises:
            LocationUnavailable: nothing in it says where the next page begins.
        """
        images, skipped = [], list[ReadRow]()
        ids = []
        for row in page.rows:
            if isinstance(row, UnnamedRow):
                skipped.append(row)
                continue
            ids.append(text := row["id"])
            try:
                images.append(ListedImage(*parse_stored_id(text), text, row))
            except InvalidImageId:
                skipped.append(row)
        markers = [text for text in ids if text][-max_markers:]
        if images and images[-1].text not in markers:
            markers.insert(0, images[-1].text)  # v1 accepts no other marker than a UUID
        if not markers and (marker := _next_marker(page.next)):
            markers = [marker]
        if not markers and (page.has_next or len(page.rows) >= page_size):
            raise LocationUnavailable(
                "the listing cannot be read to its end: a page of it has no row with an id",
                code="bad-listing",
            )
        return cls(images, SkippedRows.of(skipped), markers)


NO_MORE_ROWS = ListedRows((), NO_ROWS, ())


def ids_of(page: JsonPage[ReadRow]) -> set[str]:
    """The ids of the rows that have one."""
    return {row["id"] for row in page.rows if isinstance(row, dict)}


def _next_marker(link: str) -> str:
    """The marker in the link to the next page; empty if there is none."""
    try:
        query = parse_qs(urlsplit(link[:MAX_LINK_CHARACTERS]).query)
    except ValueError:
        return ""
    return query.get("marker", [""])[-1]
