"""A change of a location reads the registry once and looks its host up once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from resolver.glance.host_policy import Address
from resolver.index.redis.scripts import load
from resolver.registry.target_policy import look_up
from resolver.settings import Settings
from tests.gateway.conftest import ADMIN, TOKEN, Gateway
from tests.gateway.instrumented import instrumented_gateway
from tests.support.instrumented_client import InstrumentedClient

LOADS = load("load_registry"), load("load_changes")
"""Either reads the registry."""


class Costs:
    """A gateway whose reads of the registry and lookups of hosts are counted."""

    def __init__(self) -> None:
        self.client = InstrumentedClient()
        self.lookups: Counter[str] = Counter()

    async def lookup(self, host: str) -> Sequence[Address]:
        self.lookups[host] += 1
        return await look_up(host)

    @property
    def reads(self) -> int:
        return sum(map(self.client.runs_of, LOADS))

    async def cost_of(
        self, gateway: Gateway, method: str, body: dict[str, Any]
    ) -> tuple[int, int, int]:
        """(status, reads of the registry, lookups of localhost) of one request."""
        reads, lookups = self.reads, self.lookups["localhost"]
        response, row = await gateway.call(method, "/locations/one", headers=ADMIN, json=body)
        assert row["name"] == "one", row
        return (
            response.status,
            self.reads - reads,
            self.lookups["localhost"] - lookups,
        )


@pytest.fixture
def costs() -> Costs:
    return Costs()


@pytest.fixture
async def gateway(costs: Costs) -> AsyncIterator[Gateway]:
    """Listens at 127.0.0.2, so that its own port at localhost may belong to a location."""
    settings = Settings(
        host="127.0.0.2",
        port=0,
        role="gateway",
        admin_tokens=(f"ops={TOKEN}",),
        allowed_hosts=("127.0.0.0/8", "::1"),
    )
    async with instrumented_gateway(costs.client, settings, costs.lookup) as gateway:
        yield gateway


async def test_each_change_reads_the_registry_once(gateway: Gateway, costs: Costs) -> None:
    url = f"http://localhost:{gateway.url.rpartition(':')[2]}"
    notifications = {"url_env": "BROKER"}
    # The first change of all: there is no log of changes to read yet, so that all is read too.
    assert await costs.cost_of(gateway, "PUT", {"url": url}) == (201, 2, 1)
    assert await costs.cost_of(gateway, "PUT", {"url": url}) == (200, 1, 1)
    assert await costs.cost_of(gateway, "PUT", {"url": url, "api": "v2"}) == (200, 1, 1)
    assert await costs.cost_of(gateway, "PUT", {"url": url, "notifications": notifications}) == (
        200,
        1,
        1,
    )
    assert await costs.cost_of(gateway, "PATCH", {"url": f"{url}/image"}) == (200, 1, 1)
    assert await costs.cost_of(gateway, "PATCH", {"weight": 2}) == (200, 1, 0)


async def test_the_response_shows_what_was_written(gateway: Gateway) -> None:
    async def change(method: str, **fields: Any) -> dict[str, Any]:
        _, row = await gateway.call(method, "/locations/one", headers=ADMIN, json=fields)
        assert row == await gateway.services.registry.show("one")
        return dict(row)

    assert (await change("PUT", url="http://127.0.0.1:1"))["sweep"]["images"] == 0
    assert (await change("PATCH", state="draining", reason="new disks"))["reason"] == "new disks"
    assert (await change("PUT", url="http://127.0.0.1:2"))["state"] == "active"
