"""The negative cache: remembers for a short time that locations do not have an image."""

from __future__ import annotations

import time
from collections.abc import Iterable

from resolver.models import Owner
from resolver.registry import LocationView, Table
from resolver.resolution.answer import ProbeResult

MAX_REMEMBERED_IMAGES = 100_000
"""Images whose "no" answers are remembered: some 40 MB with two locations."""

ProbedImage = tuple[bytes, int]
"""An image id and its letter case as the client spelled it."""


class NegativeCacheEntry(dict[int, ProbeResult]):
    """The "no" answers about one image by location number, and the silence of locations that do not
    vouch. Valid for this set of claims only: an image that is copied to a location that did
    not have it, and then deleted where it was, is never absent."""

    __slots__ = ("absent_in", "claims", "earliest", "latest", "spelling_checked_in")

    def __init__(self, claims: tuple[Owner, ...]) -> None:
        super().__init__()
        self.claims = claims
        self.latest = 0.0
        """`time.monotonic` of the latest answer."""
        self.absent_in: Table | None = None
        """The table of which these answers are known to prove that the image is absent."""
        self.spelling_checked_in: Table | None = None
        """The table for which Redis was asked, after these answers, whether it may have lost claims
        on ids in upper case."""
        self.earliest = 0.0
        """`time.monotonic` of the first of those answers."""

    def reset(self) -> None:
        """Nothing is concluded from these answers so far."""
        self.absent_in = self.spelling_checked_in = None


class NegativeCache:
    """The "no" answers about many images."""

    def __init__(self, remember: float) -> None:
        """``remember``: seconds for which a "no" is remembered."""
        self._remember = remember
        self._entries: dict[ProbedImage, NegativeCacheEntry] = {}
        """Least recently answered first."""

    def __len__(self) -> int:
        """How many images there are answers about."""
        return len(self._entries)

    def entry(self, image_id: bytes) -> NegativeCacheEntry | None:
        """The answers about an image as Glance writes its id, expired ones included."""
        return self._entries.get((image_id, 0))

    def age_of(self, entry: NegativeCacheEntry) -> float | None:
        """Seconds since the first answer of an entry; None if that has expired."""
        age = time.monotonic() - entry.earliest
        return age if age < self._remember else None

    def answers(
        self, image: ProbedImage, views: Iterable[LocationView], claims: tuple[Owner, ...]
    ) -> dict[int, ProbeResult]:
        """The answers of these locations that have not expired, by location number. They count if
        neither the location nor the image's claims have changed since. A "yes" is never remembered:
        a caller that asks an owner has a reason to doubt its claim."""
        entry = self._entries.get(image)
        if entry is None or entry.claims != claims:
            return {}
        since = time.monotonic() - self._remember
        return {
            view.location.number: result
            for view in views
            if (result := entry.get(view.location.number))
            and result.at > since
            and result.location_updated == view.location.updated
        }

    def spelling_is_checked(self, image_id: bytes, table: Table) -> None:
        """The image was found absent with this table: Redis has lost no claim on an id in upper
        case."""
        if entry := self.entry(image_id):
            entry.spelling_checked_in = table

    def forget_unless(self, image: ProbedImage, claims: tuple[Owner, ...]) -> None:
        """The index has these claims. What was remembered for other claims is forgotten."""
        entry = self._entries.get(image)
        if entry is not None and entry.claims != claims:
            del self._entries[image]

    def forget_answer(self, image: ProbedImage, number: int) -> None:
        """A location has the image."""
        if entry := self._entries.get(image):
            entry.pop(number, None)
            entry.reset()

    def add(
        self, image: ProbedImage, number: int, result: ProbeResult, claims: tuple[Owner, ...]
    ) -> None:
        """Remembers what a location answered while the image had these claims."""
        entry = self._entries.pop(image, None)
        if entry is None or entry.claims != claims:
            entry = NegativeCacheEntry(claims)
        entry[number] = result
        entry.latest = result.at
        entry.reset()
        self._entries[image] = entry
        for _ in range(2):  # expired entries leave faster than new ones come, in bounded time
            oldest = next(iter(self._entries))
            if result.at - self._entries[oldest].latest <= self._remember:
                break
            del self._entries[oldest]
        if len(self._entries) > MAX_REMEMBERED_IMAGES:
            del self._entries[next(iter(self._entries))]
