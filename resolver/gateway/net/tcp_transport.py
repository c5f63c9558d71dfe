"""A client's TCP connection as an asyncio transport that is made without a task.

asyncio makes transports in coroutines only, so that each connection costs a task, two futures and
several turns of the loop. This transport stands on `loop.add_reader` and `loop.add_writer`. It
reads what has arrived already when it is made: a client that sends one request for each connection
is answered before the loop watches its socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import structlog

READ_BYTES = 65_536

log = structlog.get_logger()


class TcpTransport(asyncio.Transport):
    """A connected socket. Whatever the kernel does not take at once counts as waiting for the
    client: the protocol's writing is paused until all of it is taken."""

    __slots__ = (
        *("_buffer", "_closing", "_ended", "_ends_writing", "_is_watched", "_loop"),
        *("_own_address", "_protocol", "_reading", "_socket"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connected: socket.socket,
        address: object,
        make_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        """Calls the protocol's ``connection_made``, and ``data_received`` if the client has sent
        something. ``connected`` must not block; ``address`` is the client's."""
        super().__init__({"peername": address})
        self._loop = loop
        self._socket = connected
        self._own_address: object = None
        self._buffer = bytearray()
        """What the kernel has not accepted yet."""
        self._closing = False
        self._ended = False
        self._ends_writing = False
        self._reading = True
        self._is_watched = False
        """Whether the loop calls `_read`."""
        self._protocol = protocol = make_protocol()
        protocol.connection_made(self)
        self._read()
        self._watch()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":  # aiohttp asks for it with each request
            if self._own_address is None and not self._ended:
                self._own_address = self._socket.getsockname()
            return self._own_address or default
        return super().get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    # Reading.

    def _read(self) -> None:
        if self._closing or not self._reading:
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:  # the client is gone
            self._lose(error)
            return
        try:
            if data:
                self._protocol.data_received(data)
            elif self._protocol.eof_received():
                self.pause_reading()
            else:
                self.close()
        except Exception as error:  # a bug of ours costs this connection only
            log.exception("connection failed")
            self._lose(error)

    def _watch(self) -> None:
        """Has the loop call `_read` when there is something to read, or stops it."""
        wanted = self._reading and not self._closing
        if wanted == self._is_watched:
            return
        self._is_watched = wanted
        if wanted:
            self._loop.add_reader(self._socket, self._read)
        else:
            self._loop.remove_reader(self._socket)

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False
        self._watch()

    def resume_reading(self) -> None:
        self._reading = True
        self._watch()

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._ends_writing:
            return
        if not self._buffer:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            self._buffer += memoryview(data)[sent:]
            self._loop.add_writer(self._socket, self._write_rest)
            self._protocol.pause_writing()
        else:
            self._buffer += data

    def _write_rest(self) -> None:
        try:
            sent = self._socket.send(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        del self._buffer[:sent]
        if self._buffer:
            return
        self._loop.remove_writer(self._socket)
        self._protocol.resume_writing()
        if self._buffer:  # the protocol has written more
            return
        if self._closing:
            self._end(None)
        elif self._ends_writing:
            self._shut_down_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._ends_writing:
            return
        self._ends_writing = True
        if not self._buffer:
            self._shut_down_writing()

    def _shut_down_writing(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    # The end.

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Closes the connection when all that was written is sent."""
        if self._closing:
            return
        self._closing = True
        self._watch()
        if not self._buffer:
            self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        """Closes the connection at once."""
        self._closing = True
        self._watch()
        if self._buffer:
            self._buffer.clear()
            self._loop.remove_writer(self._socket)
        self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            self._protocol.connection_lost(error)
        finally:
            self._socket.close()
