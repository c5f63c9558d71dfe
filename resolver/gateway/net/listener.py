"""Accepting connections: never more than allowed, also when file descriptors run out.

asyncio's own server accepts whatever comes, and when no file descriptor is left it logs and retries
a thousand times a second.

`Listener` behaves as follows.

- While there is room, it accepts up to `ACCEPTS_AT_ONCE` connections before others have their turn.
- Where `max_connections` are open, or ``accept`` fails with one of `EXHAUSTED_ERRORS`, it closes
  idle connections, and TLS handshakes that take long. Where there is none, it stops accepting for
  `ACCEPT_BACKOFF_SECONDS`: new connections wait in the kernel's queue.
- A client that has its share of the connections already gets its next one closed.
- ``ECONNABORTED`` and similar errors are caused by the client and ignored. Other errors propagate.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from resolver.gateway.net.connection_limiter import ConnectionLimiter
from resolver.gateway.net.tcp_transport import TcpTransport

BACKLOG = 1024
"""Connections that the kernel queues while this process is busy."""

ACCEPTS_AT_ONCE = 64

ACCEPT_BACKOFF_SECONDS = 0.1

RESERVED_DESCRIPTORS = 64
"""File descriptors that are not for clients: Redis, locations, files."""

HANDSHAKE_GRACE_SECONDS = 1.0
"""How long TLS handshakes under way may take at a shutdown."""

HANDSHAKE_PATIENCE_SECONDS = 5.0
"""How long an honest client may need for its handshake: three round trips of a second, and a lost
packet. One that takes longer is the first to be closed to make room."""

WARNING_INTERVAL_SECONDS = 60.0

DEADLINE_CHECK_SECONDS = 0.5

EXHAUSTED_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = structlog.get_logger()


class Listener:
    """Accepts connections on some sockets until `close`."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        limiter: ConnectionLimiter,
        tls: Mapping[str, Any],
        *,
        shortest_timeout: float,
    ) -> None:
        """Args:
        sockets: bound and listening.
        tls: what `asyncio.loop.connect_accepted_socket` takes for TLS; empty for plain HTTP.
        shortest_timeout: seconds; deadlines are checked several times in this time.
        """
        self._tls = tls
        self._sockets = sockets
        self._make_protocol = make_protocol
        self._limiter = limiter
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._backoff: asyncio.TimerHandle | None = None
        self._closing = False
        self._last_warning = float("-inf")
        self._check_seconds = min(DEADLINE_CHECK_SECONDS, shortest_timeout / 4)
        for listening in sockets:
            listening.setblocking(False)
        self._start_accepting()
        self._deadlines = self._loop.call_later(self._check_seconds, self._check_deadlines)

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    def _check_deadlines(self, begun: Iterator[None] | None = None) -> None:
        """Goes on with the checks that were begun, or begins new ones."""
        checks = begun or self._limiter.check_deadlines(time.monotonic())
        for _ in checks:  # others have their turn
            self._deadlines = self._loop.call_later(0, self._check_deadlines, checks)
            return
        self._deadlines = self._loop.call_later(self._check_seconds, self._check_deadlines)

    def _start_accepting(self) -> None:
        self._backoff = None
        for listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _back_off(self) -> None:
        """Stops accepting for a while. The sockets stay readable, so that the loop would call
        `_accept` in each of its turns."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
        if self._backoff is None:
            self._backoff = self._loop.call_later(ACCEPT_BACKOFF_SECONDS, self._start_accepting)

    def _accept(self, listening: socket.socket, count: int = ACCEPTS_AT_ONCE) -> None:
        for number in range(count):
            if self._limiter.open_count >= self._limiter.max_connections:
                if number == 0:  # else it is not known yet whether another connection waits
                    self._make_room(f"{self._limiter.max_connections} connections are open")
                return
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED_ERRORS:
                    raise
                self._make_room(error.strerror or str(error))
                return
            keys = self._limiter.client_keys(str(address[0]))
            if not self._limiter.allows(keys):
                self._limiter.count_closed("client-share")
                accepted.close()
                continue
            accepted.setblocking(False)
            if not self._tls:
                TcpTransport(self._loop, accepted, address, self._make_protocol)
                continue
            task = self._loop.create_task(self._shake_hands(accepted))
            self._handshakes.add(task)
            handshake = _Handshake(keys, task)
            self._limiter.add(handshake)  # until the connection counts by itself
            task.add_done_callback(partial(self._end_handshake, handshake, accepted))

    def _make_room(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._last_warning >= WARNING_INTERVAL_SECONDS:
            self._last_warning = now
            log.warning("connection limit reached: closing idle connections", reason=reason)
        if not (self._closing or self._limiter.evict_idle()):
            self._back_off()

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._make_protocol, accepted, **self._tls
            )
            # Whatever the kernel does not take at once counts as waiting for the client. The limit
            # is 1 and not 0, at which asyncio's TLS pauses with nothing written.
            transport.set_write_buffer_limits(high=1, low=0)
        except OSError:  # the client is gone, or its TLS handshake failed
            accepted.close()

    def _end_handshake(
        self, handshake: _Handshake, accepted: socket.socket, task: asyncio.Task[None]
    ) -> None:
        if task.cancelled():  # perhaps before it began
            accepted.close()
        self._handshakes.discard(task)
        self._limiter.remove(handshake)

    async def close(self) -> None:
        """Stops listening. Clients that have connected by now are accepted first, because closing
        a listening socket resets their connections."""
        self._closing = True
        if self._backoff is not None:
            self._backoff.cancel()
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            self._accept(listening, BACKLOG)
            listening.close()
        if self._handshakes:
            await asyncio.wait(self._handshakes, timeout=HANDSHAKE_GRACE_SECONDS)

    def stop_deadlines(self) -> None:
        """Ends the checks of deadlines, when the last connection is closed."""
        self._deadlines.cancel()


class _Handshake:
    """A connection in its TLS handshake, as the limiter sees it. asyncio limits its time."""

    is_idle = True

    def __init__(self, client_keys: tuple[bytes, ...], task: asyncio.Task[None]) -> None:
        self.client_keys = client_keys
        self.idle_since = time.monotonic()
        self._task = task

    @property
    def served(self) -> bool:
        """Whether it counts like a connection that has had a request, since it may be honest."""
        return time.monotonic() - self.idle_since < HANDSHAKE_PATIENCE_SECONDS

    def check_deadline(self, now: float) -> bool:
        """False: see the class."""
        return False

    def abort(self) -> None:
        self._task.cancel()


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at every address of a host, all at one port.

    Raises:
        OSError: an address is not available.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            port = bind_socket(listening, (address[0], port, *address[2:]))
            listening.listen(BACKLOG)
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets


def bind_socket(unbound: socket.socket, address: Any) -> int:
    """Binds a socket to its address, an IPv6 socket to IPv6 only. Returns the port, which the
    kernel chooses for port 0. Accepted connections inherit the socket's options."""
    unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    unbound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    unbound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if unbound.family == socket.AF_INET6:
        unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    unbound.bind(address)
    return int(unbound.getsockname()[1])


def usable_connections(wanted: int) -> int:
    """How many of the wanted connections there are file descriptors for. Raises this process's own
    limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    usable = max(soft - RESERVED_DESCRIPTORS, soft // 2)
    log.warning(
        "fewer connections than RESOLVER_MAX_CONNECTIONS: raise the limit of open files",
        connections=usable,
        open_files=soft,
    )
    return usable
