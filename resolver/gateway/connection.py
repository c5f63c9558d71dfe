"""One client's connection: aiohttp's, with the door before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage

from resolver.gateway.door import Door
from resolver.gateway.middleware import HEADER, request_id
from resolver.gateway.problem import problem


class Outbox:
    """Answers that leave together, when all requests of the loop's turn have been read.

    A client or proxy that waits is woken by the first of them and is still awake at the next. Where
    each is written when it is made, each wakes it, and the waking is charged to us: 41 us a
    redirect instead of 32.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append((transport, data))

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            transport.write(data)


class Connection(web.RequestHandler):
    """aiohttp's connection, with problem documents for what is no HTTP request too.

    aiohttp's task waits for messages. While the door has one, that task is kept asleep, and what
    arrives meanwhile waits. Then the message is either answered or left to the task: it is still
    first in aiohttp's queue, or, where the parser has not read it, goes there now. The few names of
    aiohttp's insides that this takes are watched by tests/gateway/test_door.py.
    """

    __slots__ = ("_asleep", "_door", "_fields", "_held", "_malformed", "_outbox", "_size")

    def __init__(
        self,
        malformed: Callable[[int, str], None],
        door: Door | None,
        outbox: Outbox,
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._malformed = malformed
        self._door = door
        self._outbox = outbox
        self._asleep: asyncio.Future[None] | None = None
        """What aiohttp's task waits for, while the door has a message."""
        self._fields = ""
        """The header fields of the last request, where it was a usual one and the parser has read
        nothing since."""
        self._held = b""
        """The request that the door has and the parser has not read, and what came behind it."""
        self._size = 0
        """Of that request, in bytes."""

    def data_received(self, data: bytes) -> None:
        waiter, door = self._waiter, self._door
        if self._held:
            self._held += data
            self._pause_transport_reading()  # who sends ahead waits for the answer
            return
        fields, self._fields = self._fields, ""
        if door is None or waiter is None or self._messages or self._paused or self._close:
            super().data_received(data)  # the task, or the door, is at work
            if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                self._break_off()
            return
        usual = door.repeated(data, fields, self.peername) if fields else None
        if usual is not None:
            self._fields, self._held, self._size = fields, data, len(data)
        else:
            self._waiter = None
            super().data_received(data)
            if len(self._messages) == 1 and not self._upgraded:
                message, payload = self._messages[0]
                if isinstance(message, RawRequestMessage):
                    usual = door.admits(message, payload, self.peername)
                    if usual is not None:
                        self._fields = door.fields_of(message, data)
        if usual is None:
            self._wake(waiter)
            return
        self._waiter, self._asleep = None, waiter
        door.ask(usual, self._reply)

    def _reply(self, answer: str | None) -> None:
        """What the door says of the request that it has."""
        waiter, self._asleep = self._asleep, None
        assert waiter is not None
        if answer is not None and self.transport is not None:
            if not self._held:
                self._messages.popleft()
                if self._parser is not None:
                    self._parser.message_consumed()
            self._send(answer)
        if self._held:
            behind = self._held[self._size :] if answer is not None else self._held
            self._held = b""
            if behind and self.transport is not None:
                self._fields = ""
                super().data_received(behind)
                if not (self._reading_paused or self._buffer_paused):
                    self._resume_transport_reading()
        self._wake(waiter)

    def _send(self, answer: str) -> None:
        assert self.transport is not None
        self._outbox.put(self.transport, answer.encode())
        closing = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = closing
        if self._keepalive_handle is None:  # it came while the door was at work
            self._keepalive_handle = self._loop.call_at(closing, self._process_keepalive)

    def _wake(self, waiter: asyncio.Future[None]) -> None:
        """Lets aiohttp's task go on, where there is something for it to do."""
        self._waiter = waiter
        if waiter.done():
            return
        if self._close or self._force_close:
            waiter.cancel()
        elif self._messages:
            waiter.set_result(None)

    def _break_off(self) -> None:
        """The rest of a body cannot be read. aiohttp does not tell whoever waits for it."""
        if self._current_request is not None and not self._current_request.content.is_eof():
            self._current_request.content.set_exception(web.RequestPayloadError("broken"))

    def log_exception(self, *args: Any, **options: Any) -> None:
        """What aiohttp's task died of, but for a broken body, which is no fault of ours."""
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **options)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, UnicodeError) and "Expect" in request.headers:
            # aiohttp quotes an expectation that it does not know, whatever its bytes.
            status, message = 400, "Expect has bytes that no header field can have"
        if status >= 500:  # past the middleware: the connection itself broke
            return super().handle_error(request, status, exc, message)
        # aiohttp quotes what it could not read, which may be a token.
        first = (message or "").strip().partition("\n")[0].partition(": b'")[0].rstrip(":")
        self._malformed(status, first)
        response = problem(
            status, "malformed-request", "Malformed request", first[:200] or "not HTTP"
        )
        response.headers[HEADER] = request_id(request.headers)
        response.force_close()
        return response
