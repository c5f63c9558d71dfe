"""Lookups requested in one turn of the event loop travel to the index as one batch.

This is the DataLoader pattern: each caller asks for one id, and one read serves all callers of the
turn. They share one pipeline, one task and one deadline. While other batches are under way, two
turns share one: under load that makes batches larger, and a batch costs as much as several ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()

OnResult = Callable[[T | BaseException], None]
"""Called with the value, or with the reason why there is none."""

BatchRead = Callable[[Sequence[bytes]], Awaitable[Sequence[T | BaseException]]]
"""Reads many ids; gives for each, in order, the value or the reason why there is none."""


class LookupBatcher(Generic[T]):
    """Collects the ids that single requests ask for.

    Callers are answered by a plain call, not by a future: at 30,000 requests a second the futures
    would cost more than the lookups.
    """

    def __init__(self, read: BatchRead[T]) -> None:
        self._read = read
        self._ids: list[bytes] = []
        self._callbacks: list[OnResult[T]] = []
        self._reading: set[asyncio.Task[None]] = set()

    def request(self, image_id: bytes, on_result: OnResult[T]) -> None:
        """Looks up an id with all others that are requested before the batch begins: at the latest
        after one turn of the loop."""
        if not self._ids:  # the task begins with the loop's next turn, and takes them all
            task = asyncio.create_task(self._run_batch())
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)
        self._ids.append(image_id)
        self._callbacks.append(on_result)

    async def get(self, image_id: bytes) -> T:
        """The same for callers that can wait.

        Raises:
            Exception: whatever the read raised.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def on_result(value: T | BaseException) -> None:
            if future.done():  # its caller has given up
                return
            if isinstance(value, BaseException):
                future.set_exception(value)
            else:
                future.set_result(value)

        self.request(image_id, on_result)
        return await future

    async def _run_batch(self) -> None:
        if len(self._reading) > 1:  # others are under way: ids of this turn travel along
            await asyncio.sleep(0)
        ids, self._ids = self._ids, []
        callbacks, self._callbacks = self._callbacks, []
        try:
            values: Sequence[T | BaseException] = await self._read(ids)
        except Exception as error:  # each caller decides what to do about it
            values = [error] * len(ids)
        for callback, value in zip(callbacks, values, strict=True):
            try:
                callback(value)
            except Exception:  # one that fails must not keep the others waiting
                log.exception("lookup callback failed")
