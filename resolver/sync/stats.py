"""Counters of the background work of one process."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

Counts = dict[tuple[str, str], int]
"""(location name, result) to a count."""


@dataclass(slots=True)
class Stats:
    """What this process has done since its start, for metrics."""

    sweeps: Counts = field(default_factory=dict)
    """By location and result: ``ok`` or an error code."""
    checks: Counts = field(default_factory=dict)
    """By location and result: ``ok`` or ``failed``."""
    polls: Counts = field(default_factory=dict)
    """By location and result: ``ok`` or an error code."""
    events: Counts = field(default_factory=dict)
    """By location and kind: ``news``, ``old`` or ``other``."""
    event_lags: dict[str, float] = field(default_factory=dict)
    """By location: seconds from when Glance sent the latest notification until the index had it."""
    live_indexers: int = 0
    """Indexers that live, as this one sees them; 0 without an indexer in this process."""
    watched: dict[int, Collection[int]] = field(default_factory=dict)
    """Numbers of the locations whose health this process checks, by shard."""
    suspicious_shards: set[int] = field(default_factory=set)
    """Shards of which so many locations fail together that the checker marks none of them down."""
    last_tick: float = 0.0
    """When the indexer's loop last completed without an error, in seconds since 1970."""

    @property
    def checker_suspects_itself(self) -> bool:
        """Whether that is so in any shard."""
        return bool(self.suspicious_shards)

    def works_on(self, number: int) -> bool:
        """Whether this process checks the location: one process does, and shows its metrics."""
        return any(number in numbers for numbers in self.watched.values())

    @staticmethod
    def count(counts: Counts, location: str, result: str, number: int = 1) -> None:
        counts[location, result] = counts.get((location, result), 0) + number
