"""Bounds what anybody can make this process render."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

BURST = 20
"""Renderings at once after a quiet time: several watchers ask at the same moment."""


class BoundedRender(Generic[T]):
    """Something expensive, the same for all who ask, and rendered at most once a second in the long
    run. Those who ask more often get what was rendered last."""

    def __init__(
        self, per_second: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = 1 / per_second
        self._clock = clock
        self._full_at = 0.0
        """When `BURST` renderings are allowed again (the generic cell rate algorithm)."""
        self._last: T | None = None
        self._lock = asyncio.Lock()

    async def get(self, render: Callable[[], Awaitable[T]]) -> T:
        """What ``render`` returns, now or the last time; raises what it raises."""
        async with self._lock:
            now = self._clock()
            full_at = max(self._full_at, now) + self._seconds
            if self._last is None or full_at - now <= BURST * self._seconds:
                self._full_at = full_at
                self._last = await render()
            return self._last
