"""Connections: how many, how slow, and what becomes of the others meanwhile."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from resolver.gateway.net import listener
from resolver.gateway.net.listener import ACCEPT_BACKOFF_SECONDS, RESERVED_DESCRIPTORS, usable_connections
from tests.cli.test_serve import serve
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.limits.line import counted, line
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REQUEST = b"GET /livez HTTP/1.1\r\nHost: g\r\n\r\n"
NO_ROOM = "no room for another connection"
SECONDS = 0.5
"""What a slow client is given."""


@pytest.fixture
async def hasty(start: Start) -> Gateway:
    return await start(client_timeout=SECONDS)


async def cut(gateway: Gateway, reason: str) -> float:
    return await counted(gateway, f'glance_resolver_connections_cut_total{{reason="{reason}"}}')


async def answers(gateway: Gateway) -> None:
    response, _ = await gateway.get("/livez")
    assert response.status == 200


class LightHistogram:
    """Whether something took as long as it should."""

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert SECONDS * 0.9 < time.monotonic() - self._begun < SECONDS + 2


async def test_who_says_nothing_is_closed(hasty: Gateway) -> None:
    async with line(hasty) as one:
        with LightHistogram():
            assert await one.rest() == b""
    assert await cut(hasty, "slow-head") == 1


@pytest.mark.parametrize("first", [b"", REQUEST], ids=["at once", "after a request"])
async def test_a_head_that_comes_a_byte_at_a_time_is_408(hasty: Gateway, first: bytes) -> None:
    async with line(hasty) as one:
        if first:
            await one.send(first)
            assert (await one.answer())[0] == 200

        async def drip() -> None:
            for byte in REQUEST * 10:
                one.writer.write(bytes([byte]))
                await asyncio.sleep(SECONDS / 20)

        dripping = asyncio.create_task(drip())
        with LightHistogram():
            status, body = await one.answer()
        assert (status, body["code"]) == (408, "request-timeout")
        assert await one.rest() == b""
        dripping.cancel()
    assert await cut(hasty, "slow-head") == 1
    name = 'glance_resolver_requests_total{method="none",route="none",status="408"}'
    assert await counted(hasty, name) == 1


async def test_a_head_in_pieces_is_taken_as_long_as_it_ends_in_time(hasty: Gateway) -> None:
    async with line(hasty) as one:
        for _ in range(4):  # longer than one may take, but each has its own time
            for piece in (REQUEST[:7], REQUEST[7:]):
                await one.send(piece)
                await asyncio.sleep(SECONDS / 4)
            assert (await one.answer())[0] == 200
        await asyncio.sleep(2 * SECONDS)  # idle, not slow
        await one.send(REQUEST)
        assert (await one.answer())[0] == 200
    assert await cut(hasty, "slow-head") == 0


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("POST /resolve", ""),
        ("PUT /locations/one", f"Authorization: {ADMIN['Authorization']}\r\n"),
    ],
)
async def test_a_body_that_comes_a_byte_at_a_time_is_408(
    hasty: Gateway, target: str, headers: str
) -> None:
    async with line(hasty) as one:
        await one.send(
            f"{target} HTTP/1.1\r\nHost: g\r\n{headers}Content-Length: 999\r\n\r\n".encode()
        )

        async def drip() -> None:
            while True:
                one.writer.write(b" ")
                await asyncio.sleep(SECONDS / 20)

        dripping = asyncio.create_task(drip())
        with LightHistogram():
            status, body = await one.answer()
        assert (status, body["code"]) == (408, "request-timeout")
        assert "RESOLVER_CLIENT_TIMEOUT" in body["detail"]
        dripping.cancel()


async def test_an_import_may_take_its_time_but_not_stand_still(hasty: Gateway) -> None:
    async with hasty.http.get("/index/export", headers=ADMIN) as response:
        dump = await response.read()
    header = (
        f"POST /index/import HTTP/1.1\r\nHost: g\r\nContent-Length: {len(dump)}\r\n"
        f"Authorization: {ADMIN['Authorization']}\r\n\r\n"
    ).encode()
    async with line(hasty) as one:
        await one.send(header)
        step = len(dump) // 4 + 1
        for at in range(0, len(dump), step):
            await asyncio.sleep(SECONDS / 2)
            await one.send(dump[at : at + step])
        assert (await one.answer())[0] == 200
    async with line(hasty) as one:
        await one.send(header + dump[:-1])
        with LightHistogram():
            status, body = await one.answer()
        assert (status, body["code"]) == (408, "request-timeout")


async def test_who_does_not_read_a_large_answer_is_cut_off(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start(client_timeout=SECONDS, client_rate=0)
    await gateway.location("one")
    body = b'["' + b'","'.join([ID.encode()] * 10_000) + b'"]'
    request = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with line(gateway, receive_buffer=4096, limit=1024) as one:
        await one.send(request * 4)  # more than kernels keep
        await wait_until(lambda: cut(gateway, "slow-read"))
        await answers(gateway)
        got = b""
        with suppress(ConnectionResetError):
            got = await one.rest()
        assert got.count(ID.encode()) < 40_000
    await wait_until(lambda: counted_is(gateway, "glance_resolver_connections", 1))
    await wait_until(lambda: counted_is(gateway, "glance_resolver_requests_in_flight", 1))


async def counted_is(gateway: Gateway, name: str, value: float) -> bool:
    return await counted(gateway, name) == value


async def test_who_asks_ahead_and_reads_nothing_is_cut_off(start: Start) -> None:
    """Small answers, that wait in the kernel first."""
    gateway = await start(client_timeout=SECONDS)
    await gateway.location("one")
    await gateway.claim("one", ID)
    request = f"GET /v2/images/{ID} HTTP/1.1\r\nHost: g\r\n\r\n".encode()
    async with line(gateway, receive_buffer=4096, limit=1024) as one:

        async def ask() -> None:
            while True:
                await one.send(request * 100)

        asking = asyncio.create_task(ask())
        await wait_until(lambda: cut(gateway, "slow-read"))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await wait_until(lambda: counted_is(gateway, "glance_resolver_connections", 1))


async def test_who_reads_slowly_but_reads_gets_all(start: Start) -> None:
    gateway = await start(client_timeout=SECONDS)
    await gateway.location("one")
    body = b'["' + b'","'.join([ID.encode()] * 10_000) + b'"]'
    async with line(gateway, receive_buffer=65536, limit=65536) as one:
        await one.send(
            b"POST /resolve HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        got, begun = bytearray(), time.monotonic()
        while data := await one.reader.read(65536):
            got += data
            await asyncio.sleep(0.02)
        assert time.monotonic() - begun > SECONDS
    assert got.count(ID.encode()) == 10_000
    assert got.endswith(b"0\r\n\r\n")
    assert await cut(gateway, "slow-read") == 0


async def test_who_ends_its_side_is_answered_and_closed(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    for path in (f"/v2/images/{ID}", f"/resolve/{ID}"):
        async with line(gateway) as one:
            await one.send(f"GET {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            one.writer.write_eof()
            got = await one.rest()
            assert got.startswith((b"HTTP/1.1 307 ", b"HTTP/1.1 200 ")), path
    await wait_until(lambda: counted_is(gateway, "glance_resolver_connections", 1))


async def test_no_end_overtakes_an_answer(gateway: Gateway) -> None:
    """Also where the client ends its side in the turn of the loop in which it is answered."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    for number in range(300):
        gateway.services.index.clear_cache()
        async with line(gateway) as one:
            await one.send(f"GET /v2/images/{ID} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            for _ in range(number % 15):
                await asyncio.sleep(0)
            one.writer.write_eof()
            assert (await one.rest()).startswith(b"HTTP/1.1 307 "), number


async def test_an_indexers_idle_connections_stay(start: Start) -> None:
    gateway = await start(role="indexer", client_timeout=SECONDS)
    async with line(gateway) as one:
        for _ in range(2):
            await one.send(REQUEST)
            assert (await one.answer())[0] == 200
            await asyncio.sleep(SECONDS * 1.5)


async def test_where_there_are_as_many_as_may_be_the_longest_idle_is_closed(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "IDLE", ACCEPT_BACKOFF_SECONDS)
    gateway = await start(max_connections=3)
    async with AsyncExitStack() as stack:
        some = [await stack.enter_async_context(line(gateway)) for _ in range(3)]
        for one in some:
            await one.send(REQUEST)
            await one.answer()
        await some[0].send(REQUEST)
        await some[0].answer()  # so the second is the longest idle
        await asyncio.sleep(2 * ACCEPT_BACKOFF_SECONDS)
        with caplog.at_level(logging.WARNING):
            for number in range(3):
                new = await stack.enter_async_context(line(gateway))
                await new.send(REQUEST)
                assert (await new.answer())[0] == 200
                await asyncio.sleep(2 * ACCEPT_BACKOFF_SECONDS)
                if number == 0:
                    assert await some[1].rest() == b""
                    await some[0].send(REQUEST)
                    assert (await some[0].answer())[0] == 200
    said = [record for record in caplog.records if NO_ROOM in str(record.msg)]
    assert len(said) == 1, "it is said once, not each time"
    assert await cut(gateway, "room") >= 3


async def test_those_on_which_nothing_was_asked_are_closed_first(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "IDLE", ACCEPT_BACKOFF_SECONDS)
    gateway = await start(max_connections=2)
    async with line(gateway) as used, line(gateway) as silent:
        await used.send(REQUEST)
        await used.answer()
        await asyncio.sleep(2 * ACCEPT_BACKOFF_SECONDS)
        async with line(gateway) as new:
            await new.send(REQUEST)
            assert (await new.answer())[0] == 200
        assert await silent.rest() == b""
        await used.send(REQUEST)
        assert (await used.answer())[0] == 200


async def test_where_none_is_idle_new_ones_wait(start: Start) -> None:
    gateway = await start(max_connections=2)
    body = f'["{ID}"]'.encode()
    half = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with line(gateway) as one, line(gateway) as two:
        for busy in (one, two):
            await busy.send(half)
        await asyncio.sleep(0.1)
        async with line(gateway) as third:
            await third.send(REQUEST)
            await asyncio.sleep(5 * ACCEPT_BACKOFF_SECONDS)
            assert not third.reader._buffer  # type: ignore[attr-defined]
            for busy in (one, two):
                await busy.send(body)
                assert b" 200 OK" in await busy.reader.readuntil(b"\r\n\r\n")
            assert (await third.answer())[0] == 200


class Exhausted:
    """A process that may have few files open."""

    def __init__(self, soft: int) -> None:
        self.soft = soft

    def __call__(self, *_: Any) -> tuple[int, int]:
        return self.soft, self.soft


@pytest.mark.parametrize(
    ("files", "fits"), [(10_000 + RESERVED_DESCRIPTORS, 10_000), (1024, 1024 - RESERVED_DESCRIPTORS), (100, 50), (20, 10)]
)
def test_no_more_connections_than_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, files: int, fits: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", Exhausted(files))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert usable_connections(10_000) == fits


def ticks(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_out_of_file_descriptors_it_goes_on_and_recovers() -> None:
    """Descriptors are taken away beneath what the process had counted on, so that accepting itself
    fails; more clients come than there can be."""
    async with serve(
        "--location", "one=http://127.0.0.1:9", RESOLVER_HEALTH_INTERVAL="60"
    ) as server:
        pid = server.process.pid
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))

        async def asked() -> None:
            writer.write(REQUEST)
            async with asyncio.timeout(5):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                await reader.readuntil(b"}")

        await asked()
        open_files = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files + 8, open_files + 8))
        busy = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: 99\r\n\r\n"
        with ExitStack() as limiter:
            for _ in range(60):
                one = limiter.enter_context(socket.create_connection((host, int(port))))
                one.sendall(busy)  # not idle, so that no room can be made
            await asyncio.sleep(0.5)
            used, said = ticks(pid), len(server.said)
            for _ in range(20):
                await asked()
                await asyncio.sleep(0.1)
            assert ticks(pid) - used < 0.5, "it waits, and does not try in vain all the time"
            assert len(server.said) - said < 60
            assert sum(NO_ROOM in line for line in server.said) == 1
        reader2, writer2 = await asyncio.open_connection(host, int(port))
        writer2.write(REQUEST)
        async with asyncio.timeout(5):
            assert (await reader2.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        for one_writer in (writer, writer2):
            one_writer.close()
        assert server.process.returncode is None


async def test_accepting_goes_on_after_a_connection_that_broke_off(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accept(2) tells of it, and the next one is none the worse."""
    failures = [ConnectionAbortedError(), OSError(errno.EMFILE, "Too many open files")]
    accept = socket.socket.accept

    def failing(one: socket.socket) -> Any:
        if failures:
            raise failures.pop(0)
        return accept(one)

    monkeypatch.setattr(listener.socket.socket, "accept", failing)
    async with line(gateway) as one:
        await one.send(REQUEST)
        assert (await one.answer())[0] == 200
    assert not failures
