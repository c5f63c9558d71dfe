"""How long something took, counted in a row of numbers: two additions for each time."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Seconds; a redirect takes under a millisecond, a slow index a quarter of a second."""

LatencyRow = list[float]
"""How many took how long: the count between each bound and the one before it, the count above the
last bound, and the seconds of all together."""


def new_row() -> LatencyRow:
    """A row without a count."""
    return [0.0] * (len(BOUNDS) + 2)


def observe_seconds(row: LatencyRow, seconds: float) -> None:
    """Counts one more."""
    row[bisect_left(BOUNDS, seconds)] += 1
    row[-1] += seconds
