"""A Glance server's whole listing, in UUID order, page by page.

No single request lists every image: hidden images need a second pass, and so do community images of
other projects where the server is older than Queens and refuses ``visibility=all`` (400). The
passes are merged as sorted streams.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from resolver.errors import LocationUnavailable
from resolver.glance.glance_reply import Reply
from resolver.glance.glance_server import GlanceServer
from resolver.glance.listed_rows import (
    NO_MORE_ROWS,
    NO_ROWS,
    ListedImage,
    ListedRows,
    SkippedRows,
    ids_of,
)
from resolver.glance.listing_filters import (
    BY_ID,
    COMMUNITY,
    HIDDEN,
    UNKNOWN_FILTER,
    bad_listing,
    listing_filters,
)
from resolver.glance.probe import has_image
from resolver.image_facts import ImageFacts
from resolver.models import minor_version

PAGE_SIZE = 1000
"""Images in a page. Glance caps it at 1,000 without notice; a smaller page costs it as much."""

SHRINKING = 10
"""How many times smaller a page is asked for that has more bytes than are read."""

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

V1_LISTING = {"limit": str(PAGE_SIZE), **BY_ID, "is_public": "None"}

ONLY_HIDDEN = ("os_hidden", True)
"""The member of all rows that are listed with `HIDDEN`."""

MAX_UNSORTED_IMAGES = 200_000
"""Images of a server that does not sort: they are sorted here, and take some 30 MB meanwhile."""


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
    facts: Mapping[bytes, ImageFacts] = field(default_factory=dict)
    """What the listing shows of each image besides."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an earlier listing of the same server stopped: the cursor and markers of a page."""

    cursor: bytes
    markers: tuple[str, ...]


class UnsortedListing(LocationUnavailable):
    """A page is not in the order that was asked for."""


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
    only: tuple[str, object] | None = None
    """The member that all rows have where the server knows the filter of this pass. One that does
    not know it would list again what another pass lists."""
    resumed: bool = False
    """The next page continues an earlier listing, so it may hold nothing new."""
    skipped: SkippedRows = NO_ROWS
    """Rows of the latest page that name no image."""
    pages_without_images: int = 0
    """In a row, until now."""
    may_repeat: bool = False
    """The latest page was requested after an earlier marker than the last one."""
    requested_at: float = 0.0
    """When the latest page was requested, on `time.monotonic`."""
    facts: dict[bytes, ImageFacts] = field(default_factory=dict)
    """What the latest page shows of its images besides their ids."""

    async def next_page(self, server: GlanceServer) -> dict[bytes, int]:
        """The images of the next page that are new, with their letter case. After the last page it
        is empty and ``cursor`` is `END_CURSOR`.

        Raises:
            LocationUnavailable: the response is not a page of this listing.
        """
        before = self.marker
        rows = await self.next_rows(server)
        if not rows.markers:
            self.cursor, self.facts = END_CURSOR, {}
            return {}
        images = self._new_images(rows.images, moved=self.marker != before)
        self._check_progress(images, moved=self.marker != before)
        self.resumed = False
        return images

    async def pages(self, server: GlanceServer) -> AsyncIterator[ListedRows]:
        """All pages, in whatever order the server has.

        Raises:
            LocationUnavailable: a response is not a page of a listing.
        """
        used_markers: set[str] = set()
        while True:
            rows = await self.next_rows(server)
            yield rows
            if not rows.markers:
                return
            if self.marker in used_markers:
                raise self._repeats_error()
            used_markers.add(self.marker)

    async def next_rows(self, server: GlanceServer) -> ListedRows:
        """The rows of the next page, in any order. The last page has no markers.

        Raises:
            LocationUnavailable: the response is not a page of a listing.
        """
        reply = await self._request(server)
        if reply.status in UNKNOWN_FILTER:
            return NO_MORE_ROWS
        page_size = int(self.params["limit"])
        rows = ListedRows.of(await reply.page(page_size), KEPT_MARKERS, page_size)
        if self.only and rows.images:
            name, value = self.only
            if all(image.row.get(name) != value for image in rows.images):
                return NO_MORE_ROWS
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
            raise self._repeats_error()

    def _repeats_error(self) -> LocationUnavailable:
        return LocationUnavailable(
            "the listing repeats itself: the server seems to ignore `marker`",
            code="bad-listing",
        )

    async def _request(self, server: GlanceServer) -> Reply:
        self.requested_marker = self.marker
        self.requested_at = time.monotonic()
        self.may_repeat = self.resumed
        reply = await self._request_page(server)
        # For all but admins, a marker that was deleted since is 400, and one hidden since is 403.
        while reply.status in (400, 403) and self.earlier_markers:
            self.marker = self.earlier_markers.pop()
            self.may_repeat = True
            reply = await server.request(self.path, self._query())
        is_optional = self.only and not self.marker and reply.status in UNKNOWN_FILTER
        if reply.status != 200 and not is_optional:
            raise bad_listing(reply.status)
        return reply

    async def _request_page(self, server: GlanceServer) -> Reply:
        """The next page. Where it is too long a smaller one, and then larger ones again: a few
        images with the largest properties that Glance allows have more bytes than are read."""
        size = min(PAGE_SIZE, 2 * int(self.params["limit"]))
        while True:
            self.params = {**self.params, "limit": str(size)}
            try:
                return await server.request(self.path, self._query())
            except LocationUnavailable as error:
                if error.problem_code != "too-long" or size == 1:
                    raise
            size = max(1, size // SHRINKING)

    def _query(self) -> dict[str, str]:
        return {**self.params, **({"marker": self.marker} if self.marker else {})}

    def _new_images(self, listed: Sequence[ListedImage], *, moved: bool) -> dict[bytes, int]:
        """The images of a page that were not listed before; moves the cursor after them. ``moved``:
        the page ends elsewhere than the last one.

        Raises:
            UnsortedListing: the page is out of order.
        """
        images: dict[bytes, int] = {}
        cursor = self.cursor
        repeated = ""
        self.facts = {}
        for image_id, letter_case, text, row in listed:
            if letter_case:
                if image_id in self.uppercase_ids:
                    continue
                self.uppercase_ids.add(image_id)
            elif image_id <= self.cursor:
                repeated = text
                continue
            elif image_id <= cursor:
                raise _unsorted(text)
            else:
                cursor = image_id
            images[image_id] = letter_case
            self.facts[image_id] = ImageFacts.of(row)
        if repeated and moved and not self.may_repeat:
            raise _unsorted(repeated)
        self.cursor = cursor
        return images


def _unsorted(text: str) -> UnsortedListing:
    return UnsortedListing(
        f"the listing is out of order at {text}: the server does not sort it by id, as "
        "`sort_key=id` asks it to",
        code="bad-listing",
    )


async def list_images(
    server: GlanceServer,
    versions: tuple[str, ...],
    resume: Resume | None = None,
    *,
    sort_here: bool = False,
) -> AsyncIterator[Page]:
    """All images that the credential sees, ids ascending. The last page's cursor is `END_CURSOR`.

    ``sort_here``: read the whole listing first and sort it, for a server that does not.

    Raises:
        UnsortedListing: the server does not sort.
        LocationUnavailable: a response was not a page of a sorted listing.
    """
    passes = (
        await v2_passes(server)
        if server.uses_v2(versions)
        else [ListingPass("/v1/images/detail", V1_LISTING)]
    )
    sort_here = sort_here or "sort_key" not in passes[0].params
    if resume is not None:
        if sort_here or len(resume.markers) != len(passes):
            raise LocationUnavailable(
                "the server lists otherwise than before", code="cannot-resume"
            )
        for listing_pass, marker in zip(passes, resume.markers, strict=True):
            listing_pass.cursor, listing_pass.marker = resume.cursor, marker
            listing_pass.resumed = True
    async for page in _sort(server, passes) if sort_here else merge_passes(server, passes):
        yield page


async def _sort(server: GlanceServer, passes: Sequence[ListingPass]) -> AsyncIterator[Page]:
    """The same as `merge_passes`, for streams in any order.

    Raises:
        LocationUnavailable: a response was not a page of a listing, or there are too many images.
    """
    requested_at = time.monotonic()
    images: dict[bytes, int] = {}
    facts: dict[bytes, ImageFacts] = {}
    skipped = NO_ROWS
    for listing_pass in passes:
        async for rows in listing_pass.pages(server):
            images.update((image.image_id, image.letter_case) for image in rows.images)
            facts.update((image.image_id, ImageFacts.of(image.row)) for image in rows.images)
            skipped += rows.skipped
            if len(images) > MAX_UNSORTED_IMAGES:
                raise LocationUnavailable(
                    "the server does not sort its listing by id, and more than "
                    f"{MAX_UNSORTED_IMAGES} images cannot be sorted here",
                    code="bad-listing",
                )
    ids = sorted(images)
    for start in range(0, len(ids) or 1, PAGE_SIZE):
        page = {image_id: images[image_id] for image_id in ids[start : start + PAGE_SIZE]}
        is_last = start + PAGE_SIZE >= len(ids)
        cursor = END_CURSOR if is_last else ids[start + PAGE_SIZE - 1]
        shown = {image_id: facts[image_id] for image_id in page}
        yield Page(page, cursor, (), requested_at, skipped if is_last else NO_ROWS, shown)


async def v2_passes(server: GlanceServer, **filters: str) -> list[ListingPass]:
    """The passes that together list every image of a v2 server that matches the filters, as far as
    it can be asked for them (`listing_gap`). Those of a server that does not sort have no sort key.

    Raises:
        LocationUnavailable: the server did not say which filters it supports.
    """
    known = await listing_filters(server)
    params = {"limit": str(PAGE_SIZE), **(BY_ID if known.sorts else {}), **filters}
    passes = []
    for visibility in known.visibility:
        only = ("visibility", "community") if visibility == COMMUNITY else None
        passes.append(ListingPass("/v2/images", {**params, **visibility}, only=only))
    if known.hidden:
        passes += [
            replace(listed, params={**listed.params, **HIDDEN}, only=ONLY_HIDDEN)
            for listed in passes
        ]
    return passes


async def merge_passes(server: GlanceServer, passes: Sequence[ListingPass]) -> AsyncIterator[Page]:
    """Pages of several sorted streams, merged into one sorted stream.

    Raises:
        LocationUnavailable: a response was not a page of a sorted listing.
    """
    pending: dict[bytes, int] = {}
    facts: dict[bytes, ImageFacts] = {}
    requested_at = 0.0
    while (hindmost := min(passes, key=lambda p: p.cursor)).cursor != END_CURSOR:
        if not pending:
            requested_at = time.monotonic()
        pending.update(await hindmost.next_page(server))
        facts.update(hindmost.facts)
        cursor = min(p.cursor for p in passes)
        images = {
            image_id: letter_case
            for image_id, letter_case in pending.items()
            if letter_case or image_id <= cursor
        }
        for image_id in images:
            del pending[image_id]
        markers = tuple(p.requested_marker for p in passes)
        shown = {image_id: facts.pop(image_id) for image_id in images}
        yield Page(images, cursor, markers, requested_at, hindmost.skipped, shown)


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
        page = await reply.page(len(ids) + 1)
        listed = ids_of(page)
        has_more = page.is_cut or page.has_next
        if has_more or not listed <= set(ids):  # more, or other, than asked for
            return set()
        found |= listed
    return found
