"""A real Keystone whose catalog has a Glance, a gateway and an endpoint that carries bytes, each as
a region of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import started
from tests.glance.gateway import Gateway
from tests.glance.install import KEYSTONE_PASSWORD, GlanceHome, KeystoneHome
from tests.support.carriers import Carrier, CarryingNginx
from tests.support.glance import GlanceProcess
from tests.support.keystone import KeystoneServer

USER = PROJECT = "admin"
OPTIONS = """
[DEFAULT]
enabled_import_methods = [glance-direct,glance-download]
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = []
[image_format]
require_image_format_match = false
"""


@dataclass
class Catalog:
    """Region ``direct`` is the server `two`; ``redirected`` the gateway, ``carried`` the carrier.

    `one` is where new images go at the gateway, and a Glance that imports from these regions.
    """

    keystone: KeystoneServer
    servers: dict[str, GlanceProcess]
    gateway: Gateway
    carrier: Carrier

    @property
    def urls(self) -> dict[str, str]:
        return {
            "direct": self.servers["two"].url,
            "redirected": self.gateway.url,
            "carried": self.carrier.url,
        }

    def where(self, region: str) -> dict[str, str]:
        """What a client's program must know of a region."""
        projects = self.keystone.request("GET", f"/v3/projects?name={PROJECT}").json()
        return {
            "auth_url": self.keystone.url,
            "user": USER,
            "password": KEYSTONE_PASSWORD,
            "project": PROJECT,
            "project_id": projects["projects"][0]["id"],
            "token": self.keystone.token(USER, KEYSTONE_PASSWORD, PROJECT),
            "region": region,
            "url": self.urls[region],
            "importer": self.servers["one"].url,
        }


@pytest.fixture(scope="module")
def catalog(
    keystone_home: KeystoneHome, glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Catalog]:
    folder = tmp_path_factory.mktemp("catalog")

    def glance(name: str) -> GlanceProcess:
        return GlanceProcess(
            glance_home,
            folder / name,
            auth="keystone",
            keystone=keystone.url,
            token=keystone.token(USER, KEYSTONE_PASSWORD, PROJECT),
            options=OPTIONS,
        )

    with (
        KeystoneServer(keystone_home, folder / "keystone") as keystone,
        glance("one") as one,
        glance("two") as two,
    ):
        servers = {"one": one, "two": two}
        gateway = running_gateway(folder / "gateway", keystone, servers)
        carrier = started(CarryingNginx(gateway.port))
        found = Catalog(keystone, servers, gateway, carrier)
        for region, url in found.urls.items():
            keystone.image_endpoint(region, url)
        yield found
        carrier.close()
        assert gateway.stop() == 0, gateway.log.read_text()


def running_gateway(
    folder: Path, keystone: KeystoneServer, servers: dict[str, GlanceProcess]
) -> Gateway:
    folder.mkdir()
    login = {
        "auth_url": f"{keystone.url}/v3",
        "username": USER,
        "password": KEYSTONE_PASSWORD,
        "project_name": PROJECT,
        "user_domain_id": "default",
        "project_domain_id": "default",
    }
    clouds = folder / "clouds.yaml"
    clouds.write_text(yaml.safe_dump({"clouds": {"cloud": {"auth": login}}}))
    locations = {
        name: {"url": server.url, "region": name, "priority": number, "auth": {"cloud": "cloud"}}
        for number, (name, server) in enumerate(servers.items())
    }
    file = folder / "locations.json"
    file.write_text(json.dumps({"locations": locations}))
    env = {
        "OS_CLIENT_CONFIG_FILE": str(clouds),
        "RESOLVER_TRUSTED_PROXIES": "127.0.0.1",
        "RESOLVER_REDIRECT_WRITES": "true",
        "RESOLVER_PROBE_TIMEOUT": "60",  # a busy machine changes no answer
        # The shrink guard would take it for a fault that tests delete nearly every image.
        "RESOLVER_SWEEP_INTERVAL": "86400",
    }
    return Gateway(folder, ["--locations", str(file)], tuple(servers), env).start()
