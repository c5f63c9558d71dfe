"""Problems that an operator should know of, as ``GET /status`` lists them.

Each part of a process that can notice a problem adds a source to the `ProblemBoard`. (The documents
with which single requests are refused are in `resolver.gateway.problem`.)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import structlog

log = structlog.get_logger()

ONE_FAULT = (
    *("location-refused", "shrink-guard", "sweep-failing", "poll-failing", "listing-gap"),
    "cannot-vouch",
)
"""Codes that one fault of a location can have, each before what may follow from it. A location that
has several of them is one problem: the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong now."""

    code: str
    """Stable name for machines: words in lower case, joined by hyphens."""
    text: str
    """What is wrong. Anybody may read it, so it names no host of Redis and no secret."""
    action: str
    """What to do about it."""
    location: str = ""
    """The name of the location that it is about; empty for the whole service."""
    since: float = 0.0
    """Unix time. 0: the source does not know, and the board uses when it first saw the problem."""
    consequence: str = ""
    """A sentence for the text of another problem that includes this one; see `ONE_FAULT`."""
    remedy: str = ""
    """A sentence for the action of such a problem."""
    includes: tuple[str, ...] = ()
    """The codes of the other problems that this one includes. The board fills it in."""


ProblemSource = Callable[[], Iterable[Problem]]
"""The problems that one part of the process has now. It reads what that part knows already: it must
not wait, since ``/status`` answers whatever fails."""


class ProblemBoard:
    """All problems of this process."""

    def __init__(self) -> None:
        self._sources: list[ProblemSource] = []
        self._first_seen: dict[tuple[str, str], float] = {}
        """Unix time by code and location, of the problems of the last call."""

    def add_source(self, source: ProblemSource) -> None:
        """Asks ``source`` too from now on."""
        self._sources.append(source)

    def current(self) -> list[Problem]:
        """The current problems, the oldest first. A source that fails is a problem itself."""
        now = time.time()
        found = [problem for source in self._sources for problem in _ask(source)]
        self._first_seen = {
            _key(problem): self._first_seen.get(_key(problem), now) for problem in found
        }
        dated = (
            problem if problem.since else replace(problem, since=self._first_seen[_key(problem)])
            for problem in found
        )
        return sorted(_merge(dated), key=lambda problem: (problem.since, _key(problem)))


def _key(problem: Problem) -> tuple[str, str]:
    return problem.code, problem.location


def _merge(problems: Iterable[Problem]) -> list[Problem]:
    """One problem for each fault of a location; see `ONE_FAULT`."""
    merged: list[Problem] = []
    faults: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        is_fault = problem.location and problem.code in ONE_FAULT
        (faults[problem.location] if is_fault else merged).append(problem)
    for found in faults.values():
        cause, *others = sorted(found, key=lambda problem: ONE_FAULT.index(problem.code))
        merged.append(
            replace(
                cause,
                text=" ".join([cause.text, *(p.consequence for p in others if p.consequence)]),
                action=" ".join([cause.action, *(p.remedy for p in others if p.remedy)]),
                since=min(problem.since for problem in found),
                includes=tuple(problem.code for problem in others),
            )
        )
    return merged


def _ask(source: ProblemSource) -> list[Problem]:
    try:
        return list(source())
    except Exception:
        log.exception("problem source failed")
        return [
            Problem(
                code="internal-error",
                text="some problems cannot be listed, because of a defect",
                action="report the traceback in the log",
            )
        ]
