"""A TCP proxy for tests, which can cut, delay, hold back, slow down and spoil what goes through
it."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self


class Proxy:
    """Passes connections on to a port of this host, as it is told."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: speaks TLS to its clients, and nothing of it to the target."""
        self.target = target
        self.port = 0
        self._tls = tls
        self.delay = 0.0
        """Seconds that answers take longer."""
        self._open = asyncio.Event()
        self._open.set()
        self.refuse = False
        """Whether new connections are closed at once."""
        self.break_after: int | None = None
        """Bytes of answers after which every connection is cut."""
        self.byte_by_byte = 0.0
        """Seconds between two bytes of an answer."""
        self.corrupt = False
        """Whether answers are others' bytes."""
        self._server: asyncio.Server | None = None
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
        """Where it listened before, if it did."""
        self._server = await asyncio.start_server(
            self._passed, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Nobody listens any more, and every connection is reset, until `listen`."""
        assert self._server is not None
        self._server.close()
        self.cut()

    @property
    def silent(self) -> bool:
        """Whether nothing is passed on, either way."""
        return not self._open.is_set()

    @silent.setter
    def silent(self, silent: bool) -> None:
        if silent:
            self._open.clear()
        else:
            self._open.set()

    def cut(self) -> None:
        """Resets every connection there is."""
        for writer in list(self._writers):
            writer.transport.abort()

    def changed(self, data: bytes) -> bytes:
        """What is passed on in place of an answer; for those who lie."""
        return data

    async def _passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for task in (
            asyncio.create_task(self._copy(reader, back)),
            asyncio.create_task(self._copy(there, writer, answers=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        answers: bool = False,
    ) -> None:
        try:
            while data := await reader.read(65536):
                if answers and self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                if answers and self.corrupt:
                    data = bytes(byte ^ 0x5A for byte in data)
                if answers and self.byte_by_byte:
                    for byte in data:
                        writer.write(bytes([byte]))
                        await asyncio.sleep(self.byte_by_byte)
                    continue
                if answers and self.break_after is not None:
                    writer.write(data[: self.break_after])
                    await writer.drain()
                    self.cut()
                    return
                writer.write(self.changed(data) if answers else data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
