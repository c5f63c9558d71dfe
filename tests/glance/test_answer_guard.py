"""What comes before an answer, or without a question, costs no more than some kilobytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer, connect
from resolver.glance.answer_guard import (
    MAX_INTERIM_BYTES,
    READ_BYTES,
    AnswerGuard,
    GuardedRequest,
    short_reads,
)
from resolver.models import Location
from tests.support.certificates import Authority
from tests.support.tcp_server import listening
from tests.support.wait import wait_until

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n"

ENDLESS = {
    "100": CONTINUE,
    "102": b"HTTP/1.1 102 Processing\r\n\r\n",
    "103": HINTS,
    "other": b"HTTP/1.0 199 x\n\n",
    "line feeds": b"HTTP/1.1 100 Continue\n\r\n",
    "blank lines": b"\r\n" * 100 + CONTINUE,
    "only blank lines": b"\r\n",
    "fields": b"HTTP/1.1 100 Continue\r\n" + b"A: b\r\n" * 50 + b"\r\n",
    "one head": b"HTTP/1.1 100 Continue\r\n" + b"A: " + b"b" * MAX_INTERIM_BYTES,
}
"""Each is sent again and again."""


class Server:
    """Answers each request with what `parts` yields."""

    def __init__(self, *parts: bytes, repeats: bool = False) -> None:
        self.parts = parts
        self.repeats = repeats
        """Send the parts until the client closes the connection."""
        self.url = ""
        self.requests = 0
        self.sent = 0
        self.connections: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                await self._answer(writer)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        while True:
            for part in self.parts:
                writer.write(part)
                self.sent += len(part)
                await writer.drain()
                if len(self.parts) > 1:
                    await asyncio.sleep(0)  # so that each part arrives by itself
            if not self.repeats:
                return


@contextlib.asynccontextmanager
async def serving(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async with listening(server.serve, tls) as server.url:
        try:
            yield server
        finally:
            for writer in server.connections:
                writer.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with connect(20) as session:
        yield session


async def ask(session: aiohttp.ClientSession, server: Server) -> bytes:
    location = Location(name="one", url=server.url)
    return (await GlanceServer(session, location).request("/v2/images")).body


@pytest.mark.parametrize("part", ENDLESS.values(), ids=ENDLESS)
async def test_interim_responses_without_end_are_refused(
    session: aiohttp.ClientSession, part: bytes
) -> None:
    block = part * (100_000 // len(part))
    async with serving(Server(block, repeats=True)) as server:
        with pytest.raises(LocationUnavailable, match="interim responses") as caught:
            await ask(session, server)
        assert caught.value.problem_code == "cut"
        assert server.requests == 1, "it is not asked again"


@pytest.mark.parametrize(
    "before",
    [(CONTINUE,), (HINTS, CONTINUE), (b"\r\n",), (b"\r\n" + CONTINUE + b"\n",)],
    ids=["100", "two", "a blank line", "blank lines"],
)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_few_interim_responses_are_skipped(
    session: aiohttp.ClientSession, before: tuple[bytes, ...], *, in_pieces: bool
) -> None:
    whole = b"".join(before) + ANSWER
    parts = [whole[at : at + 1] for at in range(len(whole))] if in_pieces else [whole]
    async with serving(Server(*parts)) as server:
        for _ in range(2):
            assert await ask(session, server) == b"ok"
        assert len(server.connections) == 1


async def test_an_answer_in_pieces_is_read(session: aiohttp.ClientSession) -> None:
    async with serving(Server(*[ANSWER[at : at + 1] for at in range(len(ANSWER))])) as server:
        assert await ask(session, server) == b"ok"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 ", b"HTTP/1.1 100 Continue\r\n", b"nothing", b""])
async def test_an_answer_that_breaks_off_is_an_error(
    session: aiohttp.ClientSession, answer: bytes
) -> None:
    class Closing(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

    async with serving(Closing()) as server:
        with pytest.raises(LocationUnavailable, match="broke off or was not HTTP"):
            await ask(session, server)


async def test_what_comes_without_a_question_closes_the_connection(
    session: aiohttp.ClientSession,
) -> None:
    async with serving(Server(ANSWER)) as server:
        assert await ask(session, server) == b"ok"
        server.connections[0].write(CONTINUE)
        await wait_until(server.connections[0].is_closing, message="the connection is closed")
        assert await ask(session, server) == b"ok"
        assert len(server.connections) == 2


async def test_interim_responses_are_bounded_however_many_arrive_at_once() -> None:
    """A loop that reads more than `READ_BYTES` at a time changes nothing."""

    class Aborted(asyncio.Transport):
        aborts = 0

        def abort(self) -> None:
            self.aborts += 1

    protocol, transport = ResponseHandler(asyncio.get_running_loop()), Aborted()
    guard = AnswerGuard(protocol, transport)
    guard.expect_answer()
    many = CONTINUE * 400_000
    before = time.process_time()
    guard.data_received(many)
    assert time.process_time() - before < 0.1
    assert transport.aborts == 1
    assert isinstance(protocol.exception(), LocationUnavailable)


async def test_the_guard_is_there_with_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    async with (
        serving(Server(HINTS + ANSWER), tls) as server,
        connect(20) as session,
    ):
        for _ in range(2):
            async with session.get(server.url, ssl=authority.client()) as response:
                assert await response.read() == b"ok"
        server.parts, server.repeats = (CONTINUE * 4000,), True
        with pytest.raises(LocationUnavailable, match="interim responses"):
            await session.get(server.url, ssl=authority.client())


class OneRequest(GuardedRequest):
    lifetime_seconds = 0.0


async def test_a_connection_is_not_used_for_long() -> None:
    """The next one goes to the address that the location has by then."""
    async with (
        serving(Server(ANSWER)) as server,
        aiohttp.ClientSession(request_class=OneRequest) as session,
    ):
        for count in (1, 2, 3):
            assert await ask(session, server) == b"ok"
            assert len(server.connections) == count
        await wait_until(
            lambda: all(writer.is_closing() for writer in server.connections),
            message="the connections are closed",
        )


def test_little_is_read_at_a_time() -> None:
    """Or else one turn of the event loop is as long as the server likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with short_reads((socket.AF_INET, socket.SOCK_STREAM, 0, "", address)) as client:
            client.connect(address)
            with listener.accept()[0] as server:
                server.sendall(bytes(3 * READ_BYTES))
                server.shutdown(socket.SHUT_WR)
                assert len(client.recv(1 << 18)) <= READ_BYTES
                assert client.recv_into(bytearray(1 << 18)) <= READ_BYTES
                assert client.recv_into(bytearray(1 << 18), 10) == 10
