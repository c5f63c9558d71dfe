"""Bounds what a server can make aiohttp's client read besides answers, and how long its connections
are used.

That client reads any number of interim responses (1xx, RFC 9110, 15.2), and whatever arrives on an
idle connection; and it uses a connection for as long as requests follow one another. A guard
removes interim responses, which no request here asks for, closes an idle connection on which
something arrives, and one that is old, and passes on everything else.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from resolver.errors import LocationUnavailable
from resolver.glance.kept_connections import LIFETIME_SECONDS

READ_BYTES = 16 * 1024
"""Bytes read from a socket at a time. The event loop asks for 256 KiB, which may have 10,000
responses. (uvloop reads from the descriptor and would not notice. Nothing here runs on it, and
interim responses are bounded by themselves.)"""

MAX_INTERIM_BYTES = 8 * 1024
"""Bytes of interim responses before an answer."""

_INTERIM = re.compile(rb"[\r\n]*HTTP/[0-9]\.[0-9] 1(?!01)[0-9]{2}")
"""aiohttp skips blank lines before, and reads 101 as an answer."""

_START_BYTES = len(b"HTTP/1.1 100")
_END = re.compile(rb"\n\r?\n")


class ShortReads(socket.socket):
    """A socket of which at most `READ_BYTES` are read at a time."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        return super().recv(min(bufsize, READ_BYTES), flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """For TLS."""
        size = nbytes or memoryview(buffer).nbytes
        return super().recv_into(buffer, min(size, READ_BYTES), flags)


def short_reads(address: aiohttp.AddrInfoType) -> socket.socket:
    """The socket for a connection, as `aiohttp.TCPConnector` takes it."""
    family, kind, protocol, _, _ = address
    return ShortReads(family, kind, protocol)


class GuardedRequest(aiohttp.ClientRequest):
    """A request whose answer is guarded."""

    lifetime_seconds = LIFETIME_SECONDS
    """After which a connection is not used again."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol, transport = conn.protocol, conn.transport
        if protocol is not None and transport is not None:  # else it is gone, as aiohttp will see
            guard = transport.get_protocol()
            if not isinstance(guard, AnswerGuard):
                guard = AnswerGuard(protocol, transport, self.lifetime_seconds)
                transport.set_protocol(guard)
            guard.expect_answer()
            conn.add_callback(guard.end_request)
        return await super().send(conn)


class AnswerGuard(asyncio.Protocol):
    """Stands between a connection and aiohttp's protocol."""

    def __init__(
        self,
        guarded: ResponseHandler,
        transport: asyncio.Transport,
        lifetime_seconds: float = LIFETIME_SECONDS,
    ) -> None:
        self._guarded = guarded
        self._transport = transport
        self._used_until = time.monotonic() + lifetime_seconds
        self._may_answer = False
        self._has_answer = False
        """Whether the answer has begun."""
        self._held = b""
        """What may be part of an interim response."""
        self._interim_bytes = 0

    def expect_answer(self) -> None:
        """A request is about to be sent."""
        self._may_answer, self._has_answer = True, False
        self._held, self._interim_bytes = b"", 0

    def end_request(self) -> None:
        """The answer is complete, or nobody waits for it any more."""
        self._may_answer = False
        if time.monotonic() >= self._used_until:
            self._guarded.force_close()  # aiohttp closes it in place of keeping it

    def data_received(self, data: bytes) -> None:
        if not self._may_answer:
            self._transport.abort()
        elif self._has_answer:
            self._guarded.data_received(data)
        else:
            self._read_start(self._held + data)

    def _read_start(self, data: bytes) -> None:
        """Removes interim responses, and passes on the answer once it begins."""
        position = 0
        while position <= MAX_INTERIM_BYTES and (start := _INTERIM.match(data, position)):
            end = _END.search(data, start.end())
            if end is None:
                break
            position = end.end()
        self._interim_bytes += position
        data = data[position:]
        may_be_interim = _INTERIM.match(data) or len(data.lstrip(b"\r\n")) < _START_BYTES
        if self._interim_bytes + (len(data) if may_be_interim else 0) > MAX_INTERIM_BYTES:
            self._refuse()
        elif may_be_interim:
            self._held = data
        else:
            self._held, self._has_answer = b"", True
            self._guarded.data_received(data)

    def _refuse(self) -> None:
        self._guarded.set_exception(
            LocationUnavailable("it sends interim responses (1xx) without end", code="cut")
        )
        self._transport.abort()
        self.end_request()

    def eof_received(self) -> None:
        if self._held:
            self._guarded.data_received(self._held)
            self._held = b""
        self._guarded.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._guarded.connection_lost(exc)

    def pause_writing(self) -> None:
        self._guarded.pause_writing()

    def resume_writing(self) -> None:
        self._guarded.resume_writing()
