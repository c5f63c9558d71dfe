"""A server in place of a gateway or a location that never ends: each call ends in an error."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from glance_resolver_client import AsyncClient, Client, GatewayUnavailableError, Retries
from glance_resolver_client.errors import GatewayError
from glance_resolver_client.gateway_calls import MAX_PAGES

from tests.client.servers import Scripted, scripted
from tests.support.certificates import Authority

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENDLESS = {
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n", b""),
    "body": (b" ", HEAD + b"Content-Length: 1000000\r\n\r\n"),
}
"""What is sent again and again, and what before that."""
SECONDS = 0.25
"""Of silence. What is sent comes more often."""

Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Returns a function that starts a server of one of `ENDLESS`."""
    servers = []
    answers = set()

    async def start(kind: str, tls: ssl.SSLContext | None = None) -> str:
        again, first = ENDLESS[kind]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers.add(asyncio.current_task())
            with suppress(OSError, asyncio.CancelledError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(first)
                while not writer.is_closing():
                    writer.write(again)
                    await writer.drain()
                    await asyncio.sleep(SECONDS / 10)
            writer.transport.abort()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
        servers.append(server)
        return f"http{'s' * bool(tls)}://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    for task in answers:
        task.cancel()
    await asyncio.gather(*answers)


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_answer_that_does_not_end_is_an_error(serve: Serve, kind: str) -> None:
    url = await serve(kind)
    async with AsyncClient(url, timeout=SECONDS, retries=Retries(attempts=0)) as client:
        with pytest.raises(GatewayUnavailableError, match="not complete in time"):
            await client.resolve(ID)


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_answer_that_does_not_end_is_an_error_in_a_thread(serve: Serve, kind: str) -> None:
    url = await serve(kind)
    with (
        Client(url, timeout=SECONDS, retries=Retries(attempts=0)) as client,
        pytest.raises(GatewayUnavailableError, match="not complete in time"),
    ):
        await asyncio.to_thread(client.resolve, ID)


async def test_an_answer_over_tls_that_does_not_end_is_an_error(
    serve: Serve, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    url = await serve("100", context)
    options = {"timeout": SECONDS, "retries": Retries(attempts=0), "tls": authority.client()}
    with (
        Client(url, **options) as client,
        pytest.raises(GatewayUnavailableError, match="not complete in time"),
    ):
        await asyncio.to_thread(client.resolve, ID)


async def test_a_list_of_images_that_does_not_end_is_an_error() -> None:
    link = (("Link", '</resolve?marker=x>; rel="next"'),)
    async with scripted(Scripted(200, [], link)) as server:
        async with AsyncClient(server.url) as client:
            with pytest.raises(GatewayError, match="does not end"):
                [answer async for answer in client.lookup(name="a", token="a-token")]
        assert len(server.requests) == MAX_PAGES
