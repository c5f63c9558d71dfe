"""Bare connections to a gateway, for clients that no library would be."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.gateway.conftest import Gateway

PATIENCE = 15.0


class Line:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the gateway closes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and body of the next answer, whose length is said."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            _, _, length = head.partition("content-length: ")
            body = await self.reader.readexactly(int(length.partition("\r\n")[0] or 0))
        assert "x-openstack-request-id: req-" in head
        return int(head.split()[1]), json.loads(body) if "json" in head else {}


@asynccontextmanager
async def line(gateway: Gateway, **options: Any) -> AsyncIterator[Line]:
    """``receive_buffer``: bytes that the client's kernel takes at most."""
    host, port = gateway.url.removeprefix("http://").split(":")
    one = socket.socket()
    one.setblocking(False)
    if size := options.pop("receive_buffer", 0):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    await asyncio.get_running_loop().sock_connect(one, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=one, **options)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def counted(gateway: Gateway, what: str) -> float:
    """The figure of that name and labels."""
    response, _ = await gateway.get("/metrics")
    for row in (await response.text()).splitlines():
        if row.startswith(f"{what} "):
            return float(row.rpartition(" ")[2])
    return 0.0
