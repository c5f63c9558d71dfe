"""One client's connection: aiohttp's, with the door before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from resolver.gateway.middleware import HEADER, new_request_id, request_id
from resolver.gateway.net.fast_path import FastPath, Told
from resolver.gateway.net.listener import ConnectionLimiter
from resolver.gateway.problem import problem

MAX_LINE = 8190
"""Bytes of a request's target, as in Apache httpd and aiohttp."""

MAX_FIELD = 16_384
"""Bytes of a header field's value, as in Glance (`max_header_line`), for the tokens it takes."""

MAX_FIELDS = 128

MAX_HEAD = 32_768
"""Bytes of all header fields, as in nginx."""

SOON = 0.05
"""Seconds until a connection that its client has ended is looked at again."""


class WriteCoalescer:
    """Answers that leave together, when all requests of the loop's turn have been read.

    A client or proxy that waits is woken by the first of them and is still awake at the next. Where
    each is written when it is made, each wakes it, and the waking is charged to us: 41 us a
    redirect instead of 32.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.send)
        self._waiting.append((transport, data))

    def send(self) -> None:
        """Writes what is there at once."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            transport.write(data)


class ClientConnection(web.RequestHandler):
    """aiohttp's connection, with problem documents for what is no HTTP request too.

    aiohttp's task waits for messages. While the door has one, that task is kept asleep, and what
    arrives meanwhile waits. Then the message is either answered or left to the task: it is still
    first in aiohttp's queue, or, where the parser has not read it, goes there now. The few names of
    aiohttp's insides that this takes are watched by tests/gateway/test_fast_path.py.
    """

    __slots__ = (
        *("_asleep", "_fast_path", "_fields", "_head_size", "_held", "_limiter", "_malformed", "_coalescer"),
        *("_patience", "_size", "_slow_head", "_slow_read", "told"),
    )

    def __init__(
        self,
        malformed: Callable[[int, str], None],
        fast_path: FastPath | None,
        coalescer: WriteCoalescer,
        limiter: ConnectionLimiter,
        patience: float,
        *args: Any,
        **options: Any,
    ) -> None:
        """``patience``: seconds that the client has for a request's head, and for taking what it
        is sent."""
        options |= {"max_line_size": MAX_LINE, "max_field_size": MAX_FIELD}
        super().__init__(*args, max_headers=MAX_FIELDS, **options)
        self._limiter = limiter
        self._patience = patience
        self._slow_head: asyncio.TimerHandle | None = None
        """Runs while the client is to send a request's head and has not."""
        self._head_size = 0
        self._slow_read: asyncio.TimerHandle | None = None
        """Runs while something waits for the client to take it."""
        self.told: Told | None = None
        """What the door was told, for the handler that answers in its place."""
        self._malformed = malformed
        self._fast_path = fast_path
        self._coalescer = coalescer
        self._asleep: asyncio.Future[None] | None = None
        """What aiohttp's task waits for, while the door has a message."""
        self._fields = ""
        """The header fields of the last request, where it was a usual one and the parser has read
        nothing since."""
        self._held = b""
        """The request that the door has and the parser has not read, and what came behind it."""
        self._size = 0
        """Of that request, in bytes."""

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    @property
    def idle_since(self) -> float:
        """When the last answer was sent, in the loop's time."""
        return self._next_keepalive_close_time - self._keepalive_timeout

    @property
    def asked(self) -> bool:
        """Whether there was a request on it."""
        return self._request_count > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limiter.open.add(self)
        self._slow_head = self._loop.call_later(self._patience, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._limiter.open.discard(self)
        for timer in (self._slow_head, self._slow_read):
            if timer is not None:
                timer.cancel()
        self._slow_head = self._slow_read = None

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as asyncio has it
        """A client that has sent its last request may still wait for the answer: true keeps the
        connection, but with TLS, where asyncio cannot."""
        self._coalescer.send()  # or the end of the connection overtakes its last answer
        return self.ssl_context is None and self._awaited() and self._end_in_time()

    def _awaited(self) -> bool:
        """Whether requests that have come whole are being answered."""
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        return not self.idle and all(body.is_eof() for body in bodies)

    def _end_in_time(self) -> bool:
        self._coalescer.send()
        if self.transport is not None and not self._awaited():
            self.transport.close()
        elif self.transport is not None:
            self._loop.call_later(SOON, self._end_in_time)
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._slow_read = self._loop.call_later(
                self._patience, self._read_is_late, self.transport
            )

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._slow_read is not None:
            self._slow_read.cancel()
            self._slow_read = None

    def _read_is_late(self, transport: asyncio.Transport) -> None:
        self._limiter.cut("slow-read")
        transport.abort()

    def _head_is_late(self) -> None:
        self._slow_head = None
        if not self.idle:
            return
        self._limiter.cut("slow-head")
        if self._head_size:
            self._refuse(408, f"the request's head took longer than {self._patience:g} s")
        else:
            self.force_close()

    def _head_received(self, size: int) -> None:
        """Watches over a head that did not come at once."""
        self._head_size += size
        if not self._messages:
            if self._slow_head is None:
                self._slow_head = self._loop.call_later(self._patience, self._head_is_late)
            if self._head_size > MAX_HEAD + MAX_LINE:
                self._refuse(431, f"the header fields have more than {MAX_HEAD} bytes")
            return
        size = self._head_size
        self._head_has_come()
        if size > MAX_HEAD and isinstance(message := self._messages[0][0], RawRequestMessage):
            fields = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
            if fields > MAX_HEAD:
                self._messages.clear()
                self._refuse(431, f"the header fields have more than {MAX_HEAD} bytes")

    def _head_has_come(self) -> None:
        self._head_size = 0
        if self._slow_head is not None:
            self._slow_head.cancel()
            self._slow_head = None

    def _refuse(self, status: int, why: str) -> None:
        """Answers what is no whole request yet, and closes."""
        self._malformed(status, why)
        refusal = malformed_request(status, why)
        assert isinstance(refusal.body, bytes)
        if self.transport is not None:
            head = [
                f"HTTP/1.1 {status} {refusal.reason}",
                f"Content-Type: {refusal.content_type}",
                f"Content-Length: {len(refusal.body)}",
                f"{HEADER}: {new_request_id()}",
                "Connection: close",
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + refusal.body)
        self.force_close()

    def data_received(self, data: bytes) -> None:
        waiter, fast_path = self._waiter, self._fast_path
        if self._held:
            self._held += data
            self._pause_transport_reading()  # who sends ahead waits for the answer
            return
        fields, self._fields = self._fields, ""
        if fast_path is None or waiter is None or self._messages or self._paused or self._close:
            super().data_received(data)  # the task, or the door, is at work
            if self._messages:
                self._head_has_come()
            if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                self._break_off()
            return
        usual = fast_path.repeated(data, fields, self.peername) if fields else None
        if usual is not None:
            self._fields, self._held, self._size = fields, data, len(data)
        else:
            self._waiter = None
            begun = self._head_size > 0
            super().data_received(data)
            if self._slow_head is not None or not self._messages or len(data) > MAX_HEAD:
                self._waiter = waiter
                self._head_received(len(data))
                self._waiter = None
            if len(self._messages) == 1 and not self._upgraded:
                message, payload = self._messages[0]
                if isinstance(message, RawRequestMessage):
                    usual = fast_path.admits(message, payload, self.peername)
                    if usual is not None and not begun:
                        self._fields = fast_path.fields_of(message, data)
        if usual is None:
            self._wake(waiter)
            return
        self._waiter, self._asleep = None, waiter
        fast_path.ask(usual, self._reply)

    def _reply(self, answer: str | None, told: Told | None = None) -> None:
        """What the door says of the request that it has."""
        waiter, self._asleep = self._asleep, None
        self.told = told
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
        self._coalescer.put(self.transport, answer.encode())
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
        if isinstance(exc, ConnectionError):  # the client has gone, which is its right
            raise exc
        if status >= 500:  # past the middleware: the connection itself broke
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong):
            status, message = too_long(exc)
        elif message == "Too many headers received":
            status, message = 431, f"there are more than {MAX_FIELDS} header fields"
        # aiohttp quotes what it could not read, which may be a token.
        first = (message or "").strip().partition("\n")[0].partition(": b'")[0].rstrip(":")
        self._malformed(status, first)
        response = malformed_request(status, first[:200] or "not HTTP")
        response.headers[HEADER] = request_id(request.headers)
        response.force_close()
        return response


def too_long(error: LineTooLong) -> tuple[int, str]:
    """The status for what aiohttp's parser found too long, told apart by the bound, and why."""
    if error.args[1] == MAX_LINE:
        return 414, f"the request's target has more than {MAX_LINE} bytes"
    return 431, f"a header field has more than {MAX_FIELD} bytes"


def malformed_request(status: int, why: str) -> web.Response:
    """The problem that is no HTTP request, or too much of one."""
    code, title = {
        408: ("request-timeout", "The request came too slowly"),
        414: ("uri-too-long", "URI too long"),
        431: ("header-too-large", "Header fields too large"),
    }.get(status, ("malformed-request", "Malformed request"))
    return problem(status, code, title, why)
