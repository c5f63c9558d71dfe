"""A Glance server's whole listing, in UUID order, page by page.

No single request lists every image: hidden images need a second pass, and so do community images of
other projects where the server is older than Queens and refuses ``visibility=all`` (400). The
passes are merged as sorted streams.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from resolver.errors import LocationUnavailable
from resolver.glance.glance_server import GlanceServer, Reply
from resolver.glance.listed_rows import NO_ROWS, ListedImage, ListedRows, SkippedRows, rows_of
from resolver.glance.probe import has_image
from resolver.models import minor_version

PAGE_SIZE = 1000
"""Images in a page. Glance caps it at 1,000 without notice; a smaller page costs it as much."""

END_CURSOR = b"\xff" * 17
"""Sorts after every image id."""

CONFIRM_BATCH = 99
"""Ids in one ``id=in:`` request, next to the one that is known to be listed."""

MIN_MINOR_ID_IN = 11
"""Servers before v2.11 are asked about one image at a time."""

KEPT_MARKERS = 6
"""Ids of a page that can serve as marker: its last, and others for when that has been deleted."""

MAX_PAGES_WITHOUT_IMAGES = 1000
"""Pages in a row that name no image, after which the listing counts as endless."""

V1_LISTING = {"limit": str(PAGE_SIZE), "sort_key": "id", "sort_dir": "asc", "is_public": "None"}
V2_LISTING = {"limit": str(PAGE_SIZE), "sort": "id:asc"}


@dataclass(frozen=True, slots=True)
class Page:
    """Images of a listing, merged from its passes."""

    images: Mapping[bytes, int]
    """Image id to letter case (see `resolver.models.letter_case_of`)."""
    cursor: bytes
    """Every id in lower case up to this one has been listed; `END_CURSOR` on the last page. Ids
    with upper-case digits may come at any time, since their order depends on the server's
    database."""
    markers: tuple[str, ...] = ()
    """For each pass, a marker from which it can be resumed. With ``cursor``, no image is missed."""
    requested_at: float = 0.0
    """When the first of the images was requested, on `time.monotonic`."""
    skipped: SkippedRows = NO_ROWS
    """Rows of this page that name no image."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an earlier listing of the same server stopped: the cursor and markers of a page."""

    cursor: bytes
    markers: tuple[str, ...]


@dataclass(slots=True)
class ListingPass:
    """One stream of pages: a request repeated with the last id as marker."""

    path: str
    params: Mapping[str, str]
    marker: str = ""
    """The last id of the latest page, as spelled there."""
    cursor: bytes = b""
    """The last id in lower case so far; `END_CURSOR` when the stream has ended."""
    earlier_markers: list[str] = field(default_factory=list)
    """The ids before the marker, in case the marker is deleted."""
    uppercase_ids: set[bytes] = field(default_factory=set)
    """Ids with upper-case digits so far."""
    requested_marker: str = ""
    """The marker of the latest request: all ids before it are before every cursor."""
    resumed: bool = False
    """The next page continues an earlier listing, so it may hold nothing new."""
    skipped: SkippedRows = NO_ROWS
    """Rows of the latest page that name no image."""
    pages_without_images: int = 0
    """In a row, until now."""

    async def next_page(self, server: GlanceServer) -> dict[bytes, int]:
        """The images of the next page that are new, with their letter case. After the last page it
        is empty and ``cursor`` is `END_CURSOR`.

        Raises:
            LocationUnavailable: the response is not a page of this listing.
        """
        before = self.marker
        rows = await self.next_rows(server)
        if not rows.markers:
            self.cursor = END_CURSOR
            return {}
        images, self.cursor = self._new_images(rows.images)
        self._check_progress(images, moved=self.marker != before)
        self.resumed = False
        return images

    async def next_rows(self, server: GlanceServer) -> ListedRows:
        """The rows of the next page, in any order. The last page has no markers.

        Raises:
            LocationUnavailable: the response is not a page of a listing.
        """
        reply = await self._request(server)
        rows = ListedRows.parse(reply.json(), KEPT_MARKERS, PAGE_SIZE)
        self.skipped = rows.skipped
        if rows.markers:
            self.marker = rows.markers[-1]
            self.earlier_markers = list(rows.markers[:-1])
        return rows

    def _check_progress(self, images: Mapping[bytes, int], *, moved: bool) -> None:
        """Raises LocationUnavailable where the page has nothing new, or where rows that name no
        image seem to have no end."""
        self.pages_without_images = 0 if images else self.pages_without_images + 1
        if images or self.resumed:
            return
        only_skipped = self.skipped.count and moved
        if not only_skipped or self.pages_without_images > MAX_PAGES_WITHOUT_IMAGES:
            raise LocationUnavailable(
                f"the listing repeats itself at {self.marker}"[:200], code="bad-listing"
            )

    async def _request(self, server: GlanceServer) -> Reply:
        self.requested_marker = self.marker
        reply = await server.request(self.path, self._query())
        # For all but admins, a marker that was deleted since is 400, and one hidden since is 403.
        while reply.status in (400, 403) and self.earlier_markers:
            self.marker = self.earlier_markers.pop()
            reply = await server.request(self.path, self._query())
        if reply.status != 200:
            raise LocationUnavailable(
                f"listing images answered {reply.status}",
                code="bad-listing",
                extra={"status": reply.status},
            )
        return reply

    def _query(self) -> dict[str, str]:
        return {**self.params, **({"marker": self.marker} if self.marker else {})}

    def _new_images(self, listed: Sequence[ListedImage]) -> tuple[dict[bytes, int], bytes]:
        """The images of a page that were not listed before, and the cursor after it.

        Raises:
            LocationUnavailable: the page is out of order.
        """
        images: dict[bytes, int] = {}
        cursor = self.cursor
        for image_id, letter_case, text, _ in listed:
            if letter_case:
                if image_id in self.uppercase_ids:
                    continue
                self.uppercase_ids.add(image_id)
            elif image_id <= self.cursor:
                continue  # listed again, after a lost marker
            elif image_id <= cursor:
                raise LocationUnavailable(
                    f"the listing is out of order at {text}", code="bad-listing"
                )
            else:
                cursor = image_id
            images[image_id] = letter_case
        return images, cursor


async def list_images(
    server: GlanceServer, versions: tuple[str, ...], resume: Resume | None = None
) -> AsyncIterator[Page]:
    """All images that the credential sees, ids ascending. The last page's cursor is `END_CURSOR`.

    Raises:
        LocationUnavailable: a response was not a page of a sorted listing.
    """
    passes = (
        await v2_passes(server)
        if server.uses_v2(versions)
        else [ListingPass("/v1/images/detail", V1_LISTING)]
    )
    if resume is not None:
        if len(resume.markers) != len(passes):
            raise LocationUnavailable(
                "the server lists otherwise than before", code="cannot-resume"
            )
        for listing_pass, marker in zip(passes, resume.markers, strict=True):
            listing_pass.cursor, listing_pass.marker = resume.cursor, marker
            listing_pass.resumed = True
    async for page in merge_passes(server, passes):
        yield page


async def v2_passes(server: GlanceServer, **filters: str) -> list[ListingPass]:
    """The passes that together list every image of a v2 server that matches the filters.

    Raises:
        LocationUnavailable: the server did not say which filters it supports.
    """
    params = {**V2_LISTING, **filters}
    if await _supports_filter(server, {"visibility": "all"}):
        params["visibility"] = "all"
        others = {"os_hidden": "true"}
    elif await _supports_filter(server, {"visibility": "community"}):
        others = {"visibility": "community"}
    else:
        return [ListingPass("/v2/images", params)]
    return [ListingPass("/v2/images", params), ListingPass("/v2/images", {**params, **others})]


async def _supports_filter(server: GlanceServer, params: Mapping[str, str]) -> bool:
    """Whether the server supports a filter: one that does not answers 400."""
    return (await server.request("/v2/images", {**params, "limit": "1"})).status != 400


async def merge_passes(server: GlanceServer, passes: Sequence[ListingPass]) -> AsyncIterator[Page]:
    """Pages of several sorted streams, merged into one sorted stream.

    Raises:
        LocationUnavailable: a response was not a page of a sorted listing.
    """
    pending: dict[bytes, int] = {}
    requested_at = 0.0
    while (hindmost := min(passes, key=lambda p: p.cursor)).cursor != END_CURSOR:
        if not pending:
            requested_at = time.monotonic()
        pending.update(await hindmost.next_page(server))
        cursor = min(p.cursor for p in passes)
        images = {
            image_id: letter_case
            for image_id, letter_case in pending.items()
            if letter_case or image_id <= cursor
        }
        for image_id in images:
            del pending[image_id]
        markers = tuple(p.requested_marker for p in passes)
        yield Page(images, cursor, markers, requested_at, hindmost.skipped)


async def still_there(
    server: GlanceServer, versions: tuple[str, ...], ids: Mapping[str, bytes], known: str | None
) -> set[bytes]:
    """Which of these images the server still has, asked directly. ``ids`` maps each id as the
    server spells it to its bytes.

    ``known`` is an id that was just listed. Every request about many ids includes it: a server that
    does not support such requests leaves it out as well, and is then asked about each id.

    Raises:
        LocationUnavailable: the server gave no clear answer.
    """
    pending = list(ids)
    found: set[bytes] = set()
    if server.uses_v2(versions) and known and minor_version(versions) >= MIN_MINOR_ID_IN:
        while pending:
            batch = pending[:CONFIRM_BATCH]
            listed = await _list_by_id(server, [known, *batch])
            if known not in listed:
                break
            found |= {ids[text] for text in batch if text in listed}
            del pending[:CONFIRM_BATCH]
    for text in pending:
        if await has_image(server, versions, text):
            found.add(ids[text])
    return found


async def _list_by_id(server: GlanceServer, ids: Sequence[str]) -> set[str]:
    """Which of these ids the server lists; none where its answer may not be complete."""
    # The limit is one more than can be listed, so only a server with smaller pages sends `next`.
    query = {"id": f"in:{','.join(ids)}", "visibility": "all", "limit": str(len(ids) + 1)}
    found: set[str] = set()
    for hidden in ({}, {"os_hidden": "true"}):
        reply = await server.request("/v2/images", {**query, **hidden})
        if reply.status != 200:
            return set()
        document = reply.json()
        found.update(
            row["id"]
            for row in rows_of(document)
            if isinstance(row, dict) and isinstance(row.get("id"), str)
        )
        if "next" in document:
            return set()
    return found
