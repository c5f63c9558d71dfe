"""Limits for the cost of a redirect, counted in calls and writes instead of seconds.

The tests pass bytes to the connections themselves, so that they choose what arrives in one turn of
the event loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
from aiohttp import web

from resolver.gateway.app import make_app
from resolver.gateway.net import front_server as front_server_module
from resolver.gateway.net.connection_limiter import ConnectionLimiter
from resolver.gateway.net.front_connection import FrontConnection
from resolver.gateway.net.front_server import FrontServer
from resolver.gateway.net.request_pacer import PARSED_PER_TURN
from resolver.gateway.server import front_server
from resolver.index.redis.pipelined_connection import PipelinedConnection
from tests.gateway.conftest import Gateway, Start
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

IDS = [str(uuid.UUID(int=n << 64)) for n in range(50)]

MAX_CALLS = 38
"""Python function calls for a redirect from the cache, including those of the test."""

MAX_INDEX_CALLS = 53
"""The same for a redirect whose owners are read from the index, together with 49 others."""

MAX_RESPONSES_PER_TURN = 8
"""To one client, so that a hundred keep the others waiting for some 10 ms at most."""


def request(text: str) -> bytes:
    return f"GET /v2/images/{text} HTTP/1.1\r\nHost: gateway\r\nX-Auth-Token: t\r\n\r\n".encode()


class Client(asyncio.Transport):
    """A transport that records each write to the client."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Connections:
    """Connections of a gateway whose bytes come from the test."""

    def __init__(self, server: FrontServer) -> None:
        self.server = replace(server, make_protocol=self._make_protocol)
        self._make = server.make_protocol
        self.protocols_made = 0
        self.open: list[FrontConnection] = []

    def _make_protocol(self) -> asyncio.Protocol:
        self.protocols_made += 1
        return self._make()

    async def connect(self) -> tuple[FrontConnection, Client]:
        connection, client = FrontConnection(self.server), Client()
        connection.connection_made(client)
        self.open.append(connection)
        return connection, client


@pytest.fixture
async def connections(gateway: Gateway) -> AsyncIterator[Connections]:
    limiter = ConnectionLimiter(1000)
    app = make_app(gateway.services, limiter=limiter)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=1)
    await runner.setup()
    connections = Connections(front_server(gateway.services, app, runner, limiter))
    yield connections
    for connection in connections.open:
        connection.connection_lost(None)
    await runner.cleanup()


@pytest.fixture
async def gateway(start: Start, redis_url: str) -> Gateway:
    gateway = await start(redis_url=redis_url, access_log="off")
    await gateway.location("one")
    await gateway.claim("one", *IDS)
    return gateway


@contextmanager
def count_redis_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Records the number of commands in each write to Redis."""
    trips: list[int] = []
    call = PipelinedConnection.call

    def counted(self: PipelinedConnection, packed: bytes, count: int) -> Any:
        trips.append(count)
        return call(self, packed, count)

    with monkeypatch.context() as patch:
        patch.setattr(PipelinedConnection, "call", counted)
        yield trips


async def request_at_once(connected: list[tuple[FrontConnection, Client]]) -> None:
    """Passes a request to each connection in one turn of the event loop, and waits for answers."""
    for (connection, client), text in zip(connected, IDS, strict=True):
        client.writes.clear()
        connection.data_received(request(text))
    await wait_until(lambda: all(client.writes for _, client in connected))
    for (_, client), text in zip(connected, IDS, strict=True):
        (answer,) = client.writes  # the whole answer in one write
        assert answer.startswith(b"HTTP/1.1 307 ")
        assert f"Location: https://one.example:9292/v2/images/{text}\r\n".encode() in answer
        assert answer.endswith(b"\r\n\r\n")


async def test_a_burst_costs_one_round_trip_one_task_and_one_write_per_connection(
    gateway: Gateway, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = [await connections.connect() for _ in IDS]
    await request_at_once(connected)  # reads the location table
    gateway.services.index.clear_cache()
    tasks: list[Any] = []
    loop = asyncio.get_running_loop()

    def task(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        tasks.append(coro)
        return asyncio.Task(coro, loop=loop, **more)

    loop.set_task_factory(task)
    with count_redis_commands(monkeypatch) as trips:
        await request_at_once(connected)
    loop.set_task_factory(None)
    # The registry's version, the number of buckets, and each id. A heartbeat may come between, or
    # the two commands with which a connection is tracked.
    assert [count for count in trips if count > 2] == [len(IDS) + 2]
    assert [coro.__qualname__ for coro in tasks if "LookupBatcher" in coro.__qualname__] == [
        "LookupBatcher._run_batch"
    ]
    assert len(tasks) <= 2  # the other one is that of `wait_until`


@contextmanager
def count_calls(names: list[str]) -> Iterator[None]:
    """Records the Python functions that are called."""

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            names.append(frame.f_code.co_qualname)

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


async def test_images_from_the_index_cost_few_calls(
    gateway: Gateway, connections: Connections
) -> None:
    connected = [await connections.connect() for _ in IDS]
    await request_at_once(connected)  # reads the location table
    gateway.services.index.clear_cache()
    names: list[str] = []
    with count_calls(names):
        await request_at_once(connected)
    assert len(names) <= MAX_INDEX_CALLS * len(IDS), f"{len(names)} calls: {Counter(names)}"


async def test_a_cached_image_costs_no_round_trip_and_few_calls(
    gateway: Gateway, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, client = await connections.connect()
    connection.data_received(request(IDS[0]))
    await wait_until(lambda: client.writes)
    names: list[str] = []
    with count_redis_commands(monkeypatch) as trips:
        for number in range(2, 5):
            connection.data_received(request(IDS[0]))
            await asyncio.sleep(0)
            assert len(client.writes) == number  # answered in the same turn of the event loop
        message = request(IDS[0])
        with count_calls(names):
            connection.data_received(message)
        await asyncio.sleep(0)
    assert trips == []
    assert len(client.writes) == 5
    assert len(names) <= MAX_CALLS, f"{len(names)} calls: {names}"


async def connected_with_cached_image(connections: Connections) -> tuple[FrontConnection, Client]:
    """A connection whose first request was answered, so that others for that image are at once."""
    connection, client = await connections.connect()
    connection.data_received(request(IDS[0]))
    await wait_until(lambda: client.writes)
    client.writes.clear()
    return connection, client


async def test_a_client_that_sends_many_requests_at_once_shares_each_turn_of_the_loop(
    connections: Connections,
) -> None:
    connection, client = await connected_with_cached_image(connections)
    connection.data_received(request(IDS[0]) * 40)
    await asyncio.sleep(0)
    assert 0 < len(client.writes) <= MAX_RESPONSES_PER_TURN
    await wait_until(lambda: len(client.writes) == 40)


async def test_data_that_arrives_meanwhile_gives_a_client_no_further_turn(
    connections: Connections,
) -> None:
    connection, client = await connected_with_cached_image(connections)
    for turns in range(1, 10):
        connection.data_received(request(IDS[0]) * 40)
        await asyncio.sleep(0)
        assert len(client.writes) <= turns * MAX_RESPONSES_PER_TURN
    await wait_until(lambda: len(client.writes) == 9 * 40)


WITH_BODY = request(IDS[0]).replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx")
"""A request that aiohttp answers."""


async def ask_aiohttp(connection: FrontConnection, client: Client) -> None:
    client.writes.clear()
    connection.data_received(WITH_BODY)
    await wait_until(lambda: client.writes, timeout=5)
    assert client.writes[-1].startswith(b"HTTP/1.1 307 ")
    assert b"connection: close" not in client.writes[-1].lower()
    await wait_until(lambda: connection.is_idle, timeout=5)


async def test_a_request_that_aiohttp_answers_ends_with_its_response(
    connections: Connections,
) -> None:
    """No timer runs before the connection is the front's again: aiohttp's own is longer. And the
    next such request of the connection needs no new objects."""
    connection, client = await connections.connect()
    for _ in range(3):
        await ask_aiohttp(connection, client)
    assert connections.protocols_made == 1


async def test_few_connections_keep_what_aiohttp_needs(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_server_module, "MAX_KEPT_BRIDGES", 2)
    kept = connections.server.kept_bridges
    clients = [await connections.connect() for _ in range(5)]
    for _ in range(2):
        for connection, client in clients:
            await ask_aiohttp(connection, client)
    assert len(kept) == 2
    assert connections.protocols_made == 2 + 3 * 2
    for connection, _ in clients:
        connection.connection_lost(None)
    assert not kept


async def test_requests_for_aiohttp_at_the_same_time_share_the_turns_of_the_loop(
    connections: Connections,
) -> None:
    """Those of thousands of clients would hold up everybody for 0.2 s. First come, first served."""
    other, _ = await connected_with_cached_image(connections)
    clients = [await connections.connect() for _ in range(5 * PARSED_PER_TURN)]
    for connection, _ in clients:
        connection.data_received(WITH_BODY)
    other.data_received(request(IDS[0]))
    assert other.unread_bytes == 0, "what needs no parsing waits for none"
    for turn in range(1, 5):
        begun = turn * PARSED_PER_TURN
        assert connections.protocols_made == begun
        assert all(client.unread_bytes == 0 for client, _ in clients[:begun])
        assert all(client.unread_bytes == len(WITH_BODY) for client, _ in clients[begun:])
        late = time.monotonic() + 3600
        assert not any(client.check_deadline(late) for client, _ in clients[begun:])
        await asyncio.sleep(0)
    await wait_until(lambda: all(client.writes for _, client in clients), timeout=10)
    for _, client in clients:
        assert client.writes[-1].startswith(b"HTTP/1.1 307 ")


async def test_a_client_that_leaves_before_its_turn_takes_no_place(
    connections: Connections,
) -> None:
    clients = [await connections.connect() for _ in range(3 * PARSED_PER_TURN)]
    for connection, _ in clients:
        connection.data_received(WITH_BODY)
    for connection, _ in clients[PARSED_PER_TURN : 2 * PARSED_PER_TURN]:
        connection.connection_lost(None)
    await asyncio.sleep(0)
    assert connections.protocols_made == 2 * PARSED_PER_TURN


async def test_what_aiohttp_needs_is_given_up_after_a_while(connections: Connections) -> None:
    connection, client = await connections.connect()
    await ask_aiohttp(connection, client)
    await wait_until(lambda: not connections.server.kept_bridges, timeout=5)
    await ask_aiohttp(connection, client)
    assert connections.protocols_made == 2
