"""Locations that keep others from proving that an image is absent, for ``GET /status``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from resolver.models import Health
from resolver.problems import Problem
from resolver.registry import NO_INDEXER, LocationView, TableKeeper
from resolver.resolution.answer import ProbeResult

SILENCE_SECONDS = 60.0
"""How long after the last question without a useful answer a location counts as silent. It may not
have been asked since."""


@dataclass(slots=True)
class Silence:
    """Answers of a location that were neither a yes nor a no, with none in between that was."""

    since: float
    """Unix time of the first."""
    last: float
    """Unix time of the last."""
    reason: str


class Silences:
    """Which locations have given this process no useful answer, by location number."""

    def __init__(self) -> None:
        self._silences: dict[int, Silence] = {}

    def record(self, number: int, result: ProbeResult) -> None:
        """A location was asked about an image."""
        if result.absent or result.owner is not None:
            self._silences.pop(number, None)
            return
        now = time.time()
        silence = self._silences.setdefault(number, Silence(now, now, ""))
        silence.last, silence.reason = now, result.reason

    def of(self, number: int, now: float) -> Silence | None:
        """The silence of a location that goes on, as far as is known."""
        silence = self._silences.get(number)
        return silence if silence and now - silence.last <= SILENCE_SECONDS else None


class VouchingProblems:
    """The locations that vouch and cannot prove now that they lack an image."""

    def __init__(
        self, tables: TableKeeper, silences: Silences | None, absent_age: float | None
    ) -> None:
        """Args:
        silences: of the prober; None where no location is asked.
        absent_age: seconds for which the index is a proof; None: locations must be asked.
        """
        self._tables = tables
        self._silences = silences
        self._absent_age = absent_age

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        now, table = time.time(), self._tables.table
        if table.in_service() and not table.vouching():
            yield Problem(
                code="cannot-vouch",
                text="No location in service vouches for what it lacks, so that no image is "
                "answered as absent.",
                action="`glance-resolver locations set NAME --vouches true`, for each location "
                "whose silence counts.",
            )
        unasked = table.unasked_problems(now)
        for view in (*table.vouching(), *(table.by_name[name] for name in unasked)):
            reason, since = unasked.get(view.name, ""), 0.0
            if not reason:
                reason, since = self._doubt(view, now)
            if reason and reason != NO_INDEXER:  # that is one problem, of the whole service
                is_guarded = reason == view.guard_problem
                remedy = (
                    "To let the others prove absence without it: `glance-resolver locations set "
                    f"{view.name} --vouches false`."
                )
                yield Problem(
                    code="cannot-vouch",
                    text="Images that no location has are answered 503, not 404, because of "
                    f"location {view.name!r}: {reason}.",
                    action=f"`glance-resolver locations check {view.name}` says what is wrong. "
                    + remedy,
                    location=view.name,
                    since=since,
                    consequence="Because of it, images that no location has are answered 503, not "
                    f"404{'' if is_guarded else f': {reason}'}.",
                    remedy="" if is_guarded else remedy,
                )

    def _doubt(self, view: LocationView, now: float) -> tuple[str, float]:
        """Why a location cannot prove absence, and since when; an empty text if it can, and 0 where
        the time is not known."""
        if view.guard_problem:
            return view.guard_problem, view.status.sweep.guarded or 0.0
        if self._silences is None or self._absent_age is not None:
            uncovered = view.coverage_problem(now, self._absent_age)
            if self._silences is None or not uncovered:
                return uncovered, (view.status.sweep.ended or 0.0) if uncovered else 0.0
        if silence := self._silences.of(view.location.number, now):
            return silence.reason, silence.since
        if view.health is Health.DOWN:
            changes = view.status.check.changes if view.status.check else ()
            return "it is down", changes[0].at if changes else 0.0
        return "", 0.0
