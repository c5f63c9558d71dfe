"""Stand-in servers, and sweeps of them into an index on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from resolver.glance import connect
from resolver.index import Index, open_index
from resolver.standin import StandIn
from tests.support.faults import Switch
from tests.support.sweeping import Sweeping

TIMEOUT = 5.0
"""Seconds for one request to a stand-in."""

BITS = 5
"""Index bits: a sweep counts the claims of each bucket, and the tests read them all."""

StartServer = Callable[..., Awaitable[StandIn]]


@pytest.fixture
async def index(index_url: str) -> AsyncIterator[Index]:
    """An empty index, on each backend."""
    async with open_index(index_url, bits=BITS) as index:
        yield index


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Starts a stand-in with the arguments of `StandIn`; all are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> StandIn:
            return await stack.enter_async_context(StandIn(**options))

        yield start


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
async def server(start_server: StartServer, switch: Switch) -> StandIn:
    """A stand-in with the faults of `switch`."""
    return await start_server(middlewares=[switch.middleware])


@pytest.fixture
async def sweeping(index: Index) -> AsyncIterator[Sweeping]:
    async with connect(TIMEOUT) as session:
        yield Sweeping(index, session)
