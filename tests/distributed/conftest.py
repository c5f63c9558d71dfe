"""Clusters and Sentinels of which a test may kill processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import started
from tests.support.cluster import RedisCluster
from tests.support.sentinel import Sentinels
from tests.sync.conftest import start_server

__all__ = ["start_server"]

NODE_TIMEOUT = 1500
"""Milliseconds until the other nodes consider a node as failed."""

PASSWORD = "s3c@ret/:"


@pytest.fixture
def own_cluster() -> Iterator[RedisCluster]:
    """A cluster whose nodes the test may kill or move slots between."""
    cluster = started(RedisCluster(node_timeout=NODE_TIMEOUT, password=PASSWORD))
    yield cluster
    cluster.close()


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    """A master and a replica behind Sentinels, with a password."""
    sentinels = started(Sentinels(password=PASSWORD))
    yield sentinels
    sentinels.close()
