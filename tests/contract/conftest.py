"""The backends that the contract tests run on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.conftest import started
from tests.contract.caching import Pair, open_with_cache
from tests.support.cluster import RedisCluster
from tests.support.redis import RedisServer

Real = RedisServer | RedisCluster
"""A Redis that is a process of its own, or several."""


REAL = {"redis": "redis_server", "cluster": "redis_cluster"}
"""Kind -> the fixture that starts it once for all tests."""


@pytest.fixture(params=["memory:", *(pytest.param(kind, marks=pytest.mark.redis) for kind in REAL)])
def index_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty index, on each backend."""
    return "memory:" if request.param == "memory:" else _shared(request).url


def _shared(request: pytest.FixtureRequest) -> Real:
    real: Real = request.getfixturevalue(REAL[request.param])
    real.flush()
    return real


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest) -> Real:
    """An empty Redis of each kind."""
    return _shared(request)


@pytest.fixture(params=REAL)
def own_real(request: pytest.FixtureRequest) -> Iterator[Real]:
    """A Redis of each kind that the test may kill."""
    if request.param == "cluster":
        cluster = started(RedisCluster())
        yield cluster
        cluster.close()
    else:
        yield request.getfixturevalue("own_redis")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def pair(stack: AsyncExitStack, index_url: str) -> Pair:
    """On `memory:`, which no two processes share, both are the same."""
    one = await open_with_cache(stack, index_url)
    return one, one if index_url == "memory:" else await open_with_cache(stack, index_url)
