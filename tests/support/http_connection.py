"""A bare HTTP/1.1 connection, for requests that no client library would send."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

RESPONSE_TIMEOUT_SECONDS = 30.0


class Response(NamedTuple):
    status: int
    head: str
    """Status line and fields."""
    body: bytes

    @property
    def text(self) -> str:
        """Head and body."""
        return self.head + self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem_code(self) -> str:
        """The ``code`` of a problem document; empty for other bodies."""
        return str(self.json()["code"]) if "application/problem+json" in self.head else ""


class HttpConnection:
    """A connection on which a test sends and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def send_request(self, method: str, path: str, *fields: str, version: str = "1.1") -> None:
        """Sends a request without a body."""
        lines = [f"{method} {path} HTTP/{version}", "Host: gateway", *fields, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def response(self, *, has_body: bool = True) -> Response:
        """The next response. Its body is read if it has a Content-Length."""
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"^Content-Length: (\d+)", head, re.MULTILINE | re.IGNORECASE)
            size = int(length[1]) if length and has_body else 0
            return Response(int(head.split()[1]), head, await self.reader.readexactly(size))

    async def chunked_response(self) -> str:
        """The next response, as it is sent, if its body is chunked."""
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            return (await self.reader.readuntil(b"\r\n0\r\n\r\n")).decode()

    async def ask(self, method: str, path: str, *fields: str, version: str = "1.1") -> Response:
        self.send_request(method, path, *fields, version=version)
        return await self.response(has_body=method != "HEAD")

    async def read_to_end(self) -> bytes:
        """Everything that arrives until the other side closes."""
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            return await self.reader.read()

    async def is_closed(self) -> bool:
        """Whether the other side closes without another byte."""
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            return await self.reader.read(1) == b""


def address_of(url: str) -> tuple[str, int]:
    """Host and port of ``http://host:port``."""
    host, _, port = url.rpartition("//")[2].rpartition(":")
    return host, int(port)


@asynccontextmanager
async def connected(
    url: str, *, receive_buffer: int = 0, **options: Any
) -> AsyncIterator[HttpConnection]:
    """A connection to the host and port of a URL. ``receive_buffer``: most bytes that this side's
    kernel accepts; ``options`` are of `asyncio.open_connection`."""
    client = socket.socket()
    client.setblocking(False)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(client, address_of(url))
    reader, writer = await asyncio.open_connection(sock=client, **options)
    try:
        yield HttpConnection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
