"""Two real Glance servers, and a gateway in front of them; one of each for all tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from tests.glance.clients import Clients
from tests.glance.gateway import Gateway
from tests.glance.install import (
    Auth,
    GlanceHome,
    KeystoneHome,
    install,
    install_keystone,
)
from tests.glance.keystone_cloud import cloud
from tests.glance.pair import Pair, seed
from tests.support.glance import GlanceProcess
from tests.support.process import ServerUnavailableError
from tests.support.requirements import cannot_run

__all__ = ["cloud"]

SMALL_PAGE = 10
"""Page cap of the first server, so that its listing takes several pages."""


Installed = TypeVar("Installed")


def installed(make: Callable[[], Installed]) -> Installed:
    try:
        return make()
    except ServerUnavailableError as error:
        cannot_run(f"no OpenStack to test against: {error}")


@pytest.fixture(scope="session")
def glance_home() -> GlanceHome:
    return installed(install)


@pytest.fixture(scope="session")
def clients(glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    clients = Clients(glance_home, tmp_path_factory.mktemp("clients"))
    yield clients
    clients.close()


@pytest.fixture(scope="session")
def keystone_home() -> KeystoneHome:
    return installed(install_keystone)


def running_pair(home: GlanceHome, directory: Path, auth: Auth) -> Iterator[Pair]:
    with (
        GlanceProcess(home, directory / "one", auth=auth, limit=SMALL_PAGE) as one,
        GlanceProcess(home, directory / "two", auth=auth) as two,
    ):
        yield seed({"one": one, "two": two})


@pytest.fixture(scope="session")
def glance_pair(
    glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Servers that require tokens."""
    yield from running_pair(glance_home, tmp_path_factory.mktemp("pair"), "fake")


@pytest.fixture(scope="session")
def open_pair(glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Servers that require no tokens."""
    yield from running_pair(glance_home, tmp_path_factory.mktemp("open"), "none")


def running_gateway(directory: Path, arguments: list[str]) -> Iterator[Gateway]:
    gateway = Gateway(directory, arguments, ("one", "two")).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log.read_text()


@pytest.fixture(scope="session")
def gateway(glance_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """In front of `glance_pair`, with an admin's token for both."""
    directory = tmp_path_factory.mktemp("gateway")
    file = directory / "locations.yaml"
    locations = {
        name: {
            "url": server.url,
            "region": f"Region{name.title()}",
            "auth": {"token_env": "GLANCE_TOKEN"},
            "sees_all": True,
        }
        for name, server in glance_pair.servers.items()
    }
    file.write_text(yaml.safe_dump({"locations": locations}))
    yield from running_gateway(directory, ["--locations", str(file)])


@pytest.fixture(scope="session")
def open_gateway(open_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """In front of `open_pair`, with no more than their URLs."""
    flags = [("--location", f"{name}={server.url}") for name, server in open_pair.servers.items()]
    directory = tmp_path_factory.mktemp("gateway")
    yield from running_gateway(directory, list(itertools.chain(*flags)))
