"""One client's connection: reads requests, and gives each to the front or to aiohttp.

State by its lifetime:

- of the process: `FrontServer` (the front, the limiter, aiohttp's protocol factory, the limits);
- of the connection: the transport, the client's address, data that has not been used;
- of one request: what cancels it (``_cancel``), or the bridge that carries it through aiohttp.

Requests are answered one after another. While one is being answered, what arrives is kept up to one
further head, and then the transport is paused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from resolver.gateway.error_form import ErrorForm, error_form, error_form_of_bytes
from resolver.gateway.net.body_framing import framing_of
from resolver.gateway.net.bridge import Bridge
from resolver.gateway.net.front_server import FrontServer
from resolver.gateway.net.known_reads import (
    MAX_REQUEST_BYTES,
    FrontRequest,
    PlainRead,
    RememberedKind,
)
from resolver.gateway.net.request_head import (
    END,
    MAX_HEAD_BYTES,
    MalformedError,
    RequestHead,
    is_incomplete_head,
    may_wait,
    parse_head,
)
from resolver.gateway.net.request_pacer import OF_ONE_CONNECTION

NEVER = float("inf")

LINGER_SECONDS = 2.0
"""How long we discard what the client still sends after our last response."""

BODY_GRACE_SECONDS = 1.0
"""Handlers refuse a late body by themselves, with a better text. This is for those that read no
body."""


class FrontConnection(asyncio.Protocol):
    """A connection with a client."""

    __slots__ = (
        *("_awaits_turn", "_bridge", "_bridge_pauses_reading", "_buffer", "_cancel", "_checked"),
        *("_client_ended", "_closing", "_deadline", "_error_form", "_has_tls", "_head_started"),
        *("_kept_bridge", "_known_kind", "_reading_paused", "_scheme", "_server", "_transport"),
        *("_write_deadline", "client_keys", "idle_since", "peer", "served"),
    )

    def __init__(self, server: FrontServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._bridge: Bridge | None = None
        """That of the request which aiohttp answers now."""
        self._error_form: ErrorForm | None = None
        """Of that request."""
        self._kept_bridge: Bridge | None = None
        """That of the last such request, for the next."""
        self._cancel: Callable[[], None] | None = None
        self._known_kind: RememberedKind | None = None
        """The kind of the last read, where it has credentials: not for other connections."""
        self._awaits_turn = False
        """Whether other connections have their turn before more requests are read."""
        self._checked = 0
        """Bytes of the buffer that are known to be part of a head that is incomplete."""
        self._closing = False
        self._client_ended = False
        self._reading_paused = False
        self._bridge_pauses_reading = False
        """Whether aiohttp takes no more of the request's body for now."""
        self._deadline = NEVER
        """When the client must have sent the rest of a head or body, or the next request. While we
        close, until when what it sends is discarded."""
        self._write_deadline = NEVER
        """When the client must have taken what it is sent."""
        self._head_started = False
        self.idle_since = time.monotonic()
        self.served = False
        self.peer = ""
        self.client_keys: tuple[bytes, ...] = ()

    @property
    def unread_bytes(self) -> int:
        """Bytes that have arrived and wait for the request before them to be answered."""
        return len(self._buffer)

    # What the limiter sees.

    @property
    def is_idle(self) -> bool:
        return self._bridge is None and self._cancel is None and not self._closing

    def abort(self) -> None:
        """Closes the connection at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def check_deadline(self, now: float) -> bool:
        """Closes the connection if its client takes too long. Whether it does."""
        if now > self._write_deadline:
            self._server.limiter.count_closed("slow-read")
            self.abort()
        elif now > self._deadline and not self._awaits_turn:
            self._deadline = NEVER
            self._client_is_late()
        else:
            return False
        return True

    def _client_is_late(self) -> None:
        timeout = self._server.client_timeout
        if self._closing:  # it has had its time to read the last response
            self.abort()
        elif self._bridge is not None:
            self._server.limiter.count_closed("slow-body")
            reason = f"the body took longer than {timeout:g} s (RESOLVER_CLIENT_TIMEOUT)"
            self._refuse(408, reason, self._error_form)
        elif self._buffer:
            self._server.limiter.count_closed("slow-head")
            self._refuse_head(408, f"the request's head took longer than {timeout:g} s")
        else:
            if not self.served:  # an idle connection that has been used is not counted
                self._server.limiter.count_closed("slow-head")
            self._close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._transport = transport
        self._has_tls = transport.get_extra_info("sslcontext") is not None
        self._scheme = "https" if self._has_tls else "http"
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if isinstance(address, tuple) else ""
        limiter = self._server.limiter
        self.client_keys = limiter.client_keys(self.peer)
        limiter.add(self)
        self._deadline = time.monotonic() + self._server.client_timeout

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._transport = None
        self._server.limiter.remove(self)
        if self._cancel is not None:
            cancel, self._cancel = self._cancel, None
            cancel()
        if self._bridge is not None:
            self._drop_bridge(exc or ConnectionResetError("the client closed the connection"))
        elif self._kept_bridge is not None:
            self._kept_bridge.close()

    def eof_received(self) -> bool:
        """The client sends no more. It may still wait for responses, but with TLS asyncio cannot
        keep the connection half open."""
        self._server.coalescer.flush(self._transport)  # or the connection ends first
        self._client_ended = True
        if self._has_tls or self._closing or (self.is_idle and not self._buffer):
            return False
        return self._bridge is None or self._bridge.request_complete

    def pause_writing(self) -> None:
        self._write_deadline = time.monotonic() + self._server.client_timeout
        if self._bridge is not None:
            self._bridge.pause_writing()

    def resume_writing(self) -> None:
        self._write_deadline = NEVER
        if self._bridge is not None:
            self._bridge.resume_writing()
        elif self.is_idle:
            self._read_requests()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if (
            not self._buffer
            and self._bridge is None
            and self._cancel is None
            and self._write_deadline == NEVER
            and (read := self._server.recognize(data, self._known_kind, self.peer, self._scheme))
            is not None
        ):
            self._respond_to_plain(read)
            return
        if self._head_started and may_wait(data, len(self._buffer) - self._checked):
            self._buffer += data
            return
        if self._bridge is not None:
            data = self._feed_bridge(data)
            if not data:
                return
        self._buffer += data
        if self.is_idle:
            self._read_requests()
        self._update_reading()

    def _update_reading(self) -> None:
        """Stops reading while a request is answered or the client takes no responses, once another
        head has arrived; and while aiohttp takes no more of a body."""
        if (transport := self._transport) is None:
            return
        is_ahead = not self._closing and len(self._buffer) > MAX_HEAD_BYTES
        paused = self._bridge_pauses_reading or is_ahead
        if paused == self._reading_paused:
            return
        self._reading_paused = paused
        if paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    # Requests.

    def _read_requests(self) -> None:
        """Reads requests from the buffer until one of them is not answered at once, or the client
        takes no responses. After some, other connections have their turn."""
        if self._awaits_turn:  # else data that arrives meanwhile would give it several
            return
        for _ in range(OF_ONE_CONNECTION):
            if not self._buffer or not self.is_idle or self._write_deadline != NEVER:
                break
            end = self._end_of_head()
            if (read := self._next_known(end)) is not None:
                self._respond_to_plain(read)
                continue
            if end and not self._server.pacer.admits(self._take_turn):
                self._awaits_turn = True
                break
            try:
                head = self._next_head()
            except MalformedError as error:
                self._refuse_head(error.status, error.reason)
                return
            if head is None:
                self._wait_for_head()
                return
            self._begin(head)
        else:
            if self._buffer and self.is_idle:
                self._awaits_turn = True
                asyncio.get_running_loop().call_soon(self._take_turn)
        if self.is_idle and not self._buffer:
            self._wait_for_request()
        self._update_reading()

    def _take_turn(self) -> None:
        self._awaits_turn = False
        self._read_requests()

    def _end_of_head(self) -> int:
        """Where the next head ends in the buffer; 0 while it is incomplete."""
        found = self._buffer.find(END, max(0, self._checked - len(END) + 1))
        return found + len(END) if found >= 0 else 0

    def _next_head(self) -> RequestHead | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: empty lines before a request
            del buffer[:2]
        if not buffer:
            return None
        head = None
        if not is_incomplete_head(buffer, self._checked):
            head = parse_head(bytes(buffer[: MAX_HEAD_BYTES + 1]), self._checked)
        self._checked = 0 if head else len(buffer)
        return head

    def _wait_for_head(self) -> None:
        if self._client_ended:
            self._close()
        elif not self._buffer:
            if self._deadline == NEVER:  # empty lines do not make the time longer
                self._wait_for_request()
        elif not self._head_started:
            self._head_started = True
            self._deadline = time.monotonic() + self._server.client_timeout
        self._update_reading()

    def _wait_for_request(self) -> None:
        self.idle_since = now = time.monotonic()
        self._deadline = now + self._server.keepalive_timeout
        if self._client_ended:
            self._close()

    def _next_known(self, end: int) -> PlainRead | None:
        """Takes the next request from the buffer, if it needs no parsing. ``end``: of its head."""
        data = bytes(self._buffer[:end]) if end <= MAX_REQUEST_BYTES else b""
        if (
            not data
            or (read := self._server.recognize(data, self._known_kind, self.peer, self._scheme))
            is None
        ):
            return None
        del self._buffer[:end]
        self._checked = 0
        self._head_started = False
        return read

    def _respond_to_plain(self, read: PlainRead) -> None:
        front = self._server.front
        assert front is not None
        self.served = True
        if (response := front.respond_from_memory(read)) is not None:
            self._answered(read.kind.keeps_connection, response)
        else:
            self._deadline = NEVER
            self._cancel = front.respond_to_plain(read, self._answered)

    def _begin(self, head: RequestHead) -> None:
        """Has a request answered, by the front or by aiohttp."""
        self._deadline = NEVER
        self._head_started = False
        self.served = True
        front = self._server.front
        data = bytes(self._buffer[: head.size])
        del self._buffer[: head.size]
        expects = head.fields.get("expect")
        if expects and expects.lower() != "100-continue":
            self._refuse_expectation(head)
        elif (
            front is not None
            and not (head.fields.has_body or expects)
            and front.answers(head.method, head.target, head.fields)
        ):
            request = FrontRequest.from_head(head, self.peer, self._scheme)
            learned = front.known_reads.learn(data, request)
            if learned is not None:
                read, self._known_kind = learned
                self._respond_to_plain(read)
                return
            self._cancel = front.respond(request, self._answered)
        else:
            self._hand_over(head)

    def _answered(self, keeps_connection: bool, data: bytes) -> None:
        """The front has a response."""
        answered_later = self._cancel is not None
        self._cancel = None
        if self._transport is None:
            return
        self._server.coalescer.write(self._transport, data)
        self.idle_since = now = time.monotonic()
        self._deadline = now + self._server.keepalive_timeout
        if not keeps_connection or self._server.in_flight.stopping:
            self._close()
        elif answered_later and (self._buffer or self._client_ended or self._reading_paused):
            self._read_requests()

    def _close(self, *, after_refusal: bool = False) -> None:
        """Closes the connection when all that was written is sent. ``after_refusal``: more may
        follow of what could not be read."""
        self._closing = True
        self._server.coalescer.flush(self._transport)
        if (transport := self._transport) is None:
            return
        more_may_come = bool(self._buffer) or after_refusal
        if more_may_come and not self._client_ended and transport.can_write_eof():
            # Our side only: to close a socket with unread data resets the connection, and the
            # client may lose the response.
            self._buffer.clear()
            transport.write_eof()
            self._update_reading()
            self._deadline = time.monotonic() + LINGER_SECONDS
        else:
            transport.close()

    def _refuse_expectation(self, head: RequestHead) -> None:
        """RFC 9110, 10.1.1. Without a body to come, the connection can go on."""
        reason = "100-continue is the one Expect that can be met: leave the header out"
        form = error_form(head.path, head.fields)
        # Behind the response to a HEAD, its body would be read as the next response.
        if head.fields.has_body or head.method == "HEAD" or not head.keeps_connection:
            self._refuse(417, reason, form)
        elif self._transport is not None:
            data = self._server.refusal(417, reason, "", self.peer, form)
            self._server.coalescer.write(self._transport, data)

    def _refuse(self, status: int, reason: str, form: ErrorForm | None) -> None:
        """Answers what is not a request, or comes too slowly, and closes the connection."""
        by_app = self._bridge is not None  # aiohttp has the request, and counts it
        if self._bridge is not None:
            responded = self._bridge.responded
            self._drop_bridge(ConnectionResetError(reason), status)
            if responded:  # a second response would be read as a part of the first
                self.abort()
                return
        if self._transport is not None:
            data = self._server.refusal(
                status, reason, "Connection: close\r\n", self.peer, form, counted_by_app=by_app
            )
            self._server.coalescer.flush(self._transport)
            self._transport.write(data)
        self._close(after_refusal=True)

    def _refuse_head(self, status: int, reason: str) -> None:
        form = error_form_of_bytes(bytes(self._buffer[:MAX_HEAD_BYTES]))
        self._refuse(status, reason, form)

    # Requests that aiohttp answers.

    def _hand_over(self, head: RequestHead) -> None:
        """Has aiohttp answer a request, over a bridge."""
        assert self._transport is not None
        server = self._server
        server.coalescer.flush(self._transport)  # else aiohttp's response overtakes the one before
        server.in_flight.acquire()
        bridge = self._take_kept() or Bridge(
            self, self._transport, server.coalescer, server.make_protocol
        )
        bridge.begin(
            framing_of(head.fields),
            keeps_connection=head.keeps_connection,
            is_head=head.method == "HEAD",
        )
        self._bridge, self._error_form = bridge, error_form(head.path, head.fields)
        body = bytes(self._buffer)
        self._buffer.clear()
        self._buffer += self._feed_bridge(body, head.encode())

    def _feed_bridge(self, data: bytes, head: bytes = b"") -> bytes:
        """Gives the bridge the head, or none, and its part of the data; returns the rest."""
        bridge = self._bridge
        if bridge is None:
            return data
        if head or not bridge.request_complete:
            try:
                data = bridge.feed(data, head)
            except MalformedError as error:
                self._refuse(error.status, error.reason, self._error_form)
                return b""
            self._set_body_deadline(bridge)
        return data

    def _set_body_deadline(self, bridge: Bridge) -> None:
        waits = not (bridge.request_complete or self._bridge_pauses_reading)
        seconds = self._server.client_timeout + BODY_GRACE_SECONDS
        self._deadline = time.monotonic() + seconds if waits else NEVER

    def bridge_pauses_reading(self, bridge: Bridge, paused: bool) -> None:
        """aiohttp takes no more of the request's body, or takes it again."""
        if bridge is self._bridge:
            self._bridge_pauses_reading = paused
            self._set_body_deadline(bridge)
            self._update_reading()

    def _take_kept(self) -> Bridge | None:
        bridge, self._kept_bridge = self._kept_bridge, None
        if bridge is not None:
            self._server.kept_bridges.discard(bridge)
        return bridge

    def bridge_answered(self, bridge: Bridge) -> None:
        """aiohttp has read its request and sent its response."""
        if bridge is not self._bridge:  # it has closed the bridge too
            return
        if self._transport is not None and self._server.keeps(bridge):
            self._kept_bridge = bridge
            self._bridge_ended(bridge)
        else:
            bridge.close()

    def bridge_closed(self, bridge: Bridge) -> None:
        """aiohttp has sent its response, or will send none."""
        if bridge is self._kept_bridge:
            self._take_kept()
        elif bridge is self._bridge:
            self._bridge_ended(bridge)

    def _bridge_ended(self, bridge: Bridge) -> None:
        self._bridge = None
        self._bridge_pauses_reading = False
        self._deadline = NEVER
        self._server.in_flight.release()
        if self._transport is None:
            return
        if bridge.keeps_connection and bridge.response_complete and bridge.request_complete:
            self._read_requests()
        else:
            self._close()

    def _drop_bridge(self, error: Exception, status: int = 0) -> None:
        bridge, self._bridge = self._bridge, None
        self._bridge_pauses_reading = False
        assert bridge is not None
        self._server.in_flight.release()
        bridge.lose(error, status)
