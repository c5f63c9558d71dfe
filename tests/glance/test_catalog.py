"""What `glance-resolver catalog` prints makes the gateway an endpoint in a real Keystone's catalog,
by which the OpenStack client finds images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.glance.clients import Clients, Ran
from tests.glance.gateway import Gateway
from tests.glance.keystone_cloud import TUESDAY, Cloud
from tests.glance.test_operators import discovered, gateway, ok

__all__ = ["gateway"]

pytestmark = [pytest.mark.glance, pytest.mark.timeout(900)]
"""The client is a process for each command, of which a busy machine runs few a minute."""


class Client:
    """The OpenStack client with an administrator's login, each time in a new HOME."""

    def __init__(self, clients: Clients, directory: Path, keystone: str) -> None:
        self.clients, self.directory, self.keystone = clients, directory, keystone
        self.runs = 0

    def run(self, *arguments: str) -> Ran:
        self.runs += 1
        login = ["--os-auth-url", f"{self.keystone}/v3", "--os-identity-api-version", "3"]
        login += ["--os-username", "resolver", "--os-password", TUESDAY]
        login += ["--os-project-name", "admin"]
        login += ["--os-user-domain-id", "default", "--os-project-domain-id", "default"]
        directory = self.directory / str(self.runs)
        return self.clients.run(directory, "openstack", *login, *arguments)

    def ok(self, *arguments: str) -> str:
        ran = self.run(*arguments)
        assert ran.status == 0, (arguments, ran.err)
        return ran.out.decode()

    def execute(self, commands: str) -> None:
        """Runs the commands among lines for a shell."""
        for line in commands.splitlines():
            if not line.startswith("#"):
                name, *arguments = shlex.split(line)
                assert name == "openstack"
                self.ok(*arguments)


@pytest.fixture
def client(cloud: Cloud, clients: Clients, tmp_path: Path) -> Iterator[Client]:
    """The client. Endpoints that it adds are gone at the end, as the gateway is."""
    client = Client(clients, tmp_path / "client", cloud.keystone.url)
    listing = ("endpoint", "list", "-f", "value", "-c", "ID")
    before = set(client.ok(*listing).split())
    yield client
    client.ok("endpoint", "delete", *(set(client.ok(*listing).split()) - before))


def test_the_gateway_as_a_region_of_its_own(gateway: Gateway, cloud: Cloud, client: Client) -> None:
    discovered(gateway)
    client.execute(ok(gateway, "catalog"))
    for image in cloud.images.values():
        where = ("--os-region-name", "global", "image", "show", "-f", "json")
        assert json.loads(client.ok(*where, image.id))["id"] == image.id
    listed = client.ok("--os-region-name", "global", "image", "list", "-f", "value", "-c", "ID")
    ids = {image.id for image in cloud.images.values()} | {cloud.shared.id}
    assert ids <= set(listed.split())
    shown = ok(gateway, "locations", "discover", "--cloud", "prod")
    assert "global\tpublic\t" in shown
    assert "a glance-resolver, left out" in shown


def test_the_gateway_in_place_of_the_regions(
    gateway: Gateway, cloud: Cloud, client: Client
) -> None:
    """As their internal endpoints, of which this Keystone has none."""
    discovered(gateway)
    client.execute(ok(gateway, "catalog", "--in-place", "--interface", "internal"))
    for region, other in (("Oslo", "Frankfurt"), ("Frankfurt", "Oslo")):
        where = ("--os-region-name", region, "--os-interface", "internal")
        for image_id in (cloud.images[region].id, cloud.images[other].id):
            shown = client.ok(*where, "image", "show", "-f", "json", image_id)
            assert json.loads(shown)["id"] == image_id
        redirect = gateway.get(f"/region/{region}/v2/images/{cloud.shared.id}")
        assert redirect.headers["Location"].startswith(cloud.servers[region].url)
        refused = client.run(*where, "image", "set", "--property", "a=b", cloud.images[region].id)
        assert refused.status == 1
        assert f"or choose its region (--os-region-name {region})" in refused.err
