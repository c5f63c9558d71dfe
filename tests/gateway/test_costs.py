"""What a redirect costs, counted and not timed, so that it cannot grow unseen.

Connections are fed by hand here: what arrives in one turn of the loop is then the test's choice.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from resolver.gateway import server
from resolver.gateway.net.client_connection import ClientConnection
from resolver.index.redis.pipelined_connection import PipelinedConnection
from tests.gateway.conftest import Gateway, Start
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

IDS = [str(uuid.UUID(int=n << 64)) for n in range(50)]

CALLS = 32
"""Python functions that a warm redirect runs, aiohttp's and the test's own too."""


def request(text: str) -> bytes:
    return f"GET /v2/images/{text} HTTP/1.1\r\nHost: gateway\r\nX-Auth-Token: t\r\n\r\n".encode()


class Client(asyncio.Transport):
    """The client's side of a connection: what it was sent, and in how many writes."""

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


class Made:
    """Makes connections as the server does."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}
        self.open: list[ClientConnection] = []

    async def connect(self) -> tuple[ClientConnection, Client]:
        connection, client = ClientConnection(*self.arguments, **self.options), Client()
        connection.connection_made(client)
        self.open.append(connection)
        await asyncio.sleep(0)  # aiohttp's task begins to wait
        return connection, client


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    made = Made()

    class Seen(ClientConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.arguments, made.options = arguments, options
            super().__init__(*arguments, **options)

    monkeypatch.setattr(server, "ClientConnection", Seen)
    yield made
    for connection in made.open:
        connection.connection_lost(None)
    await asyncio.sleep(0)


@pytest.fixture
async def gateway(start: Start, made: Made, redis_url: str) -> Gateway:
    gateway = await start(redis_url=redis_url, access_log="off")
    await gateway.location("one")
    await gateway.claim("one", *IDS)
    await gateway.get("/livez")  # the server has made a connection, and we can
    return gateway


@contextmanager
def counted_trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many commands went to Redis in each write."""
    trips: list[int] = []
    call = PipelinedConnection.call

    def counted(self: PipelinedConnection, packed: bytes, count: int) -> Any:
        trips.append(count)
        return call(self, packed, count)

    with monkeypatch.context() as patch:
        patch.setattr(PipelinedConnection, "call", counted)
        yield trips


async def ask_at_once(some: list[tuple[ClientConnection, Client]]) -> None:
    """Feeds a request to each in one turn of the loop, and waits for the answers."""
    for (connection, client), text in zip(some, IDS, strict=True):
        client.writes.clear()
        connection.data_received(request(text))
    await wait_until(lambda: all(client.writes for _, client in some))
    for (_, client), text in zip(some, IDS, strict=True):
        (answer,) = client.writes  # one write to the socket, whole
        assert answer.startswith(b"HTTP/1.1 307 ")
        assert f"Location: https://one.example:9292/v2/images/{text}\r\n".encode() in answer
        assert answer.endswith(b"\r\n\r\n")


async def test_a_burst_is_one_round_trip_one_task_and_a_write_each(
    gateway: Gateway, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [await made.connect() for _ in IDS]
    await ask_at_once(some)  # the location table is read
    gateway.services.index.clear_cache()
    tasks: list[Any] = []
    loop = asyncio.get_running_loop()

    def task(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        tasks.append(coro)
        return asyncio.Task(coro, loop=loop, **more)

    loop.set_task_factory(task)
    with counted_trips(monkeypatch) as trips:
        await ask_at_once(some)
    loop.set_task_factory(None)
    # The registry's version, the number of buckets, and each id; a heartbeat may come between.
    assert [count for count in trips if count > 1] == [len(IDS) + 2]
    assert [coro.__qualname__ for coro in tasks if "Together" in coro.__qualname__] == [
        "Together._run"
    ]
    assert len(tasks) <= 2  # the other is the test's own waiting


async def test_what_is_kept_costs_no_round_trip_and_few_calls(
    gateway: Gateway, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, client = await made.connect()
    connection.data_received(request(IDS[0]))
    await wait_until(lambda: client.writes)
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    with counted_trips(monkeypatch) as trips:
        for number in range(2, 5):
            connection.data_received(request(IDS[0]))
            await asyncio.sleep(0)
            assert len(client.writes) == number  # before the loop has turned once more
        message = request(IDS[0])
        sys.setprofile(count)
        connection.data_received(message)
        sys.setprofile(None)
        await asyncio.sleep(0)
    assert trips == []
    assert len(client.writes) == 5
    assert calls <= CALLS, f"{calls} calls"
