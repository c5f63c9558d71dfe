"""One endpoint that carries bytes, for tests: nginx and HAProxy, a gateway, two real Glances."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import started
from tests.glance.gateway import Gateway
from tests.glance.install import GlanceHome
from tests.support.carriers import CARRIERS, Carrier
from tests.support.glance import ADMIN_TOKEN, Answer, GlanceProcess, call

RECORD = {"disk_format": "raw", "container_format": "bare"}


@dataclass
class Endpoint:
    """What a user sees, and what is behind it."""

    carrier: Carrier
    gateway: Gateway
    servers: dict[str, GlanceProcess]

    def call(self, method: str, target: str, body: Any = None) -> Answer:
        """A request that follows no redirect, as a user with a token."""
        return call(self.carrier.url, method, target, body, {"X-Auth-Token": ADMIN_TOKEN})

    def record(self, region: str = "one", **fields: Any) -> str:
        """The id of a new image without bytes."""
        answer = self.call("POST", f"/region/{region}/v2/images", {**RECORD, **fields})
        assert answer.status == 201, answer
        image_id: str = answer.json()["id"]
        assert answer.headers["Location"] == f"/v2/images/{image_id}"
        return image_id

    def curl(self, *arguments: str) -> tuple[int, bytes]:
        """(status, body) of a curl without ``-L``."""
        fields = ["-H", f"X-Auth-Token: {ADMIN_TOKEN}"]
        fields += ["-H", "Content-Type: application/octet-stream"]
        command = ["curl", "-sS", "--noproxy", "*", "-w", "\n%{http_code}", *fields, *arguments]
        ran = subprocess.run(command, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr
        body, _, status = ran.stdout.rpartition(b"\n")
        return int(status), body


@pytest.fixture(scope="session")
def servers(
    glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, GlanceProcess]]:
    """Two empty Glances, which no other test uses: what is created here stays in the index."""
    folder = tmp_path_factory.mktemp("carried")
    with (
        GlanceProcess(glance_home, folder / "one") as one,
        GlanceProcess(glance_home, folder / "two") as two,
    ):
        yield {"one": one, "two": two}


@pytest.fixture(scope="session")
def own_gateway(
    servers: dict[str, GlanceProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    locations = {
        name: {
            "url": server.url,
            "region": name,
            "priority": number,
            "auth": {"token_env": "GLANCE_TOKEN"},
            "sees_all": True,
        }
        for number, (name, server) in enumerate(servers.items())
    }
    file = folder / "locations.json"
    file.write_text(json.dumps({"locations": locations}))
    env = {"RESOLVER_TRUSTED_PROXIES": "127.0.0.1", "RESOLVER_REDIRECT_WRITES": "true"}
    gateway = Gateway(folder, ["--locations", str(file)], ("one", "two"), env).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log.read_text()


@pytest.fixture(scope="session")
def endpoints(
    own_gateway: Gateway, servers: dict[str, GlanceProcess]
) -> Iterator[dict[str, Endpoint]]:
    with ExitStack() as stack:
        carriers = {kind.name: started(kind(own_gateway.port)) for kind in CARRIERS}
        for carrier in carriers.values():
            stack.callback(carrier.close)
        yield {name: Endpoint(each, own_gateway, servers) for name, each in carriers.items()}
        for carrier in carriers.values():
            assert "307" not in carrier.statuses(), "no client was sent elsewhere"
