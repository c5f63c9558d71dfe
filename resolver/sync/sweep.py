"""One sweep: compares a location's whole listing with the claims that the index has for it.

The listing is in UUID order, so the index is read behind it, one span of neighbouring buckets after
the other and only where that is needed (`resolver.index.claim_counts`), and memory stays bounded.
Ids that are not random lie in another order in the index: each is looked up, and what is missing
is found when the listing has ended (`resolver.index.unordered_claims`).
Images that are listed and not claimed are claimed at once. Claims that are not listed are only
recorded as missing. They are released when the listing has ended without an error, the loss is
plausible, and the server, asked again about exactly these images, still does not have them.
So a listing that fails, or leaves images out, releases nothing. Releases are confirmed and made in
batches: an error between two batches keeps those that were made.

Progress and findings are stored in Redis too, so that another indexer can resume the sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
)
from functools import partial

from resolver.errors import LocationUnavailable
from resolver.glance import (
    END_CURSOR,
    CredentialScope,
    GlanceServer,
    Page,
    Resume,
    ScopeCache,
    SkippedRows,
    UnsortedListing,
    credential_since,
    list_images,
    listing_gap,
    still_there,
)
from resolver.image_facts import ImageFacts
from resolver.index import MAX_MEMORY_BYTES, MIN_GUARDED_LOSS, Count, Index
from resolver.models import Progress, Sweep, format_id, parse_id
from resolver.sync.sweep_state import SweepState
from resolver.sync.timings import DEFAULT_TIMINGS
from resolver.turns import parts_of

CONFIRM_BATCH = 1000
"""Missing images that are confirmed and released together."""

MAX_RECORDED_ABSENT = 10_000
"""Up to this many releases of one sweep are recorded as observations, against older answers that
are still on their way. Millions that an operator has confirmed are released without."""

SLOW_PAGE_SECONDS = 5.0
"""After a page that took longer, the lease is checked before anything is written."""

MAX_RESUME_AGE_SECONDS = 900.0
"""A checkpoint older than this is not resumed: its first observations are too old to rely on."""

RESUMABLE_CODES = frozenset({"rate-limited", "timeout", "unreachable", "cut", "server-error"})
"""Failures that say nothing about the listing: the next sweep continues at the checkpoint."""

Report = Callable[[Progress], Awaitable[None]]
"""Called after each page, and before releases. It raises to stop the sweep."""

OnScope = Callable[[CredentialScope], Awaitable[None]]
"""Called with what the credential was found to see."""


class Sweeper:
    """Sweeps one location once."""

    def __init__(
        self,
        index: Index,
        server: GlanceServer,
        versions: tuple[str, ...],
        scopes: ScopeCache,
        *,
        guard: float,
        checkpoint_seconds: float = DEFAULT_TIMINGS.checkpoint,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        """``guard`` is the share of its claims that a location may lose in one sweep.
        ``max_memory_bytes``: of listed ids that are not random; more lie in a temporary file."""
        self._index = index
        self._server = server
        self._versions = versions
        self._scopes = scopes
        self._guard = guard
        self._checkpoint_seconds = checkpoint_seconds
        self._max_memory_bytes = max_memory_bytes
        self._number = server.location.number
        self._credential = ""
        """With which the location was listed last."""
        self._to_close = contextlib.ExitStack()

    async def run(
        self,
        report: Report,
        on_scope: OnScope | None = None,
        *,
        confirm_shrink: bool = False,
        resume: Progress | None = None,
        last: Sweep | None = None,
        counted_since: float | None = None,
    ) -> Sweep:
        """Sweeps from the start, or from the checkpoint in ``resume``. ``on_scope`` is called
        before anything else. ``last``: the status of the last sweeps. ``counted_since``
        (`time.monotonic`): claims that were counted then or later need not be counted again; None:
        they are.

        Raises:
            LocationUnavailable: the server failed, or its listing is not plausible. Claims made so
                far stay. Nothing was released but what the server had confirmed to be gone.
            IndexUnavailable: Redis failed. The same holds.
        """
        with self._to_close:
            return await self._run(
                report, on_scope, last or Sweep(), resume, counted_since, confirm_shrink
            )

    async def _run(
        self,
        report: Report,
        on_scope: OnScope | None,
        last: Sweep,
        resume: Progress | None,
        counted_since: float | None,
        confirm_shrink: bool,
    ) -> Sweep:
        was_proven = last.sees_all_proven and not confirm_shrink
        self._credential = await self._server.credential()
        scope = await self._scopes.check(self._server, self._versions, was_proven=was_proven)
        if on_scope is not None:
            await on_scope(scope)
        state = await self._begin(resume, counted_since)
        try:
            await self._read_listing(state, report, scope)
        except UnsortedListing:
            state = await self._begin(None)
            await self._read_listing(state, report, scope, sort_here=True)
        except LocationUnavailable as error:
            if state.resume is None or error.problem_code in RESUMABLE_CODES:
                raise
            # The server may be unable to continue there, and able to list from the start.
            state = await self._begin(None)
            await self._read_listing(state, report, scope)
        await self._check_scope(scope)
        released = Count(0)
        if scope.sees_all:  # otherwise a missing image proves nothing
            state.remove_missing(state.uppercase_ids)
            if not confirm_shrink:
                released_before = await self._index.observations.released_since_sweep(self._number)
                self._check_shrink_guard(state, last.images, released_before)
            released = await self._release_missing(state, report, scope)
        await self._index.records.end_progress(self._number)
        await self._index.observations.reset_released(self._number)
        return Sweep(
            started=state.started_at,
            ended=time.time(),
            images=state.images,
            claimed=int(state.claimed),
            released=int(released),
            counts_are_exact=state.claimed.is_exact and released.is_exact,
            skipped=state.skipped.count,
            skipped_examples=state.skipped.examples,
            sees_all=scope.sees_all,
            sees_all_why=scope.why,
            sees_all_proven=scope.is_proven,
            conflicts=state.conflicts,
            listing_gap=state.listing_gap,
            losses=state.losses,
        )

    async def _check_scope(self, before: CredentialScope) -> None:
        """Raises LocationUnavailable where the credential sees less than before: the server may
        have taken its client for an anonymous one meanwhile."""
        if before.sees_all:
            await self._check_credential(before)
            now = await self._scopes.check(
                self._server, self._versions, was_proven=before.is_proven
            )
            if not now.sees_all:
                raise LocationUnavailable(
                    f"the credential saw every image when the sweep began, but now {now.why}; "
                    "nothing was released",
                    code="unauthorized",
                )

    async def _check_scope_if_possible(self, before: CredentialScope) -> None:
        """As `_check_scope`, where the server answers: of what is listed with a credential that has
        ended, nothing is continued."""
        try:
            await self._check_scope(before)
        except LocationUnavailable as error:
            if error.problem_code not in RESUMABLE_CODES:
                raise

    async def _check_credential(self, scope: CredentialScope) -> None:
        """Raises LocationUnavailable where what was listed so far may have been listed with a
        credential that had ended."""
        self._credential = await credential_since(
            self._server, self._versions, scope, self._credential
        )

    async def _begin(
        self, resume: Progress | None, counted_since: float | None = None
    ) -> SweepState:
        """The state to start with: empty, or that of another sweep's checkpoint."""
        records = self._index.records
        started_at = time.time()  # before `losses`, so that what is lost from now on is lost later
        losses = await self._index.server_watch.losses()
        since = time.monotonic() if counted_since is None else counted_since
        spans = await self._index.claim_counts.spans(self._number, since)
        unordered = self._to_close.enter_context(spans.unordered(self._max_memory_bytes))
        if (
            resume is None
            or not resume.front
            or resume.losses != losses  # what it claimed may be lost
            or abs(time.time() - resume.at) > MAX_RESUME_AGE_SECONDS
        ):
            state = SweepState(spans, unordered, started_at, losses=losses)
            await records.begin_progress(self._number, state.progress())
            if self._server.uses_v2(self._versions):
                state.listing_gap = await listing_gap(self._server)
            return state
        findings = await records.sweep_findings(self._number)
        state = SweepState(
            spans,
            unordered,
            resume.started,
            losses=losses,
            resume=Resume(parse_id(resume.front), resume.markers),
            claimed=Count(resume.claimed),
            lowercase_count=resume.images - len(findings.uppercase_ids),
            unordered_count=resume.unordered,
            uppercase_ids=findings.uppercase_ids,
            missing_ids=findings.missing_ids,
            skipped=SkippedRows(resume.skipped, resume.skipped_examples),
            conflicts=resume.conflicts,
            listing_gap=resume.listing_gap,
            unknown_fields=resume.unknown,
        )
        state.claims_before = resume.before
        return state

    async def _read_listing(
        self,
        state: SweepState,
        report: Report,
        scope: CredentialScope,
        *,
        sort_here: bool = False,
    ) -> None:
        """Reads the listing to its end, claims what it has and finds what it lacks."""
        reported_at = time.monotonic()
        pages = read_ahead(
            list_images(self._server, self._versions, state.resume, sort_here=sort_here)
        )
        last_page = None
        try:
            async with contextlib.aclosing(pages):
                async for page in pages:
                    if time.monotonic() - reported_at > SLOW_PAGE_SECONDS:
                        await report(state.progress())
                    await self._add_page(state, page)
                    await self._check_credential(scope)
                    last_page = page
                    if time.monotonic() - state.checkpoint_at >= self._checkpoint_seconds:
                        await self._store_checkpoint(state, page)
                    await report(state.progress(page))
                    reported_at = time.monotonic()
        except LocationUnavailable as error:
            if last_page is not None and error.problem_code in RESUMABLE_CODES:
                await self._check_scope_if_possible(scope)
                # What was listed of these is not in a checkpoint.
                await self._find_missing_unordered(state, last_page.cursor, report)
                await self._store_checkpoint(state, last_page)
            raise
        await self._find_missing_unordered(state, END_CURSOR, report)

    async def _add_page(self, state: SweepState, page: Page) -> None:
        """Compares what has been listed completely, and claims images in upper case at once."""
        uppercase_ids, unordered = state.add_page(page)
        await self._reconcile_up_to(state, page.cursor)
        if unordered:
            await self._reconcile_unordered(state, unordered)
        if uppercase_ids:
            facts = page.facts
            await self._record_present(state, uppercase_ids, facts)

    async def _reconcile_up_to(self, state: SweepState, cursor: bytes) -> None:
        """Compares the spans that have been listed completely with their claims: claims the images
        that are only listed, or of which the listing shows something else, and finds those that are
        only claimed."""
        first, end = state.next_span, state.span_after(cursor)
        if end <= first:
            return
        listed = state.take_pending(end)
        to_claim = dict(listed)
        async for span, claims in state.spans.compare(first, end, listed):
            for image_id, claim in claims.items():
                if (facts := listed.get(image_id)) is not None:
                    if claim.others:
                        state.conflicts += claim.conflicts_with(facts.content)
                    if not claim.is_changed_by(0, facts):
                        to_claim.pop(image_id, None)
                elif span != state.resumed_span:
                    state.add_missing(image_id, claim.letter_case)
        await self._record_present(state, dict.fromkeys(to_claim, 0), to_claim)
        state.next_span = end

    async def _reconcile_unordered(
        self, state: SweepState, listed: Mapping[bytes, ImageFacts]
    ) -> None:
        """The same for listed images whose ids are not random. What is only claimed shows when the
        listing has ended."""
        try:
            state.unordered.add_listed(listed)
        except OSError as error:
            raise LocationUnavailable(
                f"cannot write a temporary file ({error}): set TMPDIR to a directory with 16 bytes "
                "of room for each image",
                code="internal-error",
            ) from error
        to_claim = dict(listed)
        for image_id, claim in (await state.unordered.compare(listed)).items():
            facts = listed[image_id]
            state.conflicts += claim.conflicts_with(facts.content)
            if not claim.is_changed_by(0, facts):
                del to_claim[image_id]
        await self._record_present(state, dict.fromkeys(to_claim, 0), to_claim)

    async def _find_missing_unordered(
        self, state: SweepState, cursor: bytes, report: Report
    ) -> None:
        """Finds claims on images whose ids are not random, and that are not listed although the
        listing has reached ``cursor``. Nothing is known of those before the checkpoint."""
        after = state.resume.cursor if state.resume else b""
        async for missing in state.unordered.missing(after, cursor):
            for image_id, claim in missing.items():
                state.add_missing(image_id, claim.letter_case)
            await report(state.progress())

    async def _record_present(
        self, state: SweepState, ids: dict[bytes, int], facts: Mapping[bytes, ImageFacts]
    ) -> None:
        """Claims images, unless they were seen to be deleted meanwhile. Counts new claims."""
        new = await self._index.observations.record_present(
            self._number, ids, state.pending_since, facts
        )
        state.claimed = state.claimed.plus(new)

    async def _store_checkpoint(self, state: SweepState, page: Page) -> None:
        # Pending images are before the cursor: a sweep that resumes there does not list them.
        state.spans.recount(state.pending)
        await self._record_present(state, dict.fromkeys(state.pending, 0), state.pending)
        await self._index.records.set_progress(
            self._number, state.progress(page), *state.take_unsaved()
        )
        state.checkpoint_at = time.monotonic()

    def _check_shrink_guard(
        self, state: SweepState, listed_before: int, released_before: int
    ) -> None:
        """Raises LocationUnavailable where the missing images are too many to be plausible,
        together with those that were released since the last complete sweep."""
        missing = len(state.missing_ids)
        lost, claims_before = missing + released_before, state.claims_before + released_before
        lost_many = missing and lost > MIN_GUARDED_LOSS and lost > self._guard * claims_before
        # Not a single image is the same: this is another server's listing.
        lost_all = listed_before > 1 and missing >= state.claims_before > 1
        if lost_many or lost_all or (lost and not state.images):
            lacks = f"lacks {lost}" if state.images else "is empty"
            earlier = ""
            if released_before:
                earlier = f" ({released_before} of them released since the last complete sweep)"
            raise LocationUnavailable(
                f"the listing {lacks} where the index has "
                f"{claims_before} images of this location{earlier}; nothing was released. "
                "If this is right, run `glance-resolver locations sweep "
                f"{self._server.location.name} --confirm-shrink`",
                code="shrink-guard",
            )

    async def _release_missing(
        self, state: SweepState, report: Report, scope: CredentialScope
    ) -> Count:
        """Releases the missing images that the server, asked again, still does not have. Returns
        how many."""
        released = Count(0)
        missing = list(state.missing_ids.items())
        release = (
            partial(self._index.observations.record_absent, guarded=False)
            if len(missing) <= MAX_RECORDED_ABSENT
            else self._index.claims.release
        )
        for batch in parts_of(missing, CONFIRM_BATCH):
            credential = await self._server.credential()
            absent = await self._confirm_absent(dict(batch), state.listed_id)
            await self._check_scope(scope)
            if await self._server.credential() != credential:
                raise LocationUnavailable(
                    "the credential was replaced while missing images were confirmed; the next "
                    "sweep repeats it",
                    code="unauthorized",
                )
            # This process may have been suspended since: is the sweep still ours?
            await report(state.progress())
            released = released.plus(await release(self._number, absent))
        return released

    async def _confirm_absent(
        self, missing_ids: dict[bytes, int], listed_id: str
    ) -> Collection[bytes]:
        """Those of these images that the server does not have and no operator has pinned."""
        by_text = {
            format_id(image_id, letter_case): image_id
            for image_id, letter_case in missing_ids.items()
        }
        found = await still_there(self._server, self._versions, by_text, listed_id or None)
        pinned = await self._index.records.pinned_claims(self._number)
        return [image_id for image_id in missing_ids if image_id not in found | pinned]


async def read_ahead(pages: AsyncIterator[Page]) -> AsyncGenerator[Page, None]:
    """The same pages. The next one is requested while the caller uses the last."""
    end = object()

    async def next_page() -> Page | object:
        return await anext(pages, end)

    upcoming = asyncio.create_task(next_page())
    try:
        while isinstance(page := await upcoming, Page):
            upcoming = asyncio.create_task(next_page())
            yield page
    finally:
        upcoming.cancel()
        await asyncio.wait([upcoming])
        if not upcoming.cancelled():
            upcoming.exception()  # mark it as retrieved
