"""Waiting for what happens in the background, without guessing how long it takes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

POLL = 0.01
"""Seconds between two looks."""


async def wait_until(
    condition: Callable[[], Any],
    timeout: float = 10,  # noqa: ASYNC109 - it is the very thing that this is for
    message: str = "",
) -> Any:
    """Polls `condition`, a plain or async callable, until it is true; returns what it gave.

    Raises:
        AssertionError: it was not true within `timeout` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(POLL)
    except TimeoutError:
        name = message or getattr(condition, "__name__", "condition")
        raise AssertionError(f"not within {timeout:g} s: {name}") from None
