"""Requests of one connection on their way through aiohttp.

The front hands aiohttp's protocol (made by `aiohttp.web.Server`, a public factory) one request
after another over a transport of its own. Once a request has been read and its response was sent,
the connection is the front's again. The protocol may be kept for the next request, since to make
one takes some 15 µs; it closes this transport after aiohttp's ``keepalive_timeout``. Whether the
client's connection stays open is what the response itself says (RFC 9112, 9.3).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Protocol

from resolver.gateway.net.body_framing import LAST_CHUNK, BodyFraming, SizedBody
from resolver.gateway.net.in_flight import REFUSED_STATUS, TRACKED
from resolver.gateway.net.write_coalescer import WriteCoalescer

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n")

MAX_HEAD_SEARCHED_BYTES = 65_536
"""A response's head is expected within this many bytes."""


class BridgeOwner(Protocol):
    """The connection that a bridge belongs to."""

    def bridge_answered(self, bridge: Bridge) -> None:
        """The request has been read and its response was sent."""

    def bridge_closed(self, bridge: Bridge) -> None:
        """There will be no response, no other one, or no end of one."""

    def bridge_pauses_reading(self, bridge: Bridge, paused: bool) -> None:
        """The protocol takes no more of the request's body, or takes it again."""


class Bridge(asyncio.Transport):
    """The transport that aiohttp's protocol sees."""

    # Of the request that is under way; `begin` sets them.
    keeps_connection: bool
    _framing: BodyFraming
    _response_head: bytearray | None
    """The response up to the end of its head; None when the head has been read."""
    _is_head: bool
    _body_left: int
    """Bytes of the response's body that have not been sent, where its length is known."""
    _is_chunked: bool
    _last_bytes: bytes
    _is_answered: bool

    def __init__(
        self,
        owner: BridgeOwner,
        transport: asyncio.Transport,
        coalescer: WriteCoalescer,
        make_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        super().__init__()
        self._owner = owner
        self._transport = transport
        self._coalescer = coalescer
        self._closing = False
        self._reading_paused = False
        self._refused_status = 0
        self.begin(SizedBody(0), keeps_connection=False, is_head=False)
        self._protocol = make_protocol()
        self._protocol.connection_made(self)

    def begin(self, framing: BodyFraming, *, keeps_connection: bool, is_head: bool) -> None:
        """A request begins.

        Args:
            framing: that of its body.
            keeps_connection: the client wants to send more requests.
            is_head: the request is a HEAD, so that its response has no body.
        """
        self._framing = framing
        self._response_head = bytearray()
        self._is_head = is_head
        self._body_left = 0
        self._is_chunked = False
        self._last_bytes = b""
        self._is_answered = False
        self.keeps_connection = keeps_connection

    @property
    def may_be_kept(self) -> bool:
        """Whether the protocol can take another request."""
        return self.keeps_connection and not (self._closing or self._reading_paused)

    @property
    def request_complete(self) -> bool:
        """Whether the request's body has arrived whole."""
        return self._framing.complete

    @property
    def response_complete(self) -> bool:
        """Whether the response was sent whole: a handler may break off a body that has begun."""
        if self._is_chunked:
            return self._last_bytes == LAST_CHUNK
        return self.responded and self._body_left == 0

    @property
    def responded(self) -> bool:
        """Whether a response's head was sent."""
        return self._response_head is None

    def feed(self, data: bytes, head: bytes = b"") -> bytes:
        """Takes the body's part of the data, and returns the rest. ``head``: that of the request,
        when it begins.

        Raises:
            MalformedError: the body cannot be read. The protocol has the head.
        """
        body, rest = b"", data
        try:
            if data:
                body, rest = self._framing.take(data)
        finally:
            if (head or body) and not self._closing:
                self._protocol.data_received(head + body)
                self._check_end()
        return rest

    def lose(self, error: Exception | None, status: int = 0) -> None:
        """Ends the protocol: the client is gone, or was refused with a status because its body
        cannot be read."""
        self._refused_status = status
        if not self._closing:
            self._closing = True
            # Not now: the protocol's task may not have begun, and it begins with a connection.
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        if not self._closing:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if not self._closing:
            self._protocol.resume_writing()

    # What follows is `asyncio.Transport`, for aiohttp.

    def write(self, data: Any) -> None:
        if self._closing:
            return
        data = bytes(data)
        is_first = self._response_head is not None and not self._response_head
        if self._response_head is not None:
            self._read_response_head(data)
        else:
            self._count_body(data)
        if is_first and self.response_complete:
            self._coalescer.write(self._transport, data)
        else:
            self._transport.write(data)
        self._check_end()

    def _check_end(self) -> None:
        """Calls the owner when all of the request and the response have passed. Not now: the
        protocol is still processing them."""
        if not self._is_answered and self.response_complete and self.request_complete:
            self._is_answered = True
            asyncio.get_running_loop().call_soon(self._owner.bridge_answered, self)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def _read_response_head(self, data: bytes) -> None:
        head = self._response_head
        assert head is not None
        head += data
        while (end := head.find(b"\r\n\r\n")) >= 0:
            if head.startswith(b"HTTP/1.1 1"):  # an interim response; the final one follows
                del head[: end + 4]
                continue
            self._response_head = None
            self._read_response_fields(bytes(head[: end + 2]).lower())
            self._count_body(bytes(head[end + 4 :]))
            return
        if len(head) > MAX_HEAD_SEARCHED_BYTES:
            self._response_head = None
            self.keeps_connection = False

    def _read_response_fields(self, fields: bytes) -> None:
        keep_alive = b"\r\nconnection: keep-alive\r\n" in fields
        if b"\r\nconnection: close\r\n" in fields or not (
            fields.startswith(b"http/1.1") or keep_alive
        ):
            self.keeps_connection = False
        if self._is_head or fields[9:12] in (b"204", b"304"):
            return
        self._is_chunked = b"\r\ntransfer-encoding: chunked\r\n" in fields
        if (length := _CONTENT_LENGTH.search(fields)) is not None:
            self._body_left = int(length[1])
        elif not self._is_chunked:  # the end of the connection is the end of the body
            self.keeps_connection = False

    def _count_body(self, data: bytes) -> None:
        if self._is_chunked:
            self._last_bytes = (self._last_bytes + data[-len(LAST_CHUNK) :])[-len(LAST_CHUNK) :]
        else:
            self._body_left = max(0, self._body_left - len(data))

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        loop = asyncio.get_running_loop()
        loop.call_soon(self._protocol.connection_lost, None)
        self._owner.bridge_closed(self)

    def abort(self) -> None:
        self.keeps_connection = False
        self.close()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == TRACKED:
            return True
        if name == REFUSED_STATUS:
            return self._refused_status or default
        if name == "socket":  # the front has set the socket's options
            return default
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._reading_paused = True
        self._owner.bridge_pauses_reading(self, True)

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._owner.bridge_pauses_reading(self, False)

    def is_reading(self) -> bool:
        return not self._reading_paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The front's own limits hold."""

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise NotImplementedError("a bridge carries plain requests, and no upgrade")

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol
