"""How long work holds the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any


async def longest_turn(work: Coroutine[Any, Any, object]) -> tuple[float, BaseException | None]:
    """Seconds of processor time of the longest turn of the loop while this runs, and what it has
    raised."""
    longest, started = 0.0, time.thread_time()
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, started = max(longest, now - started), now
    return longest, task.exception()


async def check_turns(
    limit: float,
    work: Callable[[], Coroutine[Any, Any, object]],
    *expected: type[BaseException],
    attempts: int = 10,
) -> None:
    """Fails where each attempt has a turn of ``limit`` seconds of processor time or more: this
    machine may be busy. ``expected``: what the work may raise."""
    best = float("inf")
    for _ in range(attempts):
        longest, error = await longest_turn(work())
        assert error is None or isinstance(error, expected), repr(error)
        best = min(best, longest)
        if best < limit:
            return
    raise AssertionError(f"a turn took {best * 1000:.1f} ms, in the best of {attempts} attempts")
