"""Connections: how many there may be, and how slow their clients may be."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from resolver.gateway.net import connection_limiter
from resolver.gateway.net.listener import (
    ACCEPT_BACKOFF_SECONDS,
    RESERVED_DESCRIPTORS,
    usable_connections,
)
from tests.cli.test_serve import serve
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.limits.conftest import metric
from tests.support.clock import Stopwatch
from tests.support.http_connection import address_of, connected
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REQUEST = b"GET /livez HTTP/1.1\r\nHost: g\r\n\r\n"
AT_LIMIT = "connection limit reached"
CLIENT_TIMEOUT = 0.5
EVICT_AFTER_SECONDS = 0.1
"""Shorter than the second of a real gateway."""


@pytest.fixture
async def impatient(start: Start) -> Gateway:
    return await start(client_timeout=CLIENT_TIMEOUT)


async def closed_connections(gateway: Gateway, reason: str) -> float:
    return await metric(gateway, f'glance_resolver_connections_cut_total{{reason="{reason}"}}')


async def answers(gateway: Gateway) -> None:
    response, _ = await gateway.get("/livez")
    assert response.status == 200


@contextmanager
def takes_the_client_timeout() -> Iterator[None]:
    """Fails if the block does not last for about `CLIENT_TIMEOUT`."""
    watch = Stopwatch()
    yield
    assert watch.elapsed > CLIENT_TIMEOUT * 0.9
    assert watch.own_seconds < CLIENT_TIMEOUT + 2


async def test_a_silent_client_is_closed(impatient: Gateway) -> None:
    async with connected(impatient.url) as connection:
        with takes_the_client_timeout():
            assert await connection.read_to_end() == b""
    assert await closed_connections(impatient, "slow-head") == 1


@pytest.mark.parametrize("first", [b"", REQUEST], ids=["at once", "after a request"])
async def test_a_head_in_single_bytes_is_408(impatient: Gateway, first: bytes) -> None:
    async with connected(impatient.url) as connection:
        if first:
            await connection.send(first)
            assert (await connection.response()).status == 200

        async def drip() -> None:
            for byte in REQUEST * 10:
                connection.writer.write(bytes([byte]))
                await asyncio.sleep(CLIENT_TIMEOUT / 20)

        dripping = asyncio.create_task(drip())
        with takes_the_client_timeout():
            response = await connection.response()
        assert (response.status, response.problem_code) == (408, "request-timeout")
        assert await connection.read_to_end() == b""
        dripping.cancel()
    assert await closed_connections(impatient, "slow-head") == 1
    name = 'glance_resolver_requests_total{method="none",route="none",status="408"}'
    assert await metric(impatient, name) == 1


async def test_a_head_in_pieces_is_accepted_if_it_is_complete_in_time(impatient: Gateway) -> None:
    async with connected(impatient.url) as connection:
        for _ in range(4):  # in total longer than one head may take
            for piece in (REQUEST[:7], REQUEST[7:]):
                await connection.send(piece)
                await asyncio.sleep(CLIENT_TIMEOUT / 4)
            assert (await connection.response()).status == 200
        await asyncio.sleep(2 * CLIENT_TIMEOUT)  # idle connections have no deadline
        await connection.send(REQUEST)
        assert (await connection.response()).status == 200
    assert await closed_connections(impatient, "slow-head") == 0


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("POST /resolve", ""),
        ("PUT /locations/one", f"Authorization: {ADMIN['Authorization']}\r\n"),
    ],
)
async def test_a_body_in_single_bytes_is_408(impatient: Gateway, target: str, headers: str) -> None:
    async with connected(impatient.url) as connection:
        await connection.send(
            f"{target} HTTP/1.1\r\nHost: g\r\n{headers}Content-Length: 999\r\n\r\n".encode()
        )

        async def drip() -> None:
            while True:
                connection.writer.write(b" ")
                await asyncio.sleep(CLIENT_TIMEOUT / 20)

        dripping = asyncio.create_task(drip())
        with takes_the_client_timeout():
            response = await connection.response()
        assert (response.status, response.problem_code) == (408, "request-timeout")
        assert "RESOLVER_CLIENT_TIMEOUT" in response.json()["detail"]
        dripping.cancel()


async def test_an_import_may_be_slow_but_must_make_progress(impatient: Gateway) -> None:
    async with impatient.http.get("/index/export", headers=ADMIN) as response:
        dump = await response.read()
    header = (
        f"POST /index/import HTTP/1.1\r\nHost: g\r\nContent-Length: {len(dump)}\r\n"
        f"Authorization: {ADMIN['Authorization']}\r\n\r\n"
    ).encode()
    async with connected(impatient.url) as connection:
        await connection.send(header)
        step = len(dump) // 4 + 1
        for at in range(0, len(dump), step):
            await asyncio.sleep(CLIENT_TIMEOUT / 2)
            await connection.send(dump[at : at + step])
        assert (await connection.response()).status == 200
    async with connected(impatient.url) as connection:
        await connection.send(header + dump[:-1])
        with takes_the_client_timeout():
            response = await connection.response()
        assert (response.status, response.problem_code) == (408, "request-timeout")


async def test_a_client_that_does_not_read_is_closed(start: Start) -> None:
    gateway = await start(client_timeout=CLIENT_TIMEOUT, client_rate=0)
    await gateway.location("one")
    body = b'["' + b'","'.join([ID.encode()] * 10_000) + b'"]'
    request = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with connected(gateway.url, receive_buffer=4096, limit=1024) as connection:
        await connection.send(request * 4)  # more than kernels buffer
        await wait_until(lambda: closed_connections(gateway, "slow-read"))
        await answers(gateway)
        got = b""
        with suppress(ConnectionResetError):
            got = await connection.read_to_end()
        assert got.count(ID.encode()) < 40_000
    await wait_until(lambda: metric_is(gateway, "glance_resolver_connections", 1))
    await wait_until(lambda: metric_is(gateway, "glance_resolver_requests_in_flight", 1))


async def metric_is(gateway: Gateway, name: str, value: float) -> bool:
    return await metric(gateway, name) == value


async def test_a_client_that_pipelines_and_does_not_read_is_closed(start: Start) -> None:
    """Small answers, which the kernel buffers first."""
    gateway = await start(client_timeout=CLIENT_TIMEOUT)
    await gateway.location("one")
    await gateway.claim("one", ID)
    request = f"GET /v2/images/{ID} HTTP/1.1\r\nHost: g\r\n\r\n".encode()
    async with connected(gateway.url, receive_buffer=4096, limit=1024) as connection:

        async def ask() -> None:
            while True:
                await connection.send(request * 100)

        asking = asyncio.create_task(ask())
        await wait_until(lambda: closed_connections(gateway, "slow-read"))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await wait_until(lambda: metric_is(gateway, "glance_resolver_connections", 1))


async def test_a_slow_reader_gets_everything(start: Start) -> None:
    gateway = await start(client_timeout=CLIENT_TIMEOUT)
    await gateway.location("one")
    body = b'["' + b'","'.join([ID.encode()] * 10_000) + b'"]'
    async with connected(gateway.url, receive_buffer=65536, limit=65536) as connection:
        await connection.send(
            b"POST /resolve HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        got, watch = bytearray(), Stopwatch()
        while data := await connection.reader.read(65536):
            got += data
            await asyncio.sleep(0.02)
        assert watch.elapsed > CLIENT_TIMEOUT
    assert got.count(ID.encode()) == 10_000
    assert got.endswith(b"0\r\n\r\n")
    assert await closed_connections(gateway, "slow-read") == 0


async def test_a_half_closed_connection_is_answered_and_closed(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    for path in (f"/v2/images/{ID}", f"/resolve/{ID}"):
        async with connected(gateway.url) as connection:
            await connection.send(f"GET {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            connection.writer.write_eof()
            got = await connection.read_to_end()
            assert got.startswith((b"HTTP/1.1 307 ", b"HTTP/1.1 200 ")), path
    await wait_until(lambda: metric_is(gateway, "glance_resolver_connections", 1))


async def test_half_closing_loses_no_answer(gateway: Gateway) -> None:
    """Also when it happens in the turn of the event loop that answers."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    for number in range(150):
        gateway.services.index.clear_cache()
        async with connected(gateway.url) as connection:
            await connection.send(f"GET /v2/images/{ID} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            for _ in range(number % 15):
                await asyncio.sleep(0)
            connection.writer.write_eof()
            assert (await connection.read_to_end()).startswith(b"HTTP/1.1 307 "), number


async def test_idle_connections_to_an_indexer_stay_open(start: Start) -> None:
    gateway = await start(role="indexer", client_timeout=CLIENT_TIMEOUT)
    async with connected(gateway.url) as connection:
        for _ in range(2):
            await connection.send(REQUEST)
            assert (await connection.response()).status == 200
            await asyncio.sleep(CLIENT_TIMEOUT * 1.5)


async def test_an_indexer_limits_heads_as_a_gateway_does(start: Start) -> None:
    """Also of a later request: nothing else ends a head that stalls."""
    gateway = await start(role="indexer", client_timeout=CLIENT_TIMEOUT)
    async with connected(gateway.url) as connection:
        await connection.send(REQUEST)
        assert (await connection.response()).status == 200
        await connection.send(REQUEST[:-2])
        with takes_the_client_timeout():
            response = await connection.response()
        assert (response.status, response.problem_code) == (408, "request-timeout")
        assert await connection.is_closed()
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 8000) for number in range(30))
    async with connected(gateway.url) as connection:
        await connection.send(REQUEST[:-2] + fields + b"\r\n")
        response = await connection.response()
        assert (response.status, response.problem_code) == (431, "header-too-large")


async def test_at_the_limit_the_longest_idle_connection_is_closed(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limiter, "EVICT_AFTER_SECONDS", EVICT_AFTER_SECONDS)
    gateway = await start(max_connections=3)
    async with AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(gateway.url)) for _ in range(3)]
        for connection in idle:
            await connection.send(REQUEST)
            await connection.response()
        await idle[0].send(REQUEST)
        await idle[0].response()  # now the second is the longest idle
        await asyncio.sleep(2 * EVICT_AFTER_SECONDS)
        with caplog.at_level(logging.WARNING):
            for number in range(3):
                new = await stack.enter_async_context(connected(gateway.url))
                await new.send(REQUEST)
                assert (await new.response()).status == 200
                await asyncio.sleep(2 * EVICT_AFTER_SECONDS)
                if number == 0:
                    assert await idle[1].read_to_end() == b""
                    await idle[0].send(REQUEST)
                    assert (await idle[0].response()).status == 200
    warnings = [record for record in caplog.records if AT_LIMIT in str(record.msg)]
    assert len(warnings) == 1, "it is logged once, not each time"
    assert await closed_connections(gateway, "room") >= 3


async def test_at_the_limit_connections_without_a_request_are_closed_first(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limiter, "EVICT_AFTER_SECONDS", EVICT_AFTER_SECONDS)
    gateway = await start(max_connections=2)
    async with connected(gateway.url) as used, connected(gateway.url) as silent:
        await used.send(REQUEST)
        await used.response()
        await asyncio.sleep(2 * EVICT_AFTER_SECONDS)
        async with connected(gateway.url) as new:
            await new.send(REQUEST)
            assert (await new.response()).status == 200
        assert await silent.read_to_end() == b""
        await used.send(REQUEST)
        assert (await used.response()).status == 200


async def test_at_the_limit_new_connections_wait_while_none_is_idle(start: Start) -> None:
    gateway = await start(max_connections=2)
    body = f'["{ID}"]'.encode()
    half = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with connected(gateway.url) as first, connected(gateway.url) as second:
        for busy in (first, second):
            await busy.send(half)
        async with connected(gateway.url) as third:
            await third.send(REQUEST)
            answer = asyncio.create_task(third.response())
            await asyncio.wait([answer], timeout=5 * ACCEPT_BACKOFF_SECONDS)
            assert not answer.done()
            for busy in (first, second):
                await busy.send(body)
                assert b" 200 OK" in await busy.reader.readuntil(b"\r\n\r\n")
            assert (await answer).status == 200


class FewFiles:
    """A limit of open files that cannot be raised far."""

    def __init__(self, soft: int) -> None:
        self.soft = soft

    def __call__(self, *_: Any) -> tuple[int, int]:
        return self.soft, self.soft


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (10_000 + RESERVED_DESCRIPTORS, 10_000),
        (1024, 1024 - RESERVED_DESCRIPTORS),
        (100, 50),
        (20, 10),
    ],
)
def test_the_limit_of_open_files_limits_connections(
    monkeypatch: pytest.MonkeyPatch, files: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", FewFiles(files))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert usable_connections(10_000) == expected


def processor_seconds(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_process_without_free_file_descriptors_recovers() -> None:
    """The limit is lowered below the one at the start, so that accept(2) itself fails."""
    async with serve(
        "--location", "one=http://127.0.0.1:9", RESOLVER_HEALTH_INTERVAL="60"
    ) as server:
        pid = server.process.pid
        host, port = address_of(server.url)
        reader, writer = await asyncio.open_connection(host, port)

        async def asked() -> None:
            writer.write(REQUEST)
            async with asyncio.timeout(5):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                await reader.readuntil(b"}")

        await asked()
        open_files = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files + 8, open_files + 8))
        busy = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: 99\r\n\r\n"
        with ExitStack() as clients:
            for _ in range(60):
                client = clients.enter_context(socket.create_connection((host, port)))
                client.sendall(busy)  # not idle, so none can be closed
            await asyncio.sleep(0.5)
            used, logged = processor_seconds(pid), len(server.lines)
            for _ in range(20):
                await asked()
                await asyncio.sleep(0.1)
            assert processor_seconds(pid) - used < 0.5, "it waits between two attempts"
            assert len(server.lines) - logged < 60
            assert sum(AT_LIMIT in line for line in server.lines) == 1
        reader2, writer2 = await asyncio.open_connection(host, port)
        writer2.write(REQUEST)
        async with asyncio.timeout(5):
            assert (await reader2.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        for each in (writer, writer2):
            each.close()
        assert server.process.returncode is None


async def test_accepting_continues_after_an_aborted_connection(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accept(2) fails for it, and the next connection is accepted."""
    failures = [ConnectionAbortedError(), OSError(errno.EMFILE, "Too many open files")]
    accept = socket.socket.accept

    def failing(listening: socket.socket) -> Any:
        if failures:
            raise failures.pop(0)
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", failing)
    async with connected(gateway.url) as connection:
        await connection.send(REQUEST)
        assert (await connection.response()).status == 200
    assert not failures
