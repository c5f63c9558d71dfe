"""Whether the index is worth asking."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from resolver.errors import IndexUnavailable

FAILURES = 3
"""Failed questions in a row after which nobody waits for the index any more."""

PAUSE = 0.25
"""Seconds between two trials whether it answers again."""


log = structlog.get_logger()


class Breaker:
    """Keeps requests from waiting for an index that does not answer.

    While it is broken no request asks: one task tries, every so often, until the index answers.
    """

    def __init__(self, trial: Callable[[], Awaitable[object]]) -> None:
        self._trial = trial
        self._failures = 0
        self._trying: asyncio.Task[None] | None = None
        self.why: IndexUnavailable | None = None
        """Why it is broken; None while it is not."""

    def worked(self) -> None:
        self._failures = 0

    def failed(self, why: IndexUnavailable) -> None:
        self._failures += 1
        if self._failures >= FAILURES and self._trying is None:
            self.why = why
            self._trying = asyncio.create_task(self._try(), name="breaker")

    async def _try(self) -> None:
        while True:
            await asyncio.sleep(PAUSE * random.uniform(0.8, 1.2))
            try:
                await self._trial()
            except IndexUnavailable as error:
                self.why = error
                continue
            except Exception:  # ours: without a trial nobody would ask again
                log.exception("the trial broke")
                continue
            self.why, self._failures, self._trying = None, 0, None
            return

    async def close(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.wait([self._trying])
