"""One connection to Redis that carries whole batches: packed in one write, read by hiredis.

redis-py opens the connection (TLS, authentication, database, Sentinel); after that its reader,
which awaits each reply by itself, is replaced by this protocol: batches of several callers follow
each other on one connection and each gets its replies as one list. A redis-py pipeline moves some
85,000 commands a second, this some 500,000 and more.

A connection can be *tracked* (RESP3, ``CLIENT TRACKING``): Redis then says on it which of the keys
read there have changed, in order with the replies. What was read may be kept until then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import hiredis

from resolver.index.redis.redis_errors import DECODE_ERRORS

PATIENCE = 5.0
"""Seconds without a reply after which a connection counts as dead."""


HEARTBEAT = 0.25
"""Seconds after which a tracked connection that was silent is asked something."""

SURE_FOR = 0.75
"""Seconds that a reply vouches for: all that changed before its question was sent is known. With
the way of a change to us, below the second in which every gateway knows."""

T = TypeVar("T")

Changed = Callable[[Sequence[bytes] | None], None]
"""Called with the keys that have changed; None: any may have."""

_MORE = object()
"""No whole reply has arrived."""

_TRACKED: tuple[tuple[Any, ...], ...] = (("HELLO", "3"), ("CLIENT", "TRACKING", "ON"))


async def shared(task: asyncio.Task[T]) -> T:
    """The result of a task that others wait for too: one who gives up does not end it.

    Raises:
        ConnectionError: somebody ended the task.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if task.cancelled() and not (this and this.cancelling()):
            raise ConnectionError("closed") from None
        raise


class _Batch(NamedTuple):
    future: asyncio.Future[list[Any]]
    size: int
    sent: float
    mark: bytes


_MARK = b"*2\r\n$4\r\nPING\r\n$8\r\n%b\r\n"
"""Ends each batch: what comes back for it tells that the replies are those of this batch."""

_PING = hiredis.pack_command(("PING",))


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class PipelinedConnection(asyncio.Protocol):
    """An open connection. Replies that are errors come as `hiredis.ReplyError` in their place."""

    def __init__(self, connection: Any, changed: Changed | None = None) -> None:
        """``changed`` hears of changes once the wire is tracked, and of its end."""
        self._connection = connection  # redis-py's, which owns the socket
        # redis-py offers no other way to its transport; tests/index/test_wire.py watches this.
        self._transport: asyncio.Transport = connection._writer.transport
        self._transport.set_protocol(self)
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._replies: list[Any] = []
        self._batches: deque[_Batch] = deque()
        self._sent = 0
        """Batches so far."""
        self._changed = changed
        self.open = True
        self.tracked = False
        self._proven = 0.0
        """When the last batch that was answered had been sent."""

    def call(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Sends ``count`` packed commands; the future gets their replies.

        Raises:
            ConnectionError: the connection is gone, or so late that it must be.
        """
        now = self._loop.time()
        if self._batches and now - self._batches[0].sent > PATIENCE:
            self.close(TimeoutError(f"no reply for {PATIENCE:g} s"))
        if not self.open:
            raise ConnectionError("connection lost")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._sent += 1
        mark = b"%08x" % (self._sent & 0xFFFFFFFF)
        self._batches.append(_Batch(future, count + 1, now, mark))
        self._transport.write(packed + _MARK % mark)
        return future

    async def track(self) -> None:
        """Has Redis say what changes. Not all do: then nothing that was read may be kept."""
        packed = b"".join(hiredis.pack_command(command) for command in _TRACKED)
        async with asyncio.timeout(PATIENCE):
            replies = await self.call(packed, len(_TRACKED))
        self.tracked = not any(isinstance(reply, Exception) for reply in replies)
        if self.tracked:
            self._loop.call_later(HEARTBEAT, self._beat)

    def _beat(self) -> None:
        """Asks something where all is quiet; `call` ends a connection that owes an answer."""
        if not self.open:
            return
        waited = self._loop.time() - (self._batches[0].sent if self._batches else self._proven)
        if waited > (PATIENCE if self._batches else 0.9 * HEARTBEAT):
            with contextlib.suppress(ConnectionError):
                self.call(_PING, 1).add_done_callback(_seen)
        self._loop.call_later(HEARTBEAT, self._beat)

    def tracking_current(self, now: float) -> bool:
        """Whether every change before `SURE_FOR` seconds ago has been told. ``now``: loop time."""
        return self.tracked and self.open and now - self._proven < SURE_FOR

    def oldest_reply_age(self, now: float) -> float:
        """For how many seconds its oldest question has been without a reply."""
        return now - self._batches[0].sent if self._batches else 0.0

    def data_received(self, data: bytes) -> None:
        gets, batches = self._reader.gets, self._batches
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _MORE:
                if type(reply) is hiredis.PushNotification:
                    self._pushed(reply)
                    continue
                if not batches:
                    self.close(ConnectionError("a reply that nobody asked for"))
                    return
                batch, replies = batches[0], self._replies
                replies.append(reply)
                if len(replies) < batch.size:
                    continue
                # A proxy may say PONG for it, and a server that is loading an error for everything.
                said = replies.pop()
                if said not in (batch.mark, b"PONG") and not isinstance(said, hiredis.ReplyError):
                    self.close(ConnectionError("replies that belong to other questions"))
                    return
                batches.popleft()
                self._replies = []
                self._proven = batch.sent
                if not batch.future.done():  # its caller may have given up
                    batch.future.set_result(replies)
        except Exception as error:  # also hiredis's own, such as of a map whose key is a list
            self.close(ConnectionError(f"not Redis: {error}"))

    def _pushed(self, push: list[Any]) -> None:
        """Hears of a change. What says so otherwise than Redis does ends the connection, and with
        it what was read there."""
        kind, *rest = push
        if kind == b"invalidate" and self._changed is not None:
            (keys,) = rest  # None after a flush
            self._changed(keys)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.close(exc or ConnectionError("Redis closed the connection"))

    def close(self, why: BaseException) -> None:
        """Ends the connection; all who wait get ``why``."""
        if not self.open:
            return
        self.open = False
        self._transport.abort()
        batches, self._batches = self._batches, deque()
        for batch in batches:
            if not batch.future.done():
                batch.future.set_exception(ConnectionError(str(why) or type(why).__name__))
        if self.tracked and self._changed is not None:
            self._changed(None)

    @property
    def peer(self) -> tuple[str, int]:
        """Host and port that it was opened to."""
        return self._connection.host, int(self._connection.port)

    async def release(self) -> None:
        """Closes, and lets redis-py forget the connection."""
        self.close(ConnectionError("closed"))
        await self._connection.disconnect(nowait=True)


class LazyConnection:
    """A wire that is opened when first needed and again when it was lost.

    ``greet`` is awaited with each new wire, and raises where it leads to the wrong server.
    ``changed`` makes the wires tracked and hears of changes.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        greet: Callable[[PipelinedConnection], Awaitable[None]] | None = None,
        changed: Changed | None = None,
    ) -> None:
        self._connect = connect
        self._greet = greet
        self._changed = changed
        self._wire: PipelinedConnection | None = None
        self._opening: asyncio.Task[PipelinedConnection] | None = None
        self._closed = False

    async def call(self, commands: Iterable[tuple[Any, ...] | bytes]) -> list[Any]:
        """The replies to commands sent together.

        What is sent may be sent twice when the connection breaks, so it must bear that.

        Raises:
            OSError, RedisError, TimeoutError: there is no connection to be had.
        """
        pack = hiredis.pack_command
        packed = [c if isinstance(c, bytes) else pack(c) for c in commands]
        text = b"".join(packed)
        if not packed:
            return []
        if self._wire is not None and self._wire.open:
            try:
                return await self._wire.call(text, len(packed))
            except ConnectionError:
                pass  # an idle connection that the server had closed: once more on a new one
        return await (await self._opened()).call(text, len(packed))

    async def _opened(self) -> PipelinedConnection:
        """The open wire. Callers share one attempt, and one that gives up does not end it."""
        if self._closed:
            raise ConnectionError("closed")
        if self._wire is not None and self._wire.open:
            return self._wire
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened_or_not)
        return await shared(self._opening)

    def _opened_or_not(self, task: asyncio.Task[PipelinedConnection]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # seen, even if all who asked have given up

    async def _open(self) -> PipelinedConnection:
        await self._drop()
        connection = self._connect()
        try:
            try:
                await connection.connect()
            except DECODE_ERRORS as error:  # redis-py's own
                raise ConnectionError(f"not Redis: {type(error).__name__}") from error
            wire = PipelinedConnection(connection, self._changed)
            if self._greet is not None:
                await self._greet(wire)
            if self._changed is not None:
                await wire.track()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._wire = wire
        return wire

    async def _drop(self) -> None:
        if self._wire is not None:
            wire, self._wire = self._wire, None
            await wire.release()

    @property
    def peer(self) -> tuple[str, int] | None:
        """Host and port of the open wire."""
        return self._wire.peer if self._wire is not None and self._wire.open else None

    @property
    def unused(self) -> bool:
        """Whether it has no wire, so that nothing was read on it that could have changed."""
        return self._wire is None or not self._wire.open

    def tracking_current(self, now: float) -> bool:
        """As `PipelinedConnection.tracking_current`."""
        return self._wire is not None and self._wire.tracking_current(now)

    def oldest_reply_age(self, now: float) -> float:
        """As `PipelinedConnection.oldest_reply_age`."""
        return self._wire.oldest_reply_age(now) if self._wire is not None else 0.0

    async def reset(self) -> None:
        """Drops the wire; the next call opens another."""
        await self._drop()

    async def close(self) -> None:
        """Drops the wire for good; whoever waits or calls gets a ConnectionError."""
        self._closed = True
        if self._opening is not None:
            opening = self._opening
            opening.cancel()
            await asyncio.wait([opening])
        await self._drop()
