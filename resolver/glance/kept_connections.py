"""Questions about single images, on connections that stay open, without aiohttp's client.

That client takes a fifth of a millisecond of processor time for each request, and an id that no
location has is asked of all of them. This one knows the plainest answers only: HTTP/1.1 with a
``Content-Length`` (RFC 9112). After any other answer the connection is closed and the question goes
through aiohttp's client, as do those of the next `AVOIDED_SECONDS`. A longer answer than
`MAX_ANSWER_BYTES` goes through it, too.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

from multidict import CIMultiDict

from resolver.glance.glance_reply import Reply
from resolver.glance.host_policy import HostPolicy, HostPolicyResolver, parse_address
from resolver.glance.proxies import DEFAULT_PORTS

MAX_ANSWER_BYTES = 64 * 1024
"""Head and body. An image's record has some 2 KB, Glance's 404 has 400 bytes."""

MAX_FIELDS = 128
"""Of a head; as many as aiohttp's client reads."""

IDLE_SECONDS = 15.0
"""How long a connection stays open without a question."""

LIFETIME_SECONDS = 60.0
"""How long a connection to a location is used, by aiohttp's client too. The next one looks the
host's name up again: the location may have moved to another address, and its old server answer on.
"""

AVOIDED_SECONDS = 60.0
"""How long a server is asked through aiohttp's client after it could not be asked here."""

MAX_SERVERS = 10_000
"""Whose connections are kept."""

_TARGET = re.compile(r"[A-Za-z0-9/._~-]*(\?[A-Za-z0-9._~%=&:,+-]*)?", re.ASCII)
"""Paths that need no quoting, with an encoded query."""

_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [^\x00\r\n]*)?\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00\r\n]*\r\n)*)\r\n"
)
_FIELD = re.compile(r"[!-~]([ -~]*[!-~])?|", re.ASCII)
"""Values of header fields that can be sent as they are."""

_LENGTH = re.compile(r"[0-9]{1,9}", re.ASCII)


class UnusualAnswer(Exception):
    """The server's answer is for a client that knows more."""


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    headers: CIMultiDict[str]
    body_bytes: int


def _parse_head(head: bytes, *, has_body: bool) -> _Head:
    """``has_body``: whether the answer to this method has one.

    Raises:
        UnusualAnswer: it is not plain.
    """
    if head.count(b"\n") > MAX_FIELDS:  # reading more takes long
        raise UnusualAnswer
    match = _HEAD.fullmatch(head)
    if match is None:
        raise UnusualAnswer
    status = int(match[1])
    lines = match[2].decode("utf-8", "surrogateescape").split("\r\n")[:-1]
    fields = (line.partition(":") for line in lines)
    headers = CIMultiDict((name, value.strip(" \t")) for name, _, value in fields)
    if "Transfer-Encoding" in headers:
        raise UnusualAnswer
    if not has_body or status in (204, 304):
        return _Head(status, headers, 0)
    lengths = headers.getall("Content-Length", ())
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise UnusualAnswer
    return _Head(status, headers, int(lengths[0]))


class KeptConnection(asyncio.Protocol):
    """A connection to a server. It has one question at a time."""

    def __init__(
        self, idle: list[KeptConnection], idle_seconds: float, lifetime_seconds: float
    ) -> None:
        """``idle``: the connections of the same server that have no question. ``idle_seconds``:
        how long this one may be among them. ``lifetime_seconds``: after which it is not used
        again."""
        self._idle = idle
        self._idle_seconds = idle_seconds
        self._used_until = time.monotonic() + lifetime_seconds
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply | None] | None = None
        self._has_body = True
        self._received = bytearray()
        self._head: _Head | None = None
        self._end = 0
        """Where the answer ends, once its head has arrived."""
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, request: bytes, *, has_body: bool) -> Reply | None:
        """The answer to a request; None where the server closes the connection without one, or it
        is too long.

        Raises:
            UnusualAnswer: the answer is not plain.
        """
        if self._transport is None or self._transport.is_closing():
            return None
        self._answer = asyncio.get_running_loop().create_future()
        self._has_body = has_body
        self._transport.write(request)
        try:
            reply = await self._answer
        except BaseException:  # cancelled, too: an answer may still come
            self.close()
            raise
        finally:
            self._answer = None
        is_last = reply is None or reply.headers.get("Connection", "").lower() == "close"
        if is_last or time.monotonic() >= self._used_until:
            self.close()
        if not self._transport.is_closing():
            self._idle_since = time.monotonic()
            self._idle.append(self)
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._close_if_idle()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nobody has asked
            return
        seen = max(len(self._received) - 3, 0)
        self._received += data
        try:
            reply = self._read(seen)
        except UnusualAnswer as error:
            self._answer.set_exception(error)
            return
        if self._end > MAX_ANSWER_BYTES or len(self._received) > MAX_ANSWER_BYTES:
            self._answer.set_result(None)
        elif reply is not None:
            self._received.clear()
            self._head = None
            self._answer.set_result(reply)

    def _read(self, seen: int) -> Reply | None:
        """The answer once it is whole. ``seen``: where its head may end at the earliest.

        Raises:
            UnusualAnswer: it is not plain.
        """
        received = self._received
        if self._head is None:
            end = received.find(b"\r\n\r\n", seen)
            if end >= 0:
                self._head = _parse_head(bytes(received[: end + 4]), has_body=self._has_body)
                self._end = end + 4 + self._head.body_bytes
        if self._head is None or len(received) < self._end:
            return None
        if len(received) > self._end:  # who sent that, and about what?
            raise UnusualAnswer
        body = bytes(received[self._end - self._head.body_bytes :])
        return Reply(self._head.status, self._head.headers, body)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        if self in self._idle:
            self._idle.remove(self)
        if self._timer is not None:
            self._timer.cancel()

    def _close_if_idle(self) -> None:
        """Closes the connection if it has had no question for long, or looks again later."""
        now = time.monotonic()
        if self in self._idle and now - self._idle_since >= self._idle_seconds:
            self.close()
            return
        self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._close_if_idle)


@dataclass(eq=False, slots=True)
class _Server:
    """A server, and its connections that have no question."""

    scheme: str
    host: str
    port: int
    path: str
    """Of its base URL."""
    tls: ssl.SSLContext | None
    fields: str
    """The header fields that each request has."""
    idle: list[KeptConnection] = field(default_factory=list)
    avoided_until: float = 0.0
    """Until when it is not asked here, on `time.monotonic`."""

    def close(self) -> None:
        for connection in tuple(self.idle):
            connection.close()


class KeptConnections:
    """The connections of a process to all locations. Not for those behind a proxy."""

    def __init__(
        self,
        policy: HostPolicy,
        headers: Mapping[str, str],
        timeout: float,
        idle_seconds: float = IDLE_SECONDS,
        lifetime_seconds: float = LIFETIME_SECONDS,
    ) -> None:
        """``policy``: allows hosts. ``headers``: of every request. ``timeout``: seconds for a
        question."""
        self._policy = policy
        self._resolver = HostPolicyResolver(policy, frozenset)
        self._headers = headers
        self._timeout = timeout
        self._idle_seconds = idle_seconds
        self._lifetime_seconds = lifetime_seconds
        self._servers: dict[str, _Server] = {}
        """By base URL."""

    async def ask(
        self,
        base_url: str,
        path_and_query: str,
        method: str,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
    ) -> Reply | None:
        """The answer to a question without a body; None where aiohttp's client must ask, since the
        server did not answer plainly and briefly, or closed the connection.

        ``tls``: how to speak TLS with the server; None for the default.

        Raises:
            TimeoutError: there was no answer in time.
            LocationUnavailable: the host is not allowed.
        """
        server = self._servers.get(base_url)
        if server is None or server.tls is not tls:
            server = self._add(base_url, tls)
        target = server.path + path_and_query
        is_plain = _TARGET.fullmatch(target) and all(map(_FIELD.fullmatch, headers.values()))
        if not is_plain or time.monotonic() < server.avoided_until:
            return None
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = f"{method} {target} HTTP/1.1\r\n{server.fields}{fields}\r\n".encode()
        try:
            async with asyncio.timeout(self._timeout):
                connection = server.idle.pop() if server.idle else await self._open(server)
                return await connection.ask(request, has_body=method != "HEAD")
        except TimeoutError:
            raise
        except (OSError, UnusualAnswer):
            server.avoided_until = time.monotonic() + AVOIDED_SECONDS
            return None

    def _add(self, base_url: str, tls: ssl.SSLContext | None) -> _Server:
        """The server, without the connections that had other options of TLS."""
        if before := self._servers.pop(base_url, None):
            before.close()
        elif len(self._servers) >= MAX_SERVERS:
            self._servers.pop(next(iter(self._servers))).close()
        parts = urlsplit(base_url)
        headers = {"Host": parts.netloc, "Accept": "*/*", **self._headers}
        server = self._servers[base_url] = _Server(
            scheme=parts.scheme,
            host=(parts.hostname or "").removesuffix("."),
            port=parts.port or DEFAULT_PORTS[parts.scheme],
            path=parts.path,
            tls=tls,
            fields="".join([f"{name}: {value}\r\n" for name, value in headers.items()]),
        )
        return server

    async def _open(self, server: _Server) -> KeptConnection:
        """Raises OSError or LocationUnavailable."""
        self._policy.check_request(server.scheme, server.host)
        address = server.host
        if parse_address(address) is None:
            found = await self._resolver.resolve(address, server.port, socket.AF_UNSPEC)
            address = found[0]["host"]
        is_tls = server.scheme == "https"
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: KeptConnection(server.idle, self._idle_seconds, self._lifetime_seconds),
            address,
            server.port,
            ssl=(server.tls or _default_tls()) if is_tls else None,
            server_hostname=server.host if is_tls else None,
        )
        return connection

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        await self._resolver.close()


@cache
def _default_tls() -> ssl.SSLContext:
    return ssl.create_default_context()
