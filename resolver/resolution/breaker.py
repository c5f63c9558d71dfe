"""A circuit breaker before the index."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

import structlog

from resolver.errors import IndexUnavailable
from resolver.problems import Problem

FAILURES_TO_OPEN = 3
"""Failed lookups in a row after which requests no longer wait for the index."""

TRIAL_INTERVAL_SECONDS = 0.25
"""Between two trials of an index that does not answer, give or take a fifth."""

log = structlog.get_logger()


class Breaker:
    """Keeps requests from waiting for an index that does not answer.

    While the breaker is open no request asks the index. One task tries again and again until the
    index answers, and closes the breaker.
    """

    def __init__(self, trial: Callable[[], Awaitable[object]]) -> None:
        """``trial`` asks the index once; it raises IndexUnavailable when it gets no answer."""
        self._trial = trial
        self._failures = 0
        self._trying: asyncio.Task[None] | None = None
        self.error: IndexUnavailable | None = None
        """Why the breaker is open; None while it is closed."""

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`. Redis may be too late for requests only."""
        if self.error is not None:
            yield Problem(
                code="index-unavailable",
                text=f"Requests are answered without the index: {self.error.detail}.",
                action="Check Redis and the network to it: it must answer within "
                "RESOLVER_INDEX_TIMEOUT.",
            )

    def record_success(self) -> None:
        self._failures = 0

    def record_failure(self, error: IndexUnavailable) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN and self._trying is None:
            self.error = error
            self._trying = asyncio.create_task(self._try_until_success(), name="breaker")

    async def _try_until_success(self) -> None:
        while True:
            await asyncio.sleep(TRIAL_INTERVAL_SECONDS * random.uniform(0.8, 1.2))
            try:
                await self._trial()
            except IndexUnavailable as error:
                self.error = error
                continue
            except Exception:  # a bug of ours: without further trials the breaker stays open
                log.exception("breaker trial failed")
                continue
            self.error, self._failures, self._trying = None, 0, None
            return

    async def close(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.wait([self._trying])
