"""Fixtures that all tests share: a clean environment, a real Redis, an index on each backend."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from resolver import logs
from resolver.index import Index, open_index
from tests.support.cluster import RedisCluster
from tests.support.process import ServerUnavailableError, Startable
from tests.support.rabbit import RabbitServer
from tests.support.redis import RedisServer
from tests.support.requirements import cannot_run

# Hundreds of processes would compile the package, and each worker the tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that starts this in the background has it ignore SIGINT, and so would the commands that
# tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail a test. In CI a failure must be reproducible.
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")

BITS = 8
"""Index bits of the shared index: few, so that the ids of a test share buckets."""


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    """Removes RESOLVER_* variables from the environment, and lets credentials of locations be in
    any variable and in files of tests. Tests of what is allowed set their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.upper().startswith("RESOLVER_")]:
            patch.delenv(name)
        patch.setenv("RESOLVER_SECRET_ENVS", "*")
        folder = tempfile.gettempdir()
        patterns = ["/run/secrets/*", *(f"{folder}{'/*' * depth}" for depth in range(1, 6))]
        patch.setenv("RESOLVER_SECRET_FILES", ",".join(patterns))
        yield


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """Log lines go where caplog sees them, not to standard output."""
    logs.use_standard_logging()


SLOW_DIRECTORIES = {
    *(
        "browser",
        "cli",
        "distributed",
        "faults",
        "fuzz",
        "glance",
        "limits",
        "model",
        "operations",
        "security",
    ),
    *("sync", "versions"),
}
"""Directories whose tests start processes, or take seconds."""
SLOW_FILES = {"test_storm.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks slow tests, and runs them first: a long test at the end would leave a worker idle.

    Tests of one Glance or RabbitMQ are next to each other, so that one worker starts it.
    """
    is_slow = cache(_is_slow)
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_start_order)


def _is_slow(path: Path) -> bool:
    directory = path.relative_to(Path(__file__).parent).parts[0]
    return directory in SLOW_DIRECTORIES or path.name in SLOW_FILES


def pytest_collection_finish() -> None:
    """Each full garbage collection would visit what all modules and tests are made of, and a young
    one comes every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def _start_order(item: pytest.Item) -> tuple[int, bool]:
    """A Keystone takes longest to start: its tests are first of all."""
    if item.get_closest_marker("glance") or item.get_closest_marker("rabbit"):
        return 0, "keystone_home" not in getattr(item, "fixturenames", ())
    return 1 if item.get_closest_marker("slow") else 2, False


AnyStartable = TypeVar("AnyStartable", bound=Startable)


def started(servers: AnyStartable) -> AnyStartable:
    """Running servers. Where they cannot run the test is skipped; in CI it fails."""
    try:
        return servers.start()
    except ServerUnavailableError as error:
        cannot_run(f"no server to test against: {error}")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests. Not empty: `index_url` and `redis_url` flush it."""
    server = started(RedisServer())
    yield server
    server.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that the test may kill."""
    server = started(RedisServer())
    yield server
    server.close()


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """One broker for all tests: each takes an exchange of its own, or a Glance's."""
    server = started(RabbitServer())
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of an empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """One cluster for all tests. Not empty: `cluster_url` flushes it."""
    cluster = started(RedisCluster())
    yield cluster
    cluster.close()


@pytest.fixture
def cluster_url(redis_cluster: RedisCluster) -> str:
    """URL of an empty Redis Cluster."""
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture(scope="module")
def module_cluster() -> Iterator[RedisCluster]:
    """One cluster for all tests of a file. Not empty: `cluster` flushes it."""
    cluster = started(RedisCluster())
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(module_cluster: RedisCluster) -> RedisCluster:
    """An empty cluster of this file, whose nodes and slots may move."""
    module_cluster.flush()
    return module_cluster


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory whose path is short enough for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="glr-") as folder:
        yield Path(folder)


@pytest.fixture(params=["memory:", pytest.param("redis", marks=pytest.mark.redis)])
def index_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty index, on each backend."""
    if request.param == "memory:":
        return "memory:"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def index(index_url: str) -> AsyncIterator[Index]:
    """An empty index, on each backend."""
    async with open_index(index_url, bits=BITS) as index:
        yield index
