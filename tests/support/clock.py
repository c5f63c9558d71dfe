"""Measured times without the share of other processes."""

from __future__ import annotations

import time
from pathlib import Path

SCHEDSTAT = Path("/proc/thread-self/schedstat")
NANOSECONDS = 1e9


def scheduling_delay() -> float:
    """Seconds for which this thread was ready to run and waited for a processor; 0 where the
    kernel does not count them."""
    try:
        return int(SCHEDSTAT.read_text().split()[1]) / NANOSECONDS
    except (OSError, IndexError):
        return 0.0


class Stopwatch:
    """Measures how long something takes."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._begun, self._delay = time.monotonic(), scheduling_delay()

    @property
    def elapsed(self) -> float:
        """Seconds on the clock: the least that something took."""
        return time.monotonic() - self._begun

    @property
    def own_seconds(self) -> float:
        """`elapsed` without the time in which other processes had the processor: what an upper
        bound is compared with."""
        return self.elapsed - (scheduling_delay() - self._delay)
