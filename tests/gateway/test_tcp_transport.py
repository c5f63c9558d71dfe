"""The transport of a client's connection behaves as asyncio's own, and needs no task."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from resolver.gateway.net.tcp_transport import TcpTransport
from tests.support.wait import wait_until

MEGABYTE = 1 << 20


class Recorder(asyncio.Protocol):
    """Remembers what the transport calls."""

    def __init__(
        self, *, keeps_open: bool = False, reply: bytes = b"", fails: bool = False
    ) -> None:
        self.calls: list[str] = []
        self.received = b""
        self.error: Exception | None = None
        self.transport: asyncio.Transport
        self._keeps_open, self._reply, self._fails = keeps_open, reply, fails

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._fails:
            raise RuntimeError("a bug")
        if self._reply:
            self.transport.write(self._reply)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self._keeps_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.error = exc


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end, which does not block, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    server.setblocking(False)
    client.settimeout(5)
    with server, client:
        yield server, client


Sockets = tuple[socket.socket, socket.socket]


def connect(sockets: Sockets, protocol: Recorder) -> TcpTransport:
    loop = asyncio.get_running_loop()
    return TcpTransport(loop, sockets[0], ("192.0.2.1", 1), lambda: protocol)


async def read(client: socket.socket, size: int) -> bytes:
    def read_all() -> bytes:
        data = b""
        while len(data) < size and (more := client.recv(MEGABYTE)):
            data += more
        return data

    return await asyncio.to_thread(read_all)


async def test_data_that_has_arrived_is_answered_at_once_and_without_a_task(
    sockets: Sockets,
) -> None:
    sockets[1].sendall(b"ping")
    protocol = Recorder(reply=b"pong")
    before = asyncio.all_tasks()
    transport = connect(sockets, protocol)
    assert protocol.received == b"ping"
    assert sockets[1].recv(10) == b"pong"
    assert asyncio.all_tasks() == before
    assert transport.get_extra_info("peername") == ("192.0.2.1", 1)
    assert transport.get_extra_info("sockname") == sockets[0].getsockname()
    transport.abort()


async def test_data_that_arrives_later_is_read(sockets: Sockets) -> None:
    protocol = Recorder()
    transport = connect(sockets, protocol)
    sockets[1].sendall(b"later")
    await wait_until(lambda: protocol.received == b"later")
    transport.abort()


async def test_a_client_that_reads_slowly_pauses_writing_and_gets_all(sockets: Sockets) -> None:
    protocol = Recorder()
    transport = connect(sockets, protocol)
    data = bytes(range(256)) * (32 * MEGABYTE // 256)
    transport.write(data)
    assert protocol.calls == ["made", "pause"]
    assert transport.get_write_buffer_size() > 0
    transport.write(b"end")
    transport.close()
    assert await read(sockets[1], len(data) + 4) == data + b"end"
    await wait_until(lambda: protocol.calls == ["made", "pause", "resume", "lost"])
    assert protocol.error is None


async def test_a_half_closed_client_still_gets_its_response(sockets: Sockets) -> None:
    protocol = Recorder(keeps_open=True)
    transport = connect(sockets, protocol)
    sockets[1].shutdown(socket.SHUT_WR)
    await wait_until(lambda: protocol.calls == ["made", "eof"])
    transport.write(b"response")
    transport.write_eof()
    transport.write(b"too late")
    assert await read(sockets[1], 100) == b"response"
    assert "lost" not in protocol.calls
    transport.close()
    await wait_until(lambda: protocol.calls[-1] == "lost")


async def test_a_connection_is_closed_when_its_client_closes(sockets: Sockets) -> None:
    protocol = Recorder()
    connect(sockets, protocol)
    sockets[1].close()
    await wait_until(lambda: protocol.calls == ["made", "eof", "lost"])


async def test_paused_reading_leaves_data_to_the_kernel(sockets: Sockets) -> None:
    protocol = Recorder()
    transport = connect(sockets, protocol)
    transport.pause_reading()
    assert not transport.is_reading()
    sockets[1].sendall(b"data")
    for _ in range(5):
        await asyncio.sleep(0)
    assert protocol.received == b""
    transport.resume_reading()
    await wait_until(lambda: protocol.received == b"data")
    transport.abort()


async def test_abort_drops_what_was_not_sent(sockets: Sockets) -> None:
    protocol = Recorder()
    transport = connect(sockets, protocol)
    transport.write(bytes(32 * MEGABYTE))
    transport.abort()
    assert transport.is_closing()
    transport.write(b"ignored")
    await wait_until(lambda: protocol.calls == ["made", "pause", "lost"])
    transport.close()
    transport.abort()
    await asyncio.sleep(0)
    assert protocol.calls.count("lost") == 1


async def test_a_reset_ends_the_connection_with_its_error(sockets: Sockets) -> None:
    protocol = Recorder()
    connect(sockets, protocol)
    sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sockets[1].close()
    await wait_until(lambda: protocol.calls[-1] == "lost")
    assert isinstance(protocol.error, ConnectionResetError)


async def test_a_bug_in_the_protocol_costs_its_own_connection(sockets: Sockets) -> None:
    protocol = Recorder(fails=True)
    connect(sockets, protocol)
    sockets[1].sendall(b"x")
    await wait_until(lambda: protocol.calls == ["made", "lost"])
    assert isinstance(protocol.error, RuntimeError)
