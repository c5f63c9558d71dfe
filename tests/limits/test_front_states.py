"""Limits of connections in the states that only a hostile client reaches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.gateway.net.connection_limiter import (
    MAX_CHECKED_AT_ONCE,
    MAX_LATE_AT_ONCE,
    ConnectionLimiter,
)
from resolver.gateway.net.front_connection import FrontConnection
from resolver.gateway.net.request_head import MAX_HEAD_BYTES
from resolver.standin import StandIn
from tests.gateway.conftest import Gateway, Start
from tests.support.http_connection import connected
from tests.support.objects import all_instances
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
PLAIN = b"GET /healthcheck HTTP/1.1\r\nHost: g\r\n\r\n"
BULK = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n%b" % (len(ID), ID.encode())
ONE_READ_BYTES = 262_144
"""The most that asyncio reads from a socket at once."""


async def front_connections() -> list[FrontConnection]:
    """The connections of the gateway of a test, once there is one."""
    return await wait_until(lambda: all_instances(FrontConnection))


def unread_bytes(connections: list[FrontConnection]) -> int:
    return max(connection.unread_bytes for connection in connections)


async def test_bytes_after_a_request_for_the_application_are_bounded(start: Start) -> None:
    """Also after the application has resumed reading for its own request's body."""
    asked, answer = asyncio.Event(), asyncio.Event()

    @web.middleware
    async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked.set()
        await answer.wait()
        return await handler(request)

    async with StandIn(middlewares=[hold]) as server:
        gateway = await start(probe=True, probe_timeout=10)
        await gateway.location("one", url=server.url)
        async with connected(gateway.url) as connection:
            connection.writer.write(BULK)
            await asked.wait()
            connections = await front_connections()
            connection.writer.write(PLAIN * 60_000)
            for _ in range(50):
                await asyncio.sleep(0.01)
                assert unread_bytes(connections) <= MAX_HEAD_BYTES + ONE_READ_BYTES
            answer.set()
            async with connected(gateway.url) as other, asyncio.timeout(5):
                await other.send(PLAIN)
                assert (await other.response()).status == 200, "requests do not wait for each other"


async def test_reading_stops_while_a_client_takes_no_responses(start: Start) -> None:
    gateway = await start(client_timeout=1)
    request = b"GET /resolve/no-uuid HTTP/1.1\r\nHost: g\r\n\r\n"
    async with connected(gateway.url) as connection:
        connections = await front_connections()
        connection.writer.write(request * 300_000)
        await wait_until(lambda: unread_bytes(connections) > MAX_HEAD_BYTES)
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert unread_bytes(connections) <= 2 * (MAX_HEAD_BYTES + ONE_READ_BYTES)


@pytest.mark.parametrize("path", ["/resolve", "/openapi.json"])
async def test_an_http_1_0_response_without_length_ends_with_the_connection(
    gateway: Gateway, path: str
) -> None:
    method = "POST" if path == "/resolve" else "GET"
    async with connected(gateway.url) as connection, asyncio.timeout(5):
        fields = "Connection: keep-alive\r\nContent-Length: 0"
        await connection.send(f"{method} {path} HTTP/1.0\r\n{fields}\r\n\r\n".encode())
        if path == "/resolve":
            assert b" 200 OK" in await connection.read_to_end()
        else:
            assert (await connection.response()).status == 200
            await connection.send(PLAIN)
            assert (await connection.response()).status == 200, "this one has a length"


async def test_the_head_deadline_starts_after_an_empty_line(start: Start) -> None:
    """The time for a head counts from its first byte, also after an empty line."""
    gateway = await start(client_timeout=0.5)
    async with connected(gateway.url) as connection, asyncio.timeout(5):
        for sent in (PLAIN, b"\r\n" + PLAIN):
            await connection.send(sent)
            assert (await connection.response()).status == 200
        await connection.send(b"GET /x")
        assert (await connection.response()).status == 408


async def test_empty_lines_keep_no_connection_open(start: Start) -> None:
    gateway = await start(client_timeout=0.3)
    async with connected(gateway.url) as connection, asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while not connection.reader.at_eof():
                await connection.send(b"\r\n")
                await asyncio.sleep(0.05)


@dataclass(eq=False)
class LateConnection:
    """A connection whose client takes too long."""

    client_keys: tuple[bytes, ...] = ()
    served: bool = False
    idle_since: float = 0.0
    is_idle: bool = True
    is_closed: bool = False

    def check_deadline(self, now: float) -> bool:
        self.is_closed = True
        return True

    def abort(self) -> None:
        self.is_closed = True


class PunctualConnection(LateConnection):
    """A connection whose deadline has not come, as the limiter sees it."""

    checks = 0

    def check_deadline(self, now: float) -> bool:
        self.checks += 1
        return False


C = TypeVar("C", bound=LateConnection)


def check_in_turns(connections: Sequence[C], at_once: int, done: Callable[[C], int]) -> None:
    """Checks their deadlines: ``done`` is 1 for each in the end, and others have their turns
    meanwhile."""
    limiter = ConnectionLimiter(10_000)
    for connection in connections:
        limiter.add(connection)
    turns = 0
    for _ in limiter.check_deadlines(0.0):
        turns += 1
        assert sum(map(done, connections)) <= turns * at_once
    assert turns == len(connections) // at_once
    assert all(done(connection) == 1 for connection in connections)


def test_others_have_their_turn_while_many_late_clients_are_closed() -> None:
    late = [LateConnection() for _ in range(100)]
    check_in_turns(late, MAX_LATE_AT_ONCE, lambda connection: connection.is_closed)


def test_others_have_their_turn_while_many_connections_are_checked() -> None:
    open_ones = [PunctualConnection() for _ in range(3000)]
    check_in_turns(open_ones, MAX_CHECKED_AT_ONCE, lambda connection: connection.checks)


def test_a_connection_that_has_closed_meanwhile_is_not_late() -> None:
    """Else a client that is gone counts as one that was cut."""
    limiter, late = ConnectionLimiter(1000), [LateConnection() for _ in range(100)]
    for connection in late:
        limiter.add(connection)
    for _ in limiter.check_deadlines(0.0):
        for connection in late:
            limiter.remove(connection)
    assert sum(connection.is_closed for connection in late) == MAX_LATE_AT_ONCE


async def test_many_silent_clients_are_all_closed(start: Start) -> None:
    gateway = await start(client_timeout=0.5)
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(connected(gateway.url)) for _ in range(100)]
        for connection in silent:
            await connection.send(b"GET /livez HTTP/1.1\r\nX: ")
        for connection in silent:
            assert (await connection.response()).status == 408


def test_one_client_gets_only_a_share_of_the_connections() -> None:
    limiter = ConnectionLimiter(10, proxies=["192.0.2.0/24"])
    keys = limiter.client_keys("2001:db8:0:1::1")
    for _ in range(5):
        assert limiter.allows(keys)
        limiter.hold(keys)
    assert not limiter.allows(keys)
    assert not limiter.allows(limiter.client_keys("2001:db8:0:2::1")), "the same /48"
    assert limiter.allows(limiter.client_keys("2001:db8:1::1"))
    assert limiter.allows(limiter.client_keys("198.51.100.1"))
    for free in ("127.0.0.1", "::1", "192.0.2.7", ""):
        assert limiter.client_keys(free) == ()
    limiter.release(keys)
    assert limiter.allows(keys)
