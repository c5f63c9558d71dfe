"""One connection to Redis that carries whole batches: written at once, read by hiredis.

redis-py opens the connection (TLS, login, database, Sentinel). After that this protocol takes the
place of its reader, which awaits each reply separately. Batches of several callers follow each
other on one connection and each caller gets its replies as one list. A redis-py pipeline moves
some 85,000 commands a second, this some 500,000. Measure again before you extend this file: newer
releases of redis-py may have closed the gap.

A connection can be *tracked* (RESP3, ``CLIENT TRACKING``). Redis then reports on it which of the
keys that were read there have changed, in order with the replies. Until then what was read may be
cached.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hiredis

from resolver.index.redis.transport import transport_of

REPLY_TIMEOUT_SECONDS = 5.0
"""A connection without a reply for so long counts as dead."""

HEARTBEAT_SECONDS = 0.25
"""A tracked connection that was silent for so long is sent a PING."""

TRACKING_VALID_SECONDS = 0.75
"""A reply proves for so long that all changes before its request are known. Together with the time
that an invalidation takes to arrive this is below one second."""

InvalidationCallback = Callable[[Sequence[bytes] | None], None]
"""Called with the keys that have changed; with None when any key may have."""

_INCOMPLETE = object()
"""What hiredis returns while the next reply has not arrived whole."""

_TRACKING_COMMANDS: tuple[tuple[Any, ...], ...] = (("HELLO", "3"), ("CLIENT", "TRACKING", "ON"))

_BATCH_END = b"*2\r\n$4\r\nPING\r\n$8\r\n%b\r\n"
"""Ends each batch. Its echo proves that the replies before it are those of this batch."""

_PING = hiredis.pack_command(("PING",))


class _Batch(NamedTuple):
    future: asyncio.Future[list[Any]]
    size: int
    """Replies to come, that to `_BATCH_END` included."""
    sent_at: float
    """On the clock of the loop."""
    marker: bytes


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    """Keeps asyncio from reporting an exception that nobody awaits."""
    if not future.cancelled():
        future.exception()


class PipelinedConnection(asyncio.Protocol):
    """An open connection. Error replies come as `hiredis.ReplyError` in their place."""

    def __init__(
        self,
        connection: Any,
        on_invalidation: InvalidationCallback | None = None,
        *,
        reply_timeout: float = REPLY_TIMEOUT_SECONDS,
    ) -> None:
        """``connection``: of redis-py, open; it still owns the socket. ``on_invalidation`` is
        called once the connection is tracked, and with None when it ends."""
        self._connection = connection
        self._transport = transport_of(connection)
        self._transport.set_protocol(self)
        self._loop = asyncio.get_running_loop()
        self._reply_timeout = reply_timeout
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._replies: list[Any] = []
        self._batches: deque[_Batch] = deque()
        self._batches_sent = 0
        self._on_invalidation = on_invalidation
        self.open = True
        self.tracked = False
        self.tracking_error = ""
        """Redis's reply where it was asked to report changes, and refused."""
        self._confirmed_at = 0.0
        """When the batch that was answered last had been sent."""

    def call(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Sends ``count`` packed commands; the future gets their replies.

        Raises:
            ConnectionError: the connection is lost, or counts as dead.
        """
        now = self._loop.time()
        if self._batches and now - self._batches[0].sent_at > self._reply_timeout:
            self.close(TimeoutError(f"no reply for {self._reply_timeout:g} s"))
        if not self.open:
            raise ConnectionError("connection lost")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._batches_sent += 1
        marker = b"%08x" % (self._batches_sent & 0xFFFFFFFF)
        self._batches.append(_Batch(future, count + 1, now, marker))
        self._transport.write(packed + _BATCH_END % marker)
        return future

    async def track(self) -> None:
        """Turns tracking on. Where the server or the login does not allow it, `tracked` stays
        False and nothing that was read may be cached."""
        packed = b"".join(hiredis.pack_command(command) for command in _TRACKING_COMMANDS)
        async with asyncio.timeout(self._reply_timeout):
            replies = await self.call(packed, len(_TRACKING_COMMANDS))
        errors = [str(reply) for reply in replies if isinstance(reply, Exception)]
        self.tracked, self.tracking_error = not errors, "; ".join(errors)
        if self.tracked:
            self._loop.call_later(HEARTBEAT_SECONDS, self._heartbeat)

    def _heartbeat(self) -> None:
        """Sends a PING on an idle connection; `call` ends one whose reply is overdue."""
        if not self.open:
            return
        since = self._batches[0].sent_at if self._batches else self._confirmed_at
        limit = self._reply_timeout if self._batches else 0.9 * HEARTBEAT_SECONDS
        if self._loop.time() - since > limit:
            with contextlib.suppress(ConnectionError):
                self.call(_PING, 1).add_done_callback(_retrieve_exception)
        self._loop.call_later(HEARTBEAT_SECONDS, self._heartbeat)

    def tracking_current(self, now: float) -> bool:
        """Whether every change made `TRACKING_VALID_SECONDS` ago or earlier has been reported.
        ``now``: time of the loop."""
        return self.tracked and self.open and now - self._confirmed_at < TRACKING_VALID_SECONDS

    def oldest_reply_age(self, now: float) -> float:
        """Seconds for which the oldest batch has been without its replies."""
        return now - self._batches[0].sent_at if self._batches else 0.0

    def data_received(self, data: bytes) -> None:
        gets, batches, replies = self._reader.gets, self._batches, self._replies
        awaited = batches[0].size if batches else 0
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _INCOMPLETE:
                if type(reply) is hiredis.PushNotification:
                    self._push_received(reply)
                    continue
                replies.append(reply)
                if len(replies) < awaited:
                    continue
                if not batches:
                    self.close(ConnectionError("a reply to no request"))
                    return
                batch = batches[0]
                # A proxy may answer PONG to it, and a server that is loading an error to all.
                echo = replies.pop()
                if echo not in (batch.marker, b"PONG") and not isinstance(echo, hiredis.ReplyError):
                    self.close(ConnectionError("replies to other requests"))
                    return
                batches.popleft()
                self._confirmed_at = batch.sent_at
                if not batch.future.done():  # its caller may have given up
                    batch.future.set_result(replies)
                self._replies = replies = []
                awaited = batches[0].size if batches else 0
        except Exception as error:  # also hiredis's own, such as of a map whose key is a list
            self.close(ConnectionError(f"not Redis: {error}"))

    def _push_received(self, push: list[Any]) -> None:
        """Passes an invalidation on. A push without the form of one raises, which ends the
        connection and invalidates what was read on it."""
        kind, *rest = push
        if kind == b"invalidate" and self._on_invalidation is not None:
            (keys,) = rest
            if keys is not None:  # None after a flush
                keys = [bytes(memoryview(key)) for key in keys]
            self._invalidate(keys)

    def _invalidate(self, keys: Sequence[bytes] | None) -> None:
        """Calls the callback. If that has a bug, nothing that was read here is certain any more."""
        if self._on_invalidation is None:
            return
        try:
            self._on_invalidation(keys)
        except Exception as error:
            context = {"message": "invalidation callback failed", "exception": error}
            self._loop.call_exception_handler(context)
            self.close(ConnectionError("invalidation callback failed"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.close(exc or ConnectionError("Redis closed the connection"))

    def close(self, reason: BaseException) -> None:
        """Ends the connection. Everyone who waits for replies gets a ConnectionError with the text
        of ``reason``."""
        if not self.open:
            return
        self.open = False
        self._transport.abort()
        batches, self._batches = self._batches, deque()
        for batch in batches:
            if not batch.future.done():
                batch.future.set_exception(ConnectionError(str(reason) or type(reason).__name__))
        if self.tracked:
            self._invalidate(None)

    @property
    def peer(self) -> tuple[str, int]:
        """Host and port that it was opened to."""
        return self._connection.host, int(self._connection.port)

    async def release(self) -> None:
        """Closes it, and has redis-py forget the connection."""
        self.close(ConnectionError("closed"))
        await self._connection.disconnect(nowait=True)
