"""A Keystone that redirects: a login goes to the server that clouds.yaml names, and to no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from resolver.errors import LocationUnavailable
from resolver.glance.cloud_config import CloudRef
from resolver.glance.keystone import authenticate
from tests.support.plain_server import PlainReply, PlainServer

pytest.importorskip("openstack")

TOKEN = {
    "methods": ["password"],
    "user": {"id": "u", "name": "sweep", "domain": {"id": "d", "name": "d"}},
    "issued_at": "2026-01-01T00:00:00.000000Z",
    "expires_at": "2126-01-01T00:00:00.000000Z",
}


class Keystone(PlainServer):
    """Redirects logins to ``target``, with this status. It accepts those that come there."""

    def __init__(self) -> None:
        super().__init__()
        self.status, self.target = 307, "/elsewhere"
        self.logins: list[str] = []

    def answer(self, path: str, headers: Message) -> PlainReply:
        if path == "/v3/auth/tokens":
            return PlainReply(self.status, b"", {"Location": self.target})
        if path.endswith("/elsewhere"):
            self.logins.append(path)
            return PlainReply(
                201, json.dumps({"token": TOKEN}).encode(), {"X-Subject-Token": "token"}
            )
        return PlainReply(404)


@pytest.fixture
def keystone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keystone]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Keystone() as keystone:
        auth = {"auth_url": f"{keystone.url}/v3", "user_id": "u", "password": "secret"}
        cloud = {"auth_type": "v3password", "auth": auth}
        file = tmp_path / "clouds.yaml"
        file.write_text(yaml.safe_dump({"clouds": {"one": cloud}}))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        yield keystone


@pytest.mark.parametrize("status", [301, 302, 303, 305, 307, 308])
def test_a_login_is_not_sent_to_another_server(keystone: Keystone, status: int) -> None:
    with Keystone() as other:
        keystone.status, keystone.target = status, f"{other.url}/elsewhere"
        with pytest.raises(LocationUnavailable, match="redirects to another server") as error:
            authenticate(CloudRef("one"))
        assert other.logins == []
        assert "elsewhere" not in error.value.detail  # no byte of what it answered


def test_a_login_is_not_sent_to_another_server_by_a_relative_url(keystone: Keystone) -> None:
    with Keystone() as other:
        keystone.target = f"//{urlsplit(other.url).netloc}/elsewhere"
        with pytest.raises(LocationUnavailable, match="redirects to another server"):
            authenticate(CloudRef("one"))
        assert other.logins == []


def test_a_redirect_at_the_same_server_is_followed(keystone: Keystone) -> None:
    keystone.target = f"{keystone.url}/elsewhere"
    assert authenticate(CloudRef("one")).headers == {"X-Auth-Token": "token"}
    assert keystone.logins == ["/elsewhere"]
