"""Who can register a location cannot have every secret of the host, or of a cloud, sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from resolver.errors import InvalidLocation, LocationUnavailable
from resolver.glance import CloudCredentials, GlanceServer, SecretSources, connect
from resolver.models import Location
from resolver.settings import Settings
from resolver.standin import StandIn
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.fake_keystone import FakeKeystone
from tests.support.tcp_server import listening

SECRET = "a-secret-of-this-host"


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The settings that no operator has changed."""
    for name in ("RESOLVER_SECRET_FILES", "RESOLVER_SECRET_ENVS"):
        monkeypatch.delenv(name)
    return monkeypatch


def refusal(sources: SecretSources, **auth: str) -> str:
    """Why a credential there is refused; empty if it is not."""
    try:
        sources.check(Location(name="one", url="https://one.example", auth=auth))
    except InvalidLocation as error:
        return error.detail
    return ""


@pytest.mark.parametrize(
    "variable", ["AWS_SECRET_ACCESS_KEY", "REDISCLI_AUTH", "HOME", "glance_token", "LANG"]
)
def test_variables_are_refused_unless_they_are_allowed(
    defaults: pytest.MonkeyPatch, variable: str
) -> None:
    defaults.setenv(variable, SECRET)
    sources = SecretSources.of(Settings())
    assert "RESOLVER_SECRET_ENVS" in refusal(sources, token_env=variable)
    with pytest.raises(LocationUnavailable, match="RESOLVER_SECRET_ENVS"):
        sources.read_token({"token_env": variable})
    defaults.setenv("GLANCE_TOKEN", "fine")
    assert refusal(sources, token_env="GLANCE_TOKEN") == ""
    assert sources.read_token({"token_env": "GLANCE_TOKEN"}) == "fine"


@pytest.mark.parametrize("variable", ["RESOLVER_TOKEN", "resolver_token", "OS_PASSWORD", "OS_A"])
@pytest.mark.parametrize("allowed", ["*", "OS_*", "OS_PASSWORD,RESOLVER_TOKEN"])
def test_variables_of_others_are_refused_whatever_is_allowed(
    defaults: pytest.MonkeyPatch, variable: str, allowed: str
) -> None:
    defaults.setenv("RESOLVER_SECRET_ENVS", allowed)
    defaults.setenv(variable, SECRET)
    sources = SecretSources.of(Settings())
    assert refusal(sources, token_env=variable)
    with pytest.raises(LocationUnavailable, match="other secrets"):
        sources.read_token({"token_env": variable})


def test_files_are_refused_unless_they_are_allowed(
    defaults: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    allowed, other = tmp_path / "secrets", tmp_path / "other"
    below = allowed / "below"
    for folder in (allowed, other, below):
        folder.mkdir()
        (folder / "token").write_text(SECRET)
    (allowed / "link").symlink_to(other / "token")
    (allowed / "..data").symlink_to(below)
    (allowed / "mounted").symlink_to("..data/token")  # as Kubernetes does
    (tmp_path / "alias").symlink_to(allowed)
    sources = SecretSources.of(Settings(secret_files=f"{allowed}/*"))
    for path in (allowed / "token", allowed / "mounted", tmp_path / "alias" / "token"):
        assert refusal(sources, token_file=str(path)) == ""
        assert sources.read_token({"token_file": str(path)}) == SECRET
    for name in (
        *(f"{other}/token", f"{below}/token", f"{allowed}/link", f"{allowed}/../other/token"),
        *("/etc/machine-id", "/proc/self/environ", f"{allowed}/..", f"{allowed}/"),
        "/run/secrets/kubernetes.io/serviceaccount/token",
    ):
        assert "RESOLVER_SECRET_FILES" in refusal(sources, token_file=name), name
        with pytest.raises(LocationUnavailable):
            sources.read_token({"token_file": name})


def test_by_default_run_secrets_and_the_folder_of_the_locations_file_are_allowed(
    defaults: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "locations.yaml").write_text(SECRET)
    sources = SecretSources.of(Settings(locations_file=str(tmp_path / "locations.yaml")))
    assert refusal(sources, token_file="/run/secrets/one") == ""
    assert "RESOLVER_SECRET_FILES" in refusal(sources, token_file="/run/secrets/a/b")
    assert refusal(sources, token_file=str(tmp_path / "token")) == ""
    assert "other secrets" in refusal(sources, token_file=str(tmp_path / "locations.yaml"))
    without = SecretSources.of(Settings())
    assert refusal(without, token_file=str(tmp_path / "token")) != ""


@pytest.mark.parametrize("name", ["admin_tokens_file", "redis_url_file", "tls_key", "TOKEN_FILE"])
def test_files_that_settings_name_are_never_read_for_a_location(
    defaults: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "named"
    file.write_text(SECRET)
    os.link(file, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(file)
    settings: dict[str, Any] = {"secret_files": f"{tmp_path}/*"}
    if name == "TOKEN_FILE":
        defaults.setenv("RESOLVER_TOKEN_FILE", str(file))
    else:
        settings |= {name: str(file), "tls_cert": "/none"}
    sources = SecretSources.of(Settings(**settings))
    for path in (file, tmp_path / "hard", tmp_path / "soft"):
        assert "other secrets" in refusal(sources, token_file=str(path))
        with pytest.raises(LocationUnavailable, match="other secrets"):
            sources.read_token({"token_file": str(path)})


@pytest.mark.parametrize(
    "fields",
    [
        {"auth": {"token_env": "AWS_SECRET_ACCESS_KEY"}},
        {"auth": {"token_file": "/etc/machine-id"}},
        {"notifications": {"url_env": "DATABASE_URL"}},
        {"notifications": {"url_file": "/etc/passwd"}},
    ],
)
async def test_a_credential_elsewhere_is_refused_at_registration(
    defaults: pytest.MonkeyPatch, start: Start, fields: dict[str, Any]
) -> None:
    gateway = await start()
    url = {"url": "https://one.example"}
    for method, path, body in (
        ("PUT", "/locations/one", url | fields),
        ("POST", "/locations", {"put": {"one": url | fields}}),
        ("PATCH", "/locations/there", fields),
    ):
        await gateway.location("there")
        response, answer = await gateway.call(method, path, headers=ADMIN, json=body)
        assert (response.status, answer["code"]) == (400, "invalid-location"), method
        assert "RESOLVER_SECRET_" in answer["detail"]


async def test_a_credential_that_redis_names_is_not_sent(
    defaults: pytest.MonkeyPatch, start: Start
) -> None:
    """However the location came into the table."""
    defaults.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    gateway = await start()
    async with StandIn() as server:
        auth = {"token_env": "AWS_SECRET_ACCESS_KEY"}
        location = Location(name="one", url=server.url, auth=auth)
        await gateway.services.index.records.put(location, None)
        _, body = await gateway.call("POST", "/locations/one/check", headers=ADMIN)
        assert body["ok"] is False
        assert "RESOLVER_SECRET_ENVS" in str(body["steps"])


async def test_another_url_drops_the_credential(start: Start) -> None:
    gateway = await start()
    auth = {"token_env": "GLANCE_TOKEN"}

    async def patched(**fields: Any) -> Any:
        return (await gateway.call("PATCH", "/locations/one", headers=ADMIN, json=fields))[1]

    await gateway.location("one", url="https://one.example", auth=auth, sees_all=True)
    row = await patched(url="https://one.example", region="same url")
    assert (row["auth"], row["sees_all"]) == (auth, True)
    row = await patched(url="https://evil.example")
    assert (row["auth"], row["sees_all"]) == (None, None)
    row = await patched(url="https://one.example", auth=auth)
    assert row["auth"] == auth
    batch = {"put": {"one": {"url": "https://evil.example"}}}
    await gateway.call("POST", "/locations", headers=ADMIN, json=batch)
    _, row = await gateway.get("/locations/one", headers=ADMIN)
    assert row["auth"] is None


async def test_a_new_url_at_start_drops_the_credential(start: Start) -> None:
    gateway = await start()
    await gateway.location("one", url="https://one.example", auth={"token_env": "GLANCE_TOKEN"})
    await gateway.services.registry.register({"one": {"url": "https://two.example"}})
    _, row = await gateway.get("/locations/one", headers=ADMIN)
    assert row["auth"] is None


async def exported_with_auth(start: Start) -> str:
    other = await start()
    auth, broker = {"cloud": "prod"}, {"url_env": "GLANCE_BROKER"}
    await other.location("theirs", auth=auth, notifications=broker, sees_all=True)
    await other.location("plain", sees_all=True)
    async with other.http.get("/index/export", headers=ADMIN) as response:
        return await response.text()


async def test_an_import_leaves_credentials_out_unless_asked(start: Start) -> None:
    text = await exported_with_auth(start)
    gateway, asked = await start(), await start()
    response, body = await gateway.call("POST", "/index/import", headers=ADMIN, data=text)
    assert (response.status, body["without_auth"]) == (200, ["theirs"])
    _, row = await gateway.get("/locations/theirs", headers=ADMIN)
    assert (row["auth"], row["notifications"], row["sees_all"]) == (None, None, None)
    _, row = await gateway.get("/locations/plain", headers=ADMIN)
    assert row["sees_all"] is True
    _, body = await asked.call("POST", "/index/import?with_auth=1", headers=ADMIN, data=text)
    assert body["without_auth"] == []
    _, row = await asked.get("/locations/theirs", headers=ADMIN)
    assert row["auth"] == {"cloud": "prod"}
    for query in ("with_auth=yes", "auth=1"):
        response, _ = await asked.call("POST", f"/index/import?{query}", headers=ADMIN, data=text)
        assert response.status == 400


async def test_an_import_keeps_the_credentials_of_locations_that_are_there(start: Start) -> None:
    text = await exported_with_auth(start)
    gateway = await start()
    await gateway.location("theirs", auth={"token_env": "GLANCE_MINE"})
    await gateway.call("POST", "/index/import?with_auth=1", headers=ADMIN, data=text)
    _, row = await gateway.get("/locations/theirs", headers=ADMIN)
    assert row["auth"] == {"token_env": "GLANCE_MINE"}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with connect(5) as session:
        yield session


def endpoint(url: str) -> dict[str, Any]:
    return {"interface": "public", "region": "r", "region_id": "r", "url": url, "id": "e"}


@pytest.mark.parametrize("operator_allows", [False, True])
async def test_a_clouds_credential_goes_to_hosts_of_its_catalog_only(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    session: aiohttp.ClientSession,
    operator_allows: bool,
) -> None:
    pytest.importorskip("openstack")
    sent: list[str] = []

    @web.middleware
    async def record(request: web.Request, handler: Any) -> web.StreamResponse:
        sent.append(request.headers.get("X-Auth-Token", ""))
        response: web.StreamResponse = await handler(request)
        return response

    catalog = [{"type": "image", "name": "glance", "id": "i"}]
    catalog[0]["endpoints"] = [endpoint("http://glance.example:9292/v2")]  # type: ignore[assignment]
    async with FakeKeystone(catalog=catalog) as keystone, StandIn(middlewares=[record]) as server:
        file = tmp_path / "clouds.yaml"
        file.write_text(str({"clouds": {"prod": {"auth": keystone.auth()}}}))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        credentials = CloudCredentials(any_host=operator_allows)
        auth = {"cloud": "prod"}

        def at(host: str) -> GlanceServer:
            url = f"http://{host}:{server.port}"
            return GlanceServer(session, Location(name="one", url=url, auth=auth), credentials)

        await at("127.0.0.1").request("/v2/images")
        assert sent.pop().startswith("token")
        assert (await at("glance.example").credential()).startswith("token")
        if operator_allows:
            await at("localhost").request("/v2/images")
            assert sent.pop().startswith("token")
        else:
            with pytest.raises(LocationUnavailable, match="no endpoint on localhost") as caught:
                await at("localhost").request("/v2/images")
            assert caught.value.problem_code == "not-allowed"
            assert sent == []


async def test_the_login_of_the_environment_is_no_cloud_of_a_location(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    pytest.importorskip("openstack")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "none.yaml"))
    async with FakeKeystone() as keystone, StandIn() as server:
        for name, value in keystone.auth().items():
            monkeypatch.setenv(f"OS_{name.upper()}", value)
        location = Location(name="one", url=server.url, auth={"cloud": "envvars"})
        credentials = CloudCredentials(any_host=True)
        with pytest.raises(LocationUnavailable, match="OS_\\* variables") as caught:
            await GlanceServer(session, location, credentials).credential()
        assert caught.value.problem_code == "no-credential"


INSIDE = "db_password=hunter2"
ANSWERS = {
    "no HTTP": f"{INSIDE}\r\n\r\n",
    "status line": f"HTTP/1.1 200 {INSIDE}\r\nContent-Length: x{INSIDE}\r\n\r\n",
    "field": f"HTTP/1.1 200 OK\r\n{INSIDE}\r\n\r\n",
    "body": f"HTTP/1.1 200 OK\r\nContent-Length: {len(INSIDE)}\r\n\r\n{INSIDE}",
    "coding": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {INSIDE}\r\n\r\n",
    "chunk": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{INSIDE}\r\n",
    "redirect": f"HTTP/1.1 302 {INSIDE}\r\nLocation: http://{INSIDE}\r\nContent-Length: 0\r\n\r\n",
    "error": f"HTTP/1.1 500 {INSIDE}\r\nContent-Length: {len(INSIDE)}\r\n\r\n{INSIDE}",
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_no_answer_has_bytes_of_the_answers_of_a_server(start: Start, kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ANSWERS[kind].encode())
                await writer.drain()
        finally:  # also where the test ends first
            writer.close()

    gateway: Gateway = await start(probe=True, role="all", health_interval=0.2)
    async with listening(serve) as url:
        await gateway.location("inside", url=url, versions=(), covered=False)
        for method, path in (
            ("POST", "/locations/inside/check"),
            ("GET", "/resolve/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"),
            ("GET", "/resolve/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d/explain"),
            ("GET", "/locations/inside"),
            ("GET", "/status"),
            ("GET", "/index"),
        ):
            async with gateway.http.request(method, path, headers=ADMIN) as response:
                assert "hunter2" not in await response.text(), path
                assert "hunter2" not in str(response.headers), path
        # Where a connection comes while the server closes, asyncio does not close its socket.
        await gateway.services.registry.remove("inside")
