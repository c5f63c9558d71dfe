"""More rows of the table of clients in docs/clients.md: OpenStack's own services, and libraries.

Each is installed into a virtual environment of its own, once. Those in Go and Ruby are Debian's::

    apt-get install aria2 golang-go golang-github-gophercloud-gophercloud-dev ruby-fog-openstack
    pytest -m '' tests/glance/test_client_table.py tests/glance/test_more_clients.py
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.glance.catalog import Catalog, catalog
from tests.glance.client_table import PROGRAMS, Run, check_row, failed, measure
from tests.glance.clients import Ran, clean_env, run_program
from tests.glance.conftest import installed
from tests.glance.install import Home, install_clients
from tests.support.requirements import cannot_run

__all__ = ["catalog"]

pytestmark = [
    pytest.mark.glance,
    pytest.mark.balancer,
    pytest.mark.long,
    pytest.mark.timeout(1800),  # the first run installs
]

PYTHON_CLIENTS = {
    "nova": ("services", "client_services.py"),
    "cinder": ("services", "client_services.py"),
    "ironic": ("services", "client_services.py"),
    "glance-download": ("services", "client_services.py"),
    "octavia": ("services", "client_services.py"),
    "heat": ("services", "client_services.py"),
    "magnum": ("services", "client_services.py"),
    "openstacksdk 0.61": ("old-openstacksdk", "client_libraries.py"),
    "ansible": ("ansible", "client_libraries.py"),
    "libcloud": ("services", "client_libraries.py"),
    "aria2c": ("services", "client_libraries.py"),
}
"""Environment (of requirements-NAME.txt) and program of each client."""
PROGRAM_TIMEOUT = 600.0
"""Seconds; Ansible starts several programs for each operation."""


def program(*command: str | Path) -> Run:
    """Runs a program whose last argument says what to do."""

    def run(home: Path, spec: Mapping[str, str]) -> Ran:
        home.mkdir()
        return run_program([*command, json.dumps(spec)], clean_env(home), home, PROGRAM_TIMEOUT)

    return run


def check(catalog: Catalog, folder: Path, client: str, run: Run) -> None:
    found = {
        region: measure(catalog.servers, folder / region, client, run, catalog.where(region))
        for region in catalog.urls
    }
    check_row(client, **found)


@pytest.mark.parametrize("client", PYTHON_CLIENTS)
def test_a_client_in_python(catalog: Catalog, tmp_path: Path, client: str) -> None:
    environment, file = PYTHON_CLIENTS[client]
    home: Home = installed(lambda: install_clients(environment))
    check(catalog, tmp_path, client, program(home.bin("python"), PROGRAMS / file))


@pytest.mark.parametrize("client", ["nova", "cinder", "ironic"])
def test_a_service_is_pinned_to_a_region_by_its_endpoint(
    catalog: Catalog, tmp_path: Path, client: str
) -> None:
    home: Home = installed(lambda: install_clients("services"))
    run = program(home.bin("python"), PROGRAMS / "client_services.py")
    for region in ("redirected", "carried"):
        before = created(catalog)
        where = catalog.where(region)
        where["url"] += "/region/two"
        outcome = measure(catalog.servers, tmp_path / region, client, run, where)
        assert failed(outcome).keys() <= ({"create"} if region == "redirected" else set())
        new = {name: created(catalog)[name] - before[name] for name in before}
        expected = int("create" in outcome)  # without the prefix it would be at `one`
        assert new == {"one": 0, "two": expected}


def created(catalog: Catalog) -> dict[str, int]:
    """How many images that clients have created each server has."""
    return {
        name: sum(
            str(row["name"]).startswith("new-")
            for row in server.request("GET", "/v2/images?limit=1000").json()["images"]
        )
        for name, server in catalog.servers.items()
    }


def test_gophercloud(catalog: Catalog, tmp_path: Path) -> None:
    binary = tmp_path / "gophercloud"
    source = PROGRAMS / "gophercloud" / "main.go"
    env = clean_env(tmp_path, {"GOPATH": "/usr/share/gocode", "GO111MODULE": "off"})
    build(["go", "build", "-o", binary, source], "golang-github-gophercloud-gophercloud-dev", env)
    check(catalog, tmp_path, "gophercloud", program(binary))


@pytest.mark.parametrize("client", ["fog", "fog with redirects"])
def test_fog(catalog: Catalog, tmp_path: Path, client: str) -> None:
    build(["ruby", "-e", "require 'fog/openstack'"], "ruby-fog-openstack", clean_env(tmp_path))
    check(catalog, tmp_path, client, program("ruby", PROGRAMS / "fog_operations.rb"))


def build(command: list[str | Path], package: str, env: dict[str, str]) -> None:
    """Skips the test where Debian's package is not installed."""
    try:
        subprocess.run(command, env=env, capture_output=True, check=True)
    except FileNotFoundError:
        cannot_run(f"{command[0]} is missing (Debian: {package})")
    except subprocess.CalledProcessError as error:
        cannot_run(f"Debian's {package} is missing: {error.stderr.decode(errors='replace')}")
