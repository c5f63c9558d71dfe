"""Waiting for a condition instead of sleeping for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

POLL_SECONDS = 0.01
LONGEST_POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 30.0
"""Long, so that a busy machine fails no test: a condition that holds is noticed at once."""


async def wait_until(
    condition: Callable[[], Any],
    timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the deadline is what this is for
    message: str = "",
) -> Any:
    """Polls a plain or async callable until its result is true, and returns that result: often at
    first, and less often the longer it takes.

    Raises:
        AssertionError: it was not true within `timeout` seconds.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(_pause(started))
    except TimeoutError:
        raise AssertionError(_failure(condition, timeout, message)) from None


def wait_until_blocking(
    condition: Callable[[], Any],
    timeout: float = TIMEOUT_SECONDS,
    message: str = "",
    ignored: tuple[type[Exception], ...] = (),
) -> Any:
    """Like `wait_until`, for code without an event loop.

    A call that raises one of the `ignored` errors counts as not yet true; the failure names the
    last one.
    """
    started = time.monotonic()
    while True:
        reason = ""
        try:
            if value := condition():
                return value
        except ignored as error:
            reason = f": {error}"
        if time.monotonic() - started > timeout:
            raise AssertionError(_failure(condition, timeout, message) + reason)
        time.sleep(_pause(started))


def _pause(started: float) -> float:
    """Until the next poll: a twentieth of the time that has passed, so that waiting costs little
    and takes hardly longer."""
    waited = time.monotonic() - started
    return min(max(POLL_SECONDS, waited / 20), LONGEST_POLL_SECONDS)


def _failure(condition: Callable[[], Any], timeout: float, message: str) -> str:
    name = message or getattr(condition, "__name__", "condition")
    return f"not within {timeout:g} s: {name}"
