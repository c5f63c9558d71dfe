"""A Keystone with the real Glance servers of two regions; one for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.glance.install import GlanceHome, KeystoneHome
from tests.support.glance import GlanceProcess, Image
from tests.support.keystone import KeystoneServer

REGIONS = ("Frankfurt", "Oslo")
TUESDAY = "tuesday-s-password"
"""The password of the resolver's user, which a test changes for a while."""


@dataclass
class Cloud:
    """A Keystone, the Glance servers of its regions, and the clouds.yaml for them."""

    keystone: KeystoneServer
    servers: dict[str, GlanceProcess]
    images: dict[str, Image]
    shared: Image
    user: str
    """The id of the user that the resolver logs in as."""
    file: Path

    def write(self, password: str) -> None:
        """clouds.yaml, with the password of the resolver's user."""
        where = {"auth_url": f"{self.keystone.url}/v3", "user_domain_id": "default"}
        where |= {"project_name": "admin", "project_domain_id": "default"}
        login = {"username": "resolver", "password": password}
        member = {"username": "member", "password": "member-secret"}
        cloud_credentials: dict[str, Any] = {
            "prod": {"auth": {**where, **login}},
            "prod-member": {"auth": {**where, **member}},
            "open": {"auth_type": "none", "auth": {"endpoint": "http://127.0.0.1:1"}},
        }
        self.file.write_text(yaml.safe_dump({"clouds": cloud_credentials}))


@pytest.fixture(scope="session")
def cloud(
    keystone_home: KeystoneHome, glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    directory = tmp_path_factory.mktemp("cloud")
    with KeystoneServer(keystone_home, directory / "keystone") as keystone_server:
        user = keystone_server.user("resolver", TUESDAY, "admin", "admin")
        keystone_server.user("member", "member-secret", "admin", "member")
        keystone_server.user("tests", "tests-secret", "admin", "admin")
        options: dict[str, Any] = {
            "auth": "keystone",
            "keystone": keystone_server.url,
            "token": keystone_server.token("tests", "tests-secret", "admin"),
        }
        with (
            GlanceProcess(glance_home, directory / "one", **options) as one,
            GlanceProcess(glance_home, directory / "two", **options) as two,
        ):
            servers = dict(zip(REGIONS, (one, two), strict=True))
            for region, server in servers.items():
                # As some catalogs have it.
                keystone_server.image_endpoint(region, f"{server.url}/v2/")
            images = {region: server.create_private() for region, server in servers.items()}
            shared = one.create()
            two.create(shared.id, data=shared.data)
            file = directory / "clouds.yaml"
            made = Cloud(keystone_server, servers, images, shared, user, file)
            made.write(TUESDAY)
            yield made
