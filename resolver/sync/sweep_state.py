"""What a sweep knows while it is under way."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resolver.errors import InvalidImageId
from resolver.glance import END_CURSOR, NO_ROWS, Page, Resume, SkippedRows
from resolver.image_facts import NOTHING_KNOWN, ImageFacts
from resolver.index import Count, LocationSpans, UnorderedClaims
from resolver.models import Progress, Sweep, format_id, parse_id

NO_CLAIMS = Count(0)

MIN_EXTRAPOLATED = 1000
"""Images listed from which on the number of all is estimated."""

MAX_EXTRAPOLATION = 16

MAX_GROWTH = 4.0
"""Locations that wait for their first sweep may list what others have, and the index does not
shrink again. A quarter of the images in a bucket costs each a byte more."""


@dataclass(slots=True)
class SweepState:
    """Counts and findings of one sweep, and how far it is.

    Image ids with upper-case digits are kept apart: the listing has them in an order that depends
    on the server's database, so only their presence says something.
    """

    spans: LocationSpans
    """The location's claims, in the order of the listing."""
    unordered: UnorderedClaims
    """Those whose ids are not random."""
    started_at: float
    """In seconds since 1970."""
    losses: int = 0
    """How often Redis may have lost claims before this sweep began."""
    listing_gap: str = ""
    """Why the listing may leave images out."""
    resume: Resume | None = None
    """The checkpoint of another sweep that this one continues."""
    claimed: Count = NO_CLAIMS
    """Claims made."""
    claims_before: int = field(init=False)
    """Claims of the location before this sweep."""
    lowercase_count: int = 0
    """Images listed whose ids have no upper-case digits."""
    unordered_count: int = 0
    """Those of them that are in `unordered`."""
    uppercase_ids: dict[bytes, int] = field(default_factory=dict)
    """Images listed with upper-case digits: image id to letter case."""
    missing_ids: dict[bytes, int] = field(default_factory=dict)
    """Claimed and not listed: image id to the letter case of the claim."""
    pending: dict[bytes, ImageFacts] = field(default_factory=dict)
    """Images listed in lower case whose span has not been listed completely, with what the
    listing shows of them. None of them is in `unordered`."""
    pending_since: float = 0.0
    """When the first of them was requested, on `time.monotonic`."""
    skipped: SkippedRows = NO_ROWS
    """Rows listed that name no image."""
    conflicts: int = 0
    """Images listed in lower case whose bytes another location is known to have otherwise."""
    listed_id: str = ""
    """Some id that was listed, as the server spells it."""
    next_span: int = field(init=False)
    """The first span that has not been reconciled."""
    resumed_span: int | None = field(init=False)
    """The span that the checkpoint fell into. We list only a part of it, so claims in it that we
    do not see prove nothing."""
    unknown_fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the checkpoint's record, to be written back with it."""
    checkpoint_at: float = field(default_factory=time.monotonic)
    _unsaved_missing: dict[bytes, int] = field(default_factory=dict)
    _unsaved_uppercase: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.resumed_span = self.spans.span(self.resume.cursor) if self.resume else None
        self.next_span = self.resumed_span or 0
        self.claims_before = self.spans.total

    @property
    def images(self) -> int:
        """Images listed."""
        return self.lowercase_count + len(self.uppercase_ids)

    def add_page(self, page: Page) -> tuple[dict[bytes, int], dict[bytes, ImageFacts]]:
        """Adds the images of a page. Returns those with upper-case digits, and of the others those
        that are in `unordered`, with what the listing shows of them."""
        if not self.pending:
            self.pending_since = page.requested_at
        uppercase_ids = {
            image_id: letter_case for image_id, letter_case in page.images.items() if letter_case
        }
        unordered: dict[bytes, ImageFacts] = {}
        is_ordered = self.spans.is_ordered
        for image_id, letter_case in page.images.items():
            if not letter_case:
                images = self.pending if is_ordered(image_id) else unordered
                images[image_id] = page.facts.get(image_id, NOTHING_KNOWN)
        self.unordered_count += len(unordered)
        self.lowercase_count += len(page.images) - len(uppercase_ids)
        self.uppercase_ids.update(uppercase_ids)
        self._unsaved_uppercase.update(uppercase_ids)
        self.skipped += page.skipped
        if page.images:
            self.listed_id = format_id(*next(iter(page.images.items())))
        return uppercase_ids, unordered

    def span_after(self, cursor: bytes) -> int:
        """The first span that is not listed completely at this cursor of the listing."""
        return self.spans.count if cursor == END_CURSOR else self.spans.span(cursor)

    def take_pending(self, end_span: int) -> dict[bytes, ImageFacts]:
        """Removes and returns the pending images in spans before ``end_span``."""
        pending, self.pending = self.pending, {}
        if end_span == self.spans.count:
            return pending
        end = self.spans.begin_of(end_span)
        self.pending = {image_id: facts for image_id, facts in pending.items() if image_id >= end}
        for image_id in self.pending:
            del pending[image_id]
        return pending

    def add_missing(self, image_id: bytes, letter_case: int) -> None:
        self.missing_ids[image_id] = self._unsaved_missing[image_id] = letter_case

    def remove_missing(self, ids: Iterable[bytes]) -> None:
        for image_id in ids:
            self.missing_ids.pop(image_id, None)

    def take_unsaved(self) -> tuple[dict[bytes, int], dict[bytes, int]]:
        """The missing and the upper-case ids that no checkpoint has yet."""
        unsaved = self._unsaved_missing, self._unsaved_uppercase
        self._unsaved_missing, self._unsaved_uppercase = {}, {}
        return unsaved

    def progress(self, page: Page | None = None) -> Progress:
        """How far the sweep is. With ``page``, another sweep can be resumed after it."""
        can_resume = page is not None and page.cursor not in (b"", END_CURSOR)
        return Progress(
            started=self.started_at,
            images=self.images,
            claimed=int(self.claimed),
            before=self.claims_before,
            skipped=self.skipped.count,
            skipped_examples=self.skipped.examples,
            conflicts=self.conflicts,
            listing_gap=self.listing_gap,
            unordered=self.unordered_count,
            front=format_id(page.cursor) if page and can_resume else "",
            markers=page.markers if page and can_resume else (),
            at=time.time(),
            losses=self.losses,
            unknown=self.unknown_fields,
        )


def expected_images(progress: Progress) -> int:
    """How many images a listing will have in the end, from how far in UUID order it is. Ids that
    are not random say nothing of that. Random ones may be chosen, so that they are not taken for
    more than `MAX_EXTRAPOLATION` times what there was."""
    random = progress.images - progress.unordered
    if not progress.front or random < MIN_EXTRAPOLATED:
        return progress.images
    try:
        listed = int.from_bytes(parse_id(progress.front)[:8], "big") / 2**64
    except InvalidImageId:  # written by something else
        return progress.images
    return progress.unordered + round(random / max(listed, 1 / MAX_EXTRAPOLATION))


def expected_growth(sweeps: Mapping[int, Sweep], under_way: Mapping[int, Progress]) -> float:
    """How many times as many images as now there will be when each location has been swept once.
    Those that wait for it are taken to have as many as the others. ``sweeps``: the status of each
    location; ``under_way``: by number, too."""
    listed = coming = known = waiting = 0
    for number, sweep in sweeps.items():
        if sweep.ended is not None:
            listed, known = listed + sweep.images, known + 1
        elif progress := under_way.get(number):
            listed, known = listed + progress.images, known + 1
            coming += expected_images(progress) - progress.images
        elif not sweep.error:
            waiting += 1
    if listed < MIN_EXTRAPOLATED:
        return 1.0
    return min(MAX_GROWTH, (listed + coming) / listed * (known + waiting) / known)
