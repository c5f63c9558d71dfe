"""Clusters and Sentinels that a test may spoil; sweeps go to a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import started
from tests.support.cluster import RedisCluster
from tests.support.sentinel import Sentinels
from tests.sync.conftest import server, start_server, sweeping, switch

__all__ = ["server", "start_server", "sweeping", "switch"]

NODE_TIMEOUT = 1500
"""Milliseconds until the others take a node for dead."""

PASSWORD = "s3c@ret/:"


@pytest.fixture
def index_url(cluster_url: str) -> str:
    """URL of an empty index on the shared cluster."""
    return cluster_url


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
