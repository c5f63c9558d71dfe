"""A TCP proxy for tests that can delay, stop, cut and corrupt connections."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self


class Proxy:
    """Passes connections on to a port of this host."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: for TLS with clients; the target is asked without TLS."""
        self.target = target
        self.port = 0
        self._tls = tls
        self.delay = 0.0
        """Seconds added to each response."""
        self._open = asyncio.Event()
        self._open.set()
        self.refuse = False
        """Whether new connections are closed at once."""
        self.break_after: int | None = None
        """Bytes of a response after which every connection is cut."""
        self.byte_by_byte = 0.0
        """Seconds between two bytes of a response."""
        self._responses_open = asyncio.Event()
        self._responses_open.set()
        self.doubles = ""
        """``requests`` or ``responses``: what is passed on twice."""
        self.corrupt = False
        """Whether responses are replaced by other bytes."""
        self._server: asyncio.Server | None = None
        self._cuts = 0
        """How often all connections were reset."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Listens, again at the same port if it listened before."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stops listening and resets every connection, until `listen`."""
        assert self._server is not None
        self._server.close()
        self.cut()

    @property
    def silent(self) -> bool:
        """Whether nothing is passed on in either direction."""
        return not self._open.is_set()

    @silent.setter
    def silent(self, silent: bool) -> None:
        if silent:
            self._open.clear()
        else:
            self._open.set()

    @property
    def holds_responses(self) -> bool:
        """Whether requests pass and responses do not: a link that works in one direction."""
        return not self._responses_open.is_set()

    @holds_responses.setter
    def holds_responses(self, holds: bool) -> None:
        if holds:
            self._responses_open.clear()
        else:
            self._responses_open.set()

    def cut(self) -> None:
        """Resets every connection."""
        self._cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()

    def half_close(self) -> None:
        """Ends the sending direction of every connection. The proxy still reads."""
        for writer in list(self._writers):
            if writer.can_write_eof():
                writer.write_eof()

    def changed(self, data: bytes) -> bytes:
        """The bytes to pass on in place of a response. Subclasses change them."""
        return data

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._server is not None
        if self.refuse or not self._server.is_serving():  # it was accepted before `close`
            writer.transport.abort()
            return
        cuts = self._cuts
        try:
            from_target, to_target = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        if cuts != self._cuts:
            writer.transport.abort()
            to_target.transport.abort()
            return
        self._writers |= {writer, to_target}
        for task in (
            asyncio.create_task(self._copy(reader, to_target)),
            asyncio.create_task(self._copy(from_target, writer, is_response=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_response: bool = False,
    ) -> None:
        try:
            while data := await reader.read(65536):
                if is_response and self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                if is_response:
                    await self._responses_open.wait()
                if is_response and self.corrupt:
                    data = bytes(byte ^ 0x5A for byte in data)
                if is_response and self.byte_by_byte:
                    for byte in data:
                        writer.write(bytes([byte]))
                        await asyncio.sleep(self.byte_by_byte)
                    continue
                if is_response and self.break_after is not None:
                    writer.write(data[: self.break_after])
                    await writer.drain()
                    self.cut()
                    return
                passed = self.changed(data) if is_response else data
                is_doubled = self.doubles == ("responses" if is_response else "requests")
                writer.write(2 * passed if is_doubled else passed)
                await writer.drain()
        except (OSError, RuntimeError):  # RuntimeError: written after `half_close`
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
