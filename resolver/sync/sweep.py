"""One sweep: a location's whole listing against the claims that the index has for it.

The listing comes in UUID order, so the index is read bucket by bucket behind it and memory stays
bounded. What is listed and not claimed is claimed at once. What is claimed and not listed is only
noted: it is released when the listing has ended well, the loss is believable, and the server,
asked again about just these images, still does not have them. So a listing that fails, or lies by
leaving out, releases nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from resolver.errors import LocationUnavailable
from resolver.glance import Page, Server, list_images, still_there
from resolver.glance.listing import END, sees_all
from resolver.index import Index
from resolver.models import Progress, Sweep, format_id

GUARD_FLOOR = 10
"""Images that a sweep may release whatever share they are, so that small clouds can change."""

CONFIRM_BATCH = 1000
"""Images asked about and released in one go."""

Report = Callable[[Progress], Awaitable[None]]
"""Called after each page; raises to stop the sweep."""


@dataclass(slots=True)
class _Tally:
    images: int = 0
    claimed: int = 0
    before: int = 0
    """Claims that the index had when the listing passed them."""
    gone: dict[bytes, int] = field(default_factory=dict)
    """Claimed and not listed, with the spelling claimed."""
    odd: dict[bytes, int] = field(default_factory=dict)
    """Listed, spelt with upper case: these come in no order that can be relied on."""
    known: str = ""
    """Some id that was listed, as it was spelt."""


class Sweeper:
    """Sweeps one location once."""

    def __init__(
        self, index: Index, server: Server, versions: tuple[str, ...], *, guard: float
    ) -> None:
        self._claims = index.claims
        self._server = server
        self._versions = versions
        self._guard = guard
        self._number = server.location.number

    async def run(self, report: Report, *, confirm_shrink: bool = False) -> Sweep:
        """Sweeps, and tells how it went.

        Raises:
            LocationUnavailable: the server failed, or listed what cannot be believed. Claims made
                so far stay; nothing was released.
            IndexUnavailable: Redis failed. The same holds.
        """
        started = time.time()
        all_seen, why = await sees_all(self._server, self._versions)
        tally = await self._list(started, report)
        released = 0
        if all_seen is not False:  # a credential that sees less proves nothing by not listing
            for raw in tally.odd:
                tally.gone.pop(raw, None)
            if not confirm_shrink:
                self._believe(tally)
            released = await self._release(tally, report, started)
        return Sweep(
            started=started,
            ended=time.time(),
            images=tally.images,
            claimed=tally.claimed,
            released=released,
            sees_all=all_seen,
            sees_all_why=why,
        )

    async def _list(self, started: float, report: Report) -> _Tally:
        tally = _Tally()
        buckets = self._claims.buckets
        waiting: dict[bytes, int] = {}
        done = 0  # buckets before this one are reconciled
        async for page in list_images(self._server, self._versions):
            tally.images += len(page.images)
            for raw, case in page.images.items():
                (tally.odd if case else waiting)[raw] = case
            if page.images:
                raw, case = next(iter(page.images.items()))
                tally.known = format_id(raw, case)
            passed = buckets.count if page.front == END else buckets.number(page.front)
            if passed > done:
                ready = {r: c for r, c in waiting.items() if buckets.number(r) < passed}
                for raw in ready:
                    del waiting[raw]
                await self._reconcile(tally, done, passed - 1, ready)
                done = passed
            await self._claim_odd(tally, page)
            await report(
                Progress(
                    started=started,
                    images=tally.images,
                    marker=format_id(page.front) if page.front not in (b"", END) else "",
                    at=time.time(),
                )
            )
        return tally

    async def _reconcile(
        self, tally: _Tally, first: int, last: int, listed: dict[bytes, int]
    ) -> None:
        """Claims what is listed in these buckets and notes what is claimed and not listed."""
        async for _, claims in self._claims.of_location(self._number, first, last):
            tally.before += len(claims)
            for raw, case in claims.items():
                if raw not in listed:
                    tally.gone[raw] = case
                elif not case:
                    del listed[raw]
        tally.claimed += await self._claims.claim(self._number, listed)

    async def _claim_odd(self, tally: _Tally, page: Page) -> None:
        odd = {raw: case for raw, case in page.images.items() if case}
        if odd:
            tally.claimed += await self._claims.claim(self._number, odd)

    def _believe(self, tally: _Tally) -> None:
        """Raises LocationUnavailable where a listing would cost more claims than is believable."""
        gone = len(tally.gone)
        empty = gone and not tally.images
        if empty or (gone > GUARD_FLOOR and gone > self._guard * tally.before):
            raise LocationUnavailable(
                f"the listing {'is empty' if empty else f'lacks {gone}'} where the index has "
                f"{tally.before} images of this location; nothing was released. If this is right, "
                f"run `glance-resolver locations sweep {self._server.location.name} "
                "--confirm-shrink`",
                code="shrink-guard",
            )

    async def _release(self, tally: _Tally, report: Report, started: float) -> int:
        released = 0
        gone = list(tally.gone.items())
        for i in range(0, len(gone), CONFIRM_BATCH):
            spelt = {format_id(raw, case): raw for raw, case in gone[i : i + CONFIRM_BATCH]}
            there = await still_there(self._server, self._versions, spelt, tally.known or None)
            released += await self._claims.release(
                self._number, [raw for raw in spelt.values() if raw not in there]
            )
            await report(Progress(started=started, images=tally.images, at=time.time()))
        return released
