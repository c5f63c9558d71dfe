"""Both clients behind one interface, and the gateway with its stand-in locations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Protocol

import pytest
from glance_resolver_client import AsyncClient, Client, Retries

from tests.gateway.conftest import Gateway, Start, cloud, start

__all__ = ["cloud", "start"]

NO_RETRIES = Retries(attempts=0)


class Side(Protocol):
    """A client, sync or async."""

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """The result of a method."""

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """All answers of a method that gives them one after the other."""


class SyncSide:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, method), *arguments, **options)

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        return await asyncio.to_thread(
            lambda: list(getattr(self.client, method)(*arguments, **options))
        )


class AsyncSide:
    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(self.client, method)(*arguments, **options)

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        answers = getattr(self.client, method)(*arguments, **options)
        return [answer async for answer in answers]


Connect = Callable[..., Side]


@pytest.fixture(autouse=True)
def _no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Returns a function that makes a client of a gateway, without retries unless it gets some."""
    async with AsyncExitStack() as async_clients:
        with ExitStack() as clients:

            def make(url: str, **options: Any) -> Side:
                options = {"retries": NO_RETRIES, **options}
                if request.param == "sync":
                    return SyncSide(clients.enter_context(Client(url, **options)))
                client = AsyncClient(url, **options)
                async_clients.push_async_callback(client.aclose)
                return AsyncSide(client)

            yield make


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start(probe=True, probe_timeout=5, index_timeout=5)


@pytest.fixture
def client(gateway: Gateway, connect: Connect) -> Side:
    return connect(gateway.url)
