"""Logins to clouds, as all who ask locations share them."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import CloudCredentials, keystone
from resolver.glance.keystone import AuthHeaders


class Stub:
    """What logs in, without a Keystone."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.fault = ""
        self.life = 3600.0

    def __call__(self, name: str) -> AuthHeaders:
        self.fetched.append(name)
        if self.fault:
            raise LocationUnavailable(self.fault, code="no-credential")
        headers = {"X-Auth-Token": f"{name}-{len(self.fetched)}"}
        return AuthHeaders(headers, ("admin",), until=time.monotonic() + self.life)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(keystone, "authenticate", made)
    return made


async def test_one_login_for_all_who_ask_at_once(stub: Stub) -> None:
    cloud_credentials = CloudCredentials()
    logins = await asyncio.gather(*(cloud_credentials.login("prod") for _ in range(20)))
    assert len({id(login) for login in logins}) == 1
    assert stub.fetched == ["prod"]
    await cloud_credentials.login("other")
    assert stub.fetched == ["prod", "other"]


async def test_one_that_is_about_to_end_is_renewed(stub: Stub) -> None:
    cloud_credentials = CloudCredentials()
    stub.life = -1
    first = await cloud_credentials.login("prod")
    assert await cloud_credentials.login("prod") is not first


async def test_a_cloud_that_gives_none_is_not_asked_again_at_once(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystone, "PAUSE", 3600)
    cloud_credentials = CloudCredentials()
    stub.fault = "no such user"
    for _ in range(5):
        with pytest.raises(LocationUnavailable, match="no such user"):
            await cloud_credentials.login("prod")
    assert len(stub.fetched) == 1
    monkeypatch.setattr(keystone, "PAUSE", 0)
    stub.fault = ""
    assert (await cloud_credentials.login("prod")).headers


async def test_one_that_is_refused_is_renewed_once(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystone, "PAUSE", 3600)
    cloud_credentials = CloudCredentials()
    first = await cloud_credentials.login("prod")
    assert cloud_credentials.refused("prod", first)
    second = await cloud_credentials.login("prod")
    assert second is not first
    assert cloud_credentials.refused("prod", first), "somebody was late: there is another by now"
    assert await cloud_credentials.login("prod") is second
    assert not cloud_credentials.refused("prod", second), "then no login is to the server's liking"
    assert await cloud_credentials.login("prod") is second
    monkeypatch.setattr(keystone, "PAUSE", 0)
    assert cloud_credentials.refused("prod", second)


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openstack.config", None)
    with pytest.raises(LocationUnavailable, match=r"pip install \"glance-resolver\[keystone\]\""):
        await CloudCredentials().login("prod")
