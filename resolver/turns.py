"""Long work on the event loop: other tasks get turns in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TypeVar

TURN_SECONDS = 0.002

T = TypeVar("T")


async def in_turns(items: Iterable[T], seconds: float = TURN_SECONDS) -> AsyncIterator[T]:
    """The items. Other tasks get a turn whenever work on them has taken ``seconds``."""
    turn_ends = time.monotonic() + seconds
    for item in items:
        yield item
        if time.monotonic() >= turn_ends:
            await asyncio.sleep(0)
            turn_ends = time.monotonic() + seconds


def parts_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Items in their order, ``size`` at a time; the last part may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
