"""One sweep: a location's whole listing against the claims that the index has for it.

The listing comes in UUID order, so the index is read bucket by bucket behind it and memory stays
bounded. What is listed and not claimed is claimed at once. What is claimed and not listed is only
noted: it is released when the listing has ended well, the loss is believable, and the server,
asked again about just these images, still does not have them. So a listing that fails, or lies by
leaving out, releases nothing.

How far a sweep is, and what it noted, lies in Redis too, so that another indexer goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from resolver.errors import LocationUnavailable
from resolver.glance import (
    END_CURSOR,
    GlanceServer,
    Page,
    Resume,
    list_images,
    sees_all,
    still_there,
)
from resolver.index import Index, LayoutView
from resolver.models import Progress, Sweep, format_id, parse_id

GUARD_FLOOR = 10
"""Images that a sweep may release whatever share they are, so that small clouds can change."""

CONFIRM_BATCH = 1000
"""Images asked about and released in one go."""

NOTED_MOST = 10_000
"""Images that one sweep may note as gone, against answers of before that are still on their way."""

CHECKPOINT = 1.0
"""Seconds between two checkpoints: what a killed sweep does again at most."""

LATE = 5.0
"""Seconds after which a page is written down only if the sweep is still ours to do."""

RESUME_WITHIN = 900.0
"""Seconds after its last checkpoint in which a sweep is gone on with; then it begins anew, since
what it saw first is too long ago to vouch for."""

Report = Callable[[Progress], Awaitable[None]]
"""Called after each page; raises to stop the sweep."""


@dataclass(slots=True)
class SweepState:
    started: float
    usual: int = 0
    """Images listed whose ids are in lower case."""
    claimed: int = 0
    before: int = 0
    """Claims that the index had when the listing passed them."""
    gone: dict[bytes, int] = field(default_factory=dict)
    """Claimed and not listed, with the spelling claimed."""
    odd: dict[bytes, int] = field(default_factory=dict)
    """Listed, spelt with upper case: these come in no order that can be relied on."""
    new_gone: dict[bytes, int] = field(default_factory=dict)
    new_odd: dict[bytes, int] = field(default_factory=dict)
    """Those of them that no checkpoint has yet."""
    known: str = ""
    """Some id that was listed, as it was spelt."""
    saved: float = field(default_factory=time.monotonic)

    @property
    def images(self) -> int:
        return self.usual + len(self.odd)

    def progress(self, page: Page | None = None) -> Progress:
        """How far the sweep is, for others; from ``page``, where it could be gone on with."""
        resumable = page is not None and page.cursor not in (b"", END_CURSOR)
        return Progress(
            started=self.started,
            images=self.images,
            claimed=self.claimed,
            before=self.before,
            front=format_id(page.cursor) if page and resumable else "",
            markers=page.markers if page and resumable else (),
            at=time.time(),
        )


class Sweeper:
    """Sweeps one location once."""

    def __init__(
        self, index: Index, server: GlanceServer, versions: tuple[str, ...], *, guard: float
    ) -> None:
        self._claims = index.claims
        self._saw = index.observations.record_present
        self._lost = index.observations.record_absent
        self._records = index.records
        self._server = server
        self._versions = versions
        self._guard = guard
        self._number = server.location.number

    async def run(
        self,
        report: Report,
        sighted: Callable[[bool | None, str], Awaitable[None]] | None = None,
        *,
        confirm_shrink: bool = False,
        resume: Progress | None = None,
        listed_before: int = 0,
    ) -> Sweep:
        """Sweeps, and tells how it went; goes on from where ``resume`` was.

        ``sighted`` hears before all else whether the credential sees every image, and why.
        ``listed_before`` is how many images the last whole sweep listed.

        Raises:
            LocationUnavailable: the server failed, or listed what cannot be believed. Claims made
                so far stay; nothing was released.
            IndexUnavailable: Redis failed. The same holds.
        """
        all_seen, why = await sees_all(self._server, self._versions)
        if sighted is not None:
            await sighted(all_seen, why)
        tally, start = await self._begin(resume)
        try:
            await self._list(tally, start, report)
        except LocationUnavailable:
            if start is None:
                raise
            # A server that cannot go on from there may well begin anew.
            tally, start = await self._begin(None)
            await self._list(tally, start, report)
        released = 0
        if all_seen:  # a credential that may see less proves nothing by not listing
            for image_id in tally.odd:
                tally.gone.pop(image_id, None)
            if not confirm_shrink:
                self._check_shrink_guard(tally, listed_before)
            released = await self._release(tally, report)
        await self._records.end_progress(self._number)
        return Sweep(
            started=tally.started,
            ended=time.time(),
            images=tally.images,
            claimed=tally.claimed,
            released=released,
            sees_all=all_seen,
            sees_all_why=why,
        )

    async def _begin(self, resume: Progress | None) -> tuple[SweepState, Resume | None]:
        """Where to start, from nothing or from another sweep's checkpoint."""
        if resume is None or not resume.front or abs(time.time() - resume.at) > RESUME_WITHIN:
            tally = SweepState(time.time())
            await self._records.begin_progress(self._number, tally.progress())
            return tally, None
        gone, odd = await self._records.sweep_findings(self._number)
        tally = SweepState(
            resume.started,
            usual=resume.images - len(odd),
            claimed=resume.claimed,
            before=resume.before,
            gone=gone,
            odd=odd,
        )
        return tally, Resume(parse_id(resume.front), resume.markers)

    async def _list(self, tally: SweepState, start: Resume | None, report: Report) -> None:
        buckets = self._claims.layout_view()
        waiting: dict[bytes, int] = {}
        asked = 0.0  # when the first that waits was asked for
        # Buckets before `done` are reconciled. The one that a checkpoint fell into was listed only
        # in part by us, so what it has and we did not see says nothing: `partial`.
        partial = done = buckets.bucket(start.cursor) if start else 0
        heard = time.monotonic()
        pages = ahead(list_images(self._server, self._versions, start))
        async with contextlib.aclosing(pages):
            async for page in pages:
                if time.monotonic() - heard > LATE:
                    await report(tally.progress())
                if not waiting:
                    asked = page.requested_at
                odd = {
                    image_id: letter_case
                    for image_id, letter_case in page.images.items()
                    if letter_case
                }
                waiting.update(
                    (image_id, letter_case)
                    for image_id, letter_case in page.images.items()
                    if not letter_case
                )
                tally.usual += len(page.images) - len(odd)
                if page.images:
                    image_id, letter_case = next(iter(page.images.items()))
                    tally.known = format_id(image_id, letter_case)
                passed = buckets.count if page.cursor == END_CURSOR else buckets.bucket(page.cursor)
                if passed > done:
                    ready = {
                        image_id: 0 for image_id in waiting if buckets.bucket(image_id) < passed
                    }
                    for image_id in ready:
                        del waiting[image_id]
                    await self._reconcile(
                        tally, buckets, (done, passed - 1), ready, asked, partial if start else None
                    )
                    done = passed
                if odd:
                    tally.odd.update(odd)
                    tally.new_odd.update(odd)
                    early = {r: c for r, c in odd.items() if buckets.bucket(r) >= done}
                    await self._claim_early(tally, early, asked)
                    tally.claimed += await self._saw(self._number, odd, asked)
                await self._checkpoint(tally, page, waiting, asked)
                await report(tally.progress(page))
                heard = time.monotonic()

    async def _checkpoint(
        self, tally: SweepState, page: Page, waiting: dict[bytes, int], asked: float
    ) -> None:
        """Writes down how far the sweep is, once in a while."""
        if time.monotonic() - tally.saved < CHECKPOINT:
            return
        # What waits for its bucket to be whole is before the front, so nobody would list it again.
        await self._claim_early(tally, waiting, asked)
        await self._records.set_progress(
            self._number, tally.progress(page), tally.new_gone, tally.new_odd
        )
        tally.new_gone, tally.new_odd = {}, {}
        tally.saved = time.monotonic()

    async def _claim_early(self, tally: SweepState, images: dict[bytes, int], asked: float) -> None:
        """Claims images before their bucket is read, where they will be no claims of before."""
        new = await self._saw(self._number, images, asked)
        tally.claimed += new
        tally.before -= new

    async def _reconcile(
        self,
        tally: SweepState,
        buckets: LayoutView,
        span: tuple[int, int],
        listed: dict[bytes, int],
        asked: float,
        partial: int | None,
    ) -> None:
        """Claims what is listed in these buckets and notes what is claimed and not listed."""
        async for bucket, claims in buckets.of_location(self._number, *span):
            tally.before += len(claims)
            for image_id, letter_case in claims.items():
                if image_id in listed:
                    if not letter_case:
                        del listed[image_id]
                elif bucket != partial:
                    tally.gone[image_id] = tally.new_gone[image_id] = letter_case
        tally.claimed += await self._saw(self._number, listed, asked)

    def _check_shrink_guard(self, tally: SweepState, listed_before: int) -> None:
        """Raises LocationUnavailable where a listing would cost more claims than is believable."""
        gone = len(tally.gone)
        many = gone > GUARD_FLOOR and gone > self._guard * tally.before
        # Not one of them: another server's listing, or none at all.
        other = listed_before > 1 and gone == tally.before > 1
        if many or other or (gone and not tally.images):
            lacks = f"lacks {gone}" if tally.images else "is empty"
            raise LocationUnavailable(
                f"the listing {lacks} where the index has "
                f"{tally.before} images of this location; nothing was released. If this is right, "
                f"run `glance-resolver locations sweep {self._server.location.name} "
                "--confirm-shrink`",
                code="shrink-guard",
            )

    async def _release(self, tally: SweepState, report: Report) -> int:
        released = 0
        gone = list(tally.gone.items())
        for i in range(0, len(gone), CONFIRM_BATCH):
            spelt = {
                format_id(image_id, letter_case): image_id
                for image_id, letter_case in gone[i : i + CONFIRM_BATCH]
            }
            there = await still_there(self._server, self._versions, spelt, tally.known or None)
            there |= await self._records.pinned_claims(self._number)
            # We may have slept since asking (SIGSTOP, a suspended machine): is it still ours?
            await report(tally.progress())
            lost = [image_id for image_id in spelt.values() if image_id not in there]
            # Millions that an operator confirmed would be as many notes, of which few are of use.
            release = self._lost if len(gone) <= NOTED_MOST else self._claims.release
            released += await release(self._number, lost)
        return released


async def ahead(pages: AsyncIterator[Page]) -> AsyncGenerator[Page, None]:
    """The same pages, each asked for while the one before it is dealt with."""
    end = object()

    async def following() -> Page | object:
        return await anext(pages, end)

    coming = asyncio.create_task(following())
    try:
        while isinstance(page := await coming, Page):
            coming = asyncio.create_task(following())
            yield page
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        if not coming.cancelled():
            coming.exception()  # seen
