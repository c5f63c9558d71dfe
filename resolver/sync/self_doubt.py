"""The health checker's suspicion that it, and not the locations, is at fault.

A network, a name server or a clock of the checker's own makes many locations fail together. Then
their failures are reported but mark none of them down. memberlist has the same idea in its
awareness (Lifeguard).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from resolver.models import Check, Health
from resolver.registry import LocationView
from resolver.sync.health import DOWN_AFTER_FAILURES

SUSPECT_SHARE = 0.5
"""When more than this share of the locations that were not down fail together, the checker suspects
itself. At least two must fail, or a single location could never go down."""


@dataclass(slots=True)
class WatchedLocation:
    """One location whose health is checked. Times are on the event loop's clock."""

    view: LocationView
    check: Check | None = None
    """Its status; None before the first check."""
    is_loaded: bool = False
    """Whether `check` was read from Redis, where another process may have left it."""
    is_busy: bool = False
    """Whether a check is under way."""
    due_at: float = 0.0
    checked_at: float = 0.0
    """When our last check ended; 0 before the first."""
    failing_since: float = 0.0
    """When the first of our failed checks in a row ended; 0 while checks succeed."""
    failed_checks: int = 0
    """Of this process, since the location was last up."""

    @property
    def is_down(self) -> bool:
        return self.check is not None and self.check.health is Health.DOWN

    @property
    def failures(self) -> int:
        """Failed checks in a row."""
        return self.check.failures if self.check else 0


class Doubt(NamedTuple):
    """Whether a failure may be the checker's own."""

    reason: str = ""
    """Why it may be; empty if the location is to blame."""
    check_first: tuple[WatchedLocation, ...] = ()
    """Locations to check before this can be decided."""


class SelfDoubt:
    """Compares a location that fails with all the others that are watched."""

    def __init__(self, watched: Mapping[int, WatchedLocation]) -> None:
        """``watched`` is by location number; its owner adds and removes locations."""
        self._watched = watched

    def doubt(self, failing: WatchedLocation) -> Doubt:
        """Whether the failure of a location may be the checker's own.

        Only locations that were not down count. Each must have been checked since the failures
        began; until then nothing is decided.
        """
        if not failing.view.in_service:
            return Doubt()
        others = list(self._others(failing))
        unchecked = tuple(other for other in others if other.checked_at < failing.failing_since)
        if unchecked:
            return Doubt("not counted until the other locations were checked", unchecked)
        failed = 1 + sum(bool(other.failures) for other in others)
        total = 1 + len(others)
        if failed >= 2 and failed > SUSPECT_SHARE * total:
            return Doubt(
                f"not counted: {failed} of {total} locations fail together, so the fault is "
                "likelier the checker's"
            )
        return Doubt()

    def _others(self, failing: WatchedLocation) -> Iterator[WatchedLocation]:
        for other in self._watched.values():
            if other is not failing and other.view.in_service and not other.is_down:
                yield other

    def withholds_down(self) -> bool:
        """Whether some location would be down if its failures were not doubted."""
        return any(
            location.failures >= DOWN_AFTER_FAILURES and not location.is_down
            for location in self._watched.values()
        )
