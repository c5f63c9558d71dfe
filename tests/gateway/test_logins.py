"""The gateway logs in at Keystone before a client's question needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from resolver.standin import Caller, StandIn
from tests.gateway.conftest import Gateway, Start
from tests.support.fake_keystone import FakeKeystone
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"

Begin = Callable[[], Awaitable[Gateway]]


@pytest.fixture
async def keystone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeKeystone]:
    async with FakeKeystone() as keystone:
        file = tmp_path / "clouds.yaml"
        file.write_text(yaml.safe_dump({"clouds": {"prod": {"auth": keystone.auth()}}}))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        yield keystone
        keystone.login_gate.set()


@pytest.fixture
async def begin(start: Start, keystone: FakeKeystone) -> AsyncIterator[Begin]:
    """Starts a gateway with one location of that Keystone's cloud."""
    tokens = {f"{keystone.token}-1": Caller("admin", admin=True)}
    async with StandIn(tokens=tokens) as server:

        async def started() -> Gateway:
            locations = {"one": {"url": server.url, "auth": {"cloud": "prod"}, "sees_all": True}}
            return await start(
                probe=True,
                probe_timeout=1,
                allowed_hosts="127.0.0.1",
                startup_locations=locations,
            )

        yield started


async def test_a_gateway_logs_in_before_it_is_asked(begin: Begin, keystone: FakeKeystone) -> None:
    gateway = await begin()
    await wait_until(lambda: keystone.logins == 1)
    response, body = await gateway.get(f"/resolve/{ID}")
    assert (response.status, body["outcome"]) == (404, "absent"), body
    assert keystone.logins == 1


async def test_a_slow_keystone_is_not_reported_as_a_silent_location(
    begin: Begin, keystone: FakeKeystone
) -> None:
    keystone.login_gate.clear()
    gateway = await begin()
    response, body = await gateway.get(f"/resolve/{ID}")
    assert (response.status, body["outcome"]) == (503, "unknown")
    assert "one: it was not asked: Keystone gave no token within 1 s" in body["detail"]
    keystone.login_gate.set()

    async def is_absent() -> bool:
        response, _ = await gateway.get(f"/resolve/{ID}")
        return bool(response.status == 404)

    await wait_until(is_absent)
