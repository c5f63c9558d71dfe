"""SIGTERM under load: every request that was sent is answered."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.cli.test_serve import Server, serve
from tests.cli.test_workers import ID, TOKEN, claim
from tests.support.http_connection import address_of
from tests.support.wait import wait_until

REQUEST = f"GET /v2/images/{ID} HTTP/1.1\r\nHost: a\r\n".encode()


@dataclass
class Clients:
    """Clients that ask until the gateway stops listening."""

    host: str
    port: int
    answered: int = 0
    dropped: list[str] = field(default_factory=list)

    async def ask(self, *, keep_alive: bool) -> None:
        """On one connection while it is open, or on a new one for each request."""
        end = b"\r\n" if keep_alive else b"Connection: close\r\n\r\n"
        while True:
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            except OSError:  # it stopped listening: nothing was sent
                return
            is_open = True
            while is_open:
                try:
                    writer.write(REQUEST + end)
                    await writer.drain()
                    head = await reader.readuntil(b"\r\n\r\n")
                except (OSError, asyncio.IncompleteReadError) as error:
                    self.dropped.append(repr(error))
                    break
                assert head.startswith(b"HTTP/1.1 307 ")
                self.answered += 1
                is_open = keep_alive and b"Connection: close" not in head
                await asyncio.sleep(0)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def stop_under_load(server: Server) -> Clients:
    clients = Clients(*address_of(server.url))
    asking = [asyncio.create_task(clients.ask(keep_alive=number % 2 == 0)) for number in range(24)]
    await wait_until(lambda: clients.answered > 1000)
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await server.process.wait() == 0
        await asyncio.gather(*asking)
    return clients


@pytest.mark.redis
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("attempt", range(3))
async def test_sigterm_under_load_drops_no_request(
    redis_url: str, workers: int, attempt: int
) -> None:
    environ = {"RESOLVER_REDIS_URL": redis_url, "RESOLVER_ADMIN_TOKENS": TOKEN}
    options = ("--workers", str(workers), "--role", "gateway", "--location", "one=http://a.example")
    async with serve(*options, **environ, RESOLVER_ACCESS_LOG="off") as server:
        await claim(server)
        clients = await stop_under_load(server)
    assert clients.dropped == []
