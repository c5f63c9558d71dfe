"""A connection to a gateway on which a test sends bytes."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from tests.gateway.conftest import Gateway

T = TypeVar("T")


class Line:
    """A bare connection: what is sent and what comes, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def send(self, method: str, path: str, *headers: str, version: str = "1.1") -> None:
        lines = [f"{method} {path} HTTP/{version}", "Host: gateway", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def answer(self, *, body: bool = True) -> str:
        """The next answer, whole."""
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"^Content-Length: (\d+)", head, re.MULTILINE)
            size = int(length[1]) if length and body else 0
            return head + (await self._reader.readexactly(size)).decode()

    async def ask(self, method: str, path: str, *headers: str, version: str = "1.1") -> str:
        self.send(method, path, *headers, version=version)
        return await self.answer(body=method != "HEAD")

    async def chunked_answer(self) -> str:
        """The next response, which comes in chunks."""
        async with asyncio.timeout(10):
            return (await self._reader.readuntil(b"\r\n0\r\n\r\n")).decode()

    async def read(self) -> bytes:
        """All that comes until the end."""
        return await self._reader.read()

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            return await self._reader.read(1) == b""


@asynccontextmanager
async def line(gateway: Gateway) -> AsyncIterator[Line]:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


def every(kind: type[T]) -> list[T]:
    """All objects of a kind in this process."""
    return [thing for thing in gc.get_objects() if isinstance(thing, kind)]
