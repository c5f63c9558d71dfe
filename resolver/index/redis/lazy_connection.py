"""A connection that is opened when it is first needed, and again after it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import hiredis

from resolver.index.redis.pipelined_connection import (
    REPLY_TIMEOUT_SECONDS,
    InvalidationCallback,
    PipelinedConnection,
)
from resolver.index.redis.redis_errors import DECODE_ERRORS

T = TypeVar("T")

OnConnect = Callable[[PipelinedConnection], Awaitable[None]]
"""Awaited with each new connection; raises where it leads to the wrong server."""


async def shared(task: asyncio.Task[T]) -> T:
    """The result of a task that several wait for: a waiter that is cancelled does not end it.

    Raises:
        ConnectionError: the task was cancelled.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        waiter = asyncio.current_task()
        if task.cancelled() and not (waiter and waiter.cancelling()):
            raise ConnectionError("closed") from None
        raise


class LazyConnection:
    """At most one `PipelinedConnection` to one server."""

    def __init__(
        self,
        connect: Callable[[], Any],
        on_connect: OnConnect | None = None,
        on_invalidation: InvalidationCallback | None = None,
        *,
        on_resend: Callable[[], None] | None = None,
        reply_timeout: float = REPLY_TIMEOUT_SECONDS,
    ) -> None:
        """``connect`` makes a connection of redis-py, not opened yet. With ``on_invalidation``
        the connection is tracked. ``on_resend`` is called before a batch is sent again that Redis
        may have run."""
        self._connect = connect
        self._on_connect = on_connect
        self._on_invalidation = on_invalidation
        self._on_resend = on_resend
        self._reply_timeout = reply_timeout
        self._connection: PipelinedConnection | None = None
        self._opening: asyncio.Task[PipelinedConnection] | None = None
        self._closed = False

    async def call(self, commands: Iterable[tuple[Any, ...] | bytes]) -> list[Any]:
        """The replies to commands that are sent together, as tuples or packed.

        A batch whose reply is lost with the connection is sent a second time, so Redis may run it
        twice. Commands must allow that: see ``scripts/once.lua`` for those whose result would
        differ.

        Raises:
            OSError, RedisError, TimeoutError: no connection can be opened.
        """
        pack = hiredis.pack_command
        packed = [c if isinstance(c, bytes) else pack(c) for c in commands]
        text = b"".join(packed)
        if not packed:
            return []
        if self._connection is not None and self._connection.open:
            try:
                return await self._connection.call(text, len(packed))
            except ConnectionError:
                # The server had closed an idle connection: once more on a new one.
                if self._on_resend is not None:
                    self._on_resend()
        return await (await self._opened()).call(text, len(packed))

    async def _opened(self) -> PipelinedConnection:
        """The open connection. Callers share one attempt to open it; a caller that gives up does
        not end the attempt."""
        if self._closed:
            raise ConnectionError("closed")
        if self._connection is not None and self._connection.open:
            return self._connection
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opening_done)
        return await shared(self._opening)

    def _opening_done(self, task: asyncio.Task[PipelinedConnection]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # retrieved, also if every caller has given up

    async def _open(self) -> PipelinedConnection:
        await self.reset()
        connection = self._connect()
        try:
            try:
                await connection.connect()
            except DECODE_ERRORS as error:  # redis-py, when the server is not Redis
                raise ConnectionError(f"not Redis: {type(error).__name__}") from error
            opened = PipelinedConnection(
                connection, self._on_invalidation, reply_timeout=self._reply_timeout
            )
            if self._on_connect is not None:
                await self._on_connect(opened)
            if self._on_invalidation is not None:
                await opened.track()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = opened
        return opened

    @property
    def peer(self) -> tuple[str, int] | None:
        """Host and port of the open connection."""
        return self._connection.peer if self._connection and self._connection.open else None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection. What was read on one that is gone is invalidated."""
        return self._connection is not None and self._connection.open

    def tracking_current(self, now: float) -> bool:
        """As `PipelinedConnection.tracking_current`."""
        return self._connection is not None and self._connection.tracking_current(now)

    @property
    def tracking_error(self) -> str:
        """As `PipelinedConnection.tracking_error`."""
        return self._connection.tracking_error if self._connection is not None else ""

    def oldest_reply_age(self, now: float) -> float:
        """As `PipelinedConnection.oldest_reply_age`."""
        return self._connection.oldest_reply_age(now) if self._connection is not None else 0.0

    async def reset(self) -> None:
        """Closes the connection; the next call opens another."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.release()

    async def close(self) -> None:
        """Closes it permanently. Calls from now on, and those that wait, get a ConnectionError."""
        self._closed = True
        if self._opening is not None:
            opening = self._opening
            opening.cancel()
            await asyncio.wait([opening])
        await self.reset()
