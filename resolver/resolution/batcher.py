"""Lookups that are asked for in one turn of the event loop travel to the index together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()

OnResult = Callable[[T | BaseException], None]
"""Called with what came, or why nothing did."""


class LookupBatcher(Generic[T]):
    """Gathers what single requests ask for, so that many share one pipeline, task and deadline.

    Who asks is told by a plain call, not a future: at 30,000 requests a second those would cost
    more than the lookups.
    """

    def __init__(
        self, read: Callable[[Sequence[bytes]], Awaitable[Sequence[T | BaseException]]]
    ) -> None:
        """``read`` gives for each id what is found, or why nothing is."""
        self._read = read
        self._ids: list[bytes] = []
        self._tells: list[OnResult[T]] = []
        self._reading: set[asyncio.Task[None]] = set()

    def ask(self, image_id: bytes, tell: OnResult[T]) -> None:
        """Looks one id up with all others that are asked for before the loop turns."""
        if not self._ids:
            asyncio.get_running_loop().call_soon(self._send)
        self._ids.append(image_id)
        self._tells.append(tell)

    async def get(self, image_id: bytes) -> T:
        """The same for those who wait.

        Raises:
            Exception: whatever the reading raised.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def tell(found: T | BaseException) -> None:
            if future.done():  # its caller has given up
                return
            if isinstance(found, BaseException):
                future.set_exception(found)
            else:
                future.set_result(found)

        self.ask(image_id, tell)
        return await future

    def _send(self) -> None:
        ids, self._ids = self._ids, []
        tells, self._tells = self._tells, []
        task = asyncio.create_task(self._run(ids, tells))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _run(self, ids: list[bytes], tells: list[OnResult[T]]) -> None:
        try:
            found: Sequence[T | BaseException] = await self._read(ids)
        except Exception as error:  # whoever asked knows what to do about it
            found = [error] * len(ids)
        for tell, one in zip(tells, found, strict=True):
            try:
                tell(one)
            except Exception:  # one that fails must not keep the others waiting
                log.exception("an answer was lost")
