"""Accepting connections: no more than there may be, also where file descriptors run out.

asyncio's own server accepts whatever comes, and where no descriptor is left it logs and retries a
thousand times a second.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import resource
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from resolver.gateway.net.client_connection import ClientConnection

BACKLOG = 1024
"""Connections that the kernel keeps for us while we are busy."""

AT_ONCE = 64
"""Connections accepted before those that are there have their turn."""

REST = 0.1
"""Seconds until the next try where there is no room."""

IDLE = 1.0
"""Seconds without a request after which a connection may be closed to make room."""

SPARE = 64
"""File descriptors that are not for clients: Redis, locations, files."""

LAST = 1.0
"""Seconds that the last connections have for their TLS handshakes at the end."""

TOLD = 60.0
"""Seconds between two log lines about the same trouble."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = structlog.get_logger()


class ConnectionLimiter:
    """The connections that are open, and how many there may be."""

    def __init__(self, most: int, cut: Callable[[str], None]) -> None:
        """``cut``: told why, whenever a connection is closed on its client."""
        self.most = most
        self.open: set[ClientConnection] = set()
        self.cut = cut

    def evict_idle(self) -> bool:
        """Closes idle connections, some at a time, as nginx does: first those on which nothing was
        ever asked, then those idle for longest. False where none is idle."""
        before = asyncio.get_running_loop().time() - IDLE
        idle = [one for one in self.open if one.idle and one.idle_since < before]
        some = max(1, min(32, len(idle) // 8))
        for one in heapq.nsmallest(some, idle, key=lambda one: (one.asked, one.idle_since)):
            self.cut("room")
            one.force_close()
        return bool(idle)


class Listener:
    """Accepts on some sockets. Where there is no room, connections wait in the kernel's queue."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make: Callable[[], ClientConnection],
        limiter: ConnectionLimiter,
        tls: Mapping[str, Any],
    ) -> None:
        """``tls``: what asyncio takes for connections with TLS."""
        self._tls = tls
        self._sockets = sockets
        self._make = make
        self._limiter = limiter
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[None]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._closing = False
        self._told = -TOLD
        for one in sockets:
            one.setblocking(False)
        self._listen()

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    def _listen(self) -> None:
        self._resting = None
        for one in self._sockets:
            self._loop.add_reader(one, self._accept, one)

    def _rest(self) -> None:
        """The sockets stay readable, and would be told of in every turn of the loop."""
        for one in self._sockets:
            self._loop.remove_reader(one)
        if self._resting is None:
            self._resting = self._loop.call_later(REST, self._listen)

    def _accept(self, one: socket.socket, most: int = AT_ONCE) -> None:
        for number in range(most):
            if len(self._limiter.open) + len(self._coming) >= self._limiter.most:
                if number == 0:  # else it is not known yet whether another one waits
                    self._no_room(f"{self._limiter.most} connections are open")
                return
            try:
                accepted, _ = one.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._no_room(error.strerror or str(error))
                return
            task = self._loop.create_task(self._connect(accepted))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)

    def _no_room(self, why: str) -> None:
        if time.monotonic() - self._told >= TOLD:
            self._told = time.monotonic()
            log.warning("no room for another connection: idle ones are closed", why=why)
        if not (self._closing or self._limiter.evict_idle()):
            self._rest()

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            transport, _ = await self._loop.connect_accepted_socket(
                self._make, accepted, **self._tls
            )
            # So that whatever the kernel does not take at once is known to wait for the client.
            # 1 and not 0, at which asyncio's TLS pauses with nothing written.
            transport.set_write_buffer_limits(high=1, low=0)
        except OSError:  # it broke off, or its TLS handshake failed
            accepted.close()

    async def close(self) -> None:
        """Listening stops. Who has connected by now is accepted: closing a socket resets them."""
        self._closing = True
        if self._resting is not None:
            self._resting.cancel()
        for one in self._sockets:
            self._loop.remove_reader(one)
            self._accept(one, BACKLOG)
            one.close()
        if self._coming:
            await asyncio.wait(self._coming, timeout=LAST)


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on each address of a host, at one port.

    Raises:
        OSError: an address cannot be had.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            port = bind(one, (address[0], port, *address[2:]))
            one.listen(BACKLOG)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def bind(one: socket.socket, address: Any) -> int:
    """Gives a socket its address, of IPv6 no other's; returns the port, where 0 was asked for."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind(address)
    return int(one.getsockname()[1])


def room(most: int) -> int:
    """How many of ``most`` connections there are file descriptors for, once this process has as
    many of those as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return most
    fits = max(soft - SPARE, soft // 2)
    log.warning(
        "fewer connections than RESOLVER_MAX_CONNECTIONS: raise the limit of open files",
        connections=fits,
        open_files=soft,
    )
    return fits
