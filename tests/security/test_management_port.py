"""With a management port, the public port has nothing but reads."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

import aiohttp
import pytest
from yarl import URL

from resolver.errors import SettingsError
from resolver.gateway.api.status import openapi_document
from resolver.gateway.app import admin_routes, client_routes, metrics_routes
from resolver.settings import load_settings
from tests.cli.test_serve import run, serve
from tests.gateway.conftest import ADMIN, TOKEN, Gateway, Start
from tests.support.certificates import Authority
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
VALUES = {"api": "v2", "id": ID, "rest": "", "name": "one", "schema": "image", "file": "status.css"}
HEALTH = ("/healthcheck", "/livez", "/readyz")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def path_of(pattern: str) -> str:
    return re.sub(r"\{(\w+)(?::[^{}]*(?:\{[^}]*\})?[^{}]*)?\}", lambda m: VALUES[m[1]], pattern)


@pytest.fixture
async def ports(start: Start) -> tuple[Gateway, str]:
    """A gateway, and the URL of its management port."""
    port = free_port()
    gateway = await start(management_port=port)
    await gateway.location("one")
    await gateway.claim("one", ID)
    return gateway, f"http://127.0.0.1:{port}"


async def ask(url: str, method: str, path: str, **options: Any) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.request(
            method, URL(url + path, encoded=True), allow_redirects=False, **options
        ) as response,
    ):
        return response.status, await response.text()


async def test_the_public_port_has_no_admin_path_and_no_metrics(ports: tuple[Gateway, str]) -> None:
    gateway, _ = ports
    for route in [*metrics_routes(), *admin_routes()]:
        path = path_of(route.path)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            status, text = await ask(gateway.url, method, path, headers=ADMIN)
            assert (status, "management port" in text) == (404, True), (method, path)
    for path in (
        "/page/status.css",
        "/page/events",
        "/locations/",
        "//locations",
        "/v2/../locations",
    ):
        status, _ = await ask(gateway.url, "GET", path, headers=ADMIN)
        assert status in (400, 404), path


ROLES_ALLOWED = {
    ("POST", "/locations/{name}/check"): {"claims", "state"},
    ("POST", "/locations/{name}/sweep"): {"claims", "state"},
    ("PATCH", "/locations/{name}"): {"state"},
    ("PUT", "/locations/{name}/images/{id:[^/]+}"): {"claims"},
    ("DELETE", "/locations/{name}/images/{id:[^/]+}"): {"claims"},
}
"""What roles besides `admin` may do. Of a route that is not here, they may do nothing but read."""

PUBLIC_ADMIN_ROUTES = {"/index"}
"""Without a token; all others of `admin_routes` need one."""


async def test_each_role_at_each_route_of_both_ports(start: Start) -> None:
    port = free_port()
    roles = ("ro", "claims", "state", "admin")
    tokens = {role: f"a-token-for-{role}-0123456789" for role in roles}
    entries = ",".join(f"{role}:{role}={token}" for role, token in tokens.items())
    gateway = await start(management_port=port, admin_tokens=entries, client_rate=100_000)
    management = f"http://127.0.0.1:{port}"
    wrong, routes = [], set()
    for route in admin_routes():
        path = path_of(route.path)
        reads = route.method in ("GET", "HEAD")
        routes.add((route.method, route.path))
        for who, token in {"nobody": "", "another": "no-token-of-ours", **tokens}.items():
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            status, _ = await ask(management, route.method, path, headers=headers)
            allowed = {"admin", *ROLES_ALLOWED.get((route.method, route.path), set())}
            if route.path in PUBLIC_ADMIN_ROUTES or (who in roles and (reads or who in allowed)):
                is_right = status not in (401, 403) and status < 500
            else:
                is_right = status == (403 if who in roles else 401)
            public, _ = await ask(gateway.url, route.method, path, headers=headers)
            if not is_right or public != 404:
                wrong.append((route.method, route.path, who, status, public))
    assert wrong == []
    assert routes >= set(ROLES_ALLOWED)


async def test_the_management_port_says_what_is_at_the_other(ports: tuple[Gateway, str]) -> None:
    _, management = ports
    for path in (f"/resolve/{ID}", f"/v2/images/{ID}", "/v2/images", "/versions"):
        status, text = await ask(management, "GET", path)
        assert (status, "RESOLVER_PORT" in text) == (404, True), path
    assert (await ask(management, "GET", "/openapi.json"))[0] == 200


async def test_the_public_port_only_reads(ports: tuple[Gateway, str]) -> None:
    """A `POST /resolve` is a read, and writes to images are answered with where to send them."""
    assert {route.method for route in client_routes()} <= {"GET", "HEAD", "POST", "*"}
    gateway, _ = ports
    before = await gateway.services.index.records.load()
    assert (await ask(gateway.url, "GET", f"/v2/images/{ID}"))[0] == 307
    assert (await ask(gateway.url, "GET", f"/resolve/{ID}"))[0] == 200
    assert (await ask(gateway.url, "POST", "/resolve", json=[ID]))[0] == 200
    assert (await ask(gateway.url, "DELETE", f"/v2/images/{ID}", headers=ADMIN))[0] == 405
    for path in HEALTH:
        assert (await ask(gateway.url, "GET", path))[0] == 200
    for accept in ("*/*", "text/html"):
        status, text = await ask(gateway.url, "GET", "/", headers={"Accept": accept})
        assert (status, '"versions"' in text) == (300, True), "no status page"
    assert await gateway.services.index.records.load() == before


async def test_the_management_port_has_admin_paths_and_metrics_but_no_images(
    ports: tuple[Gateway, str],
) -> None:
    gateway, url = ports
    for path in ("/locations", "/audit", "/index", "/status", "/metrics", "/members", *HEALTH):
        assert (await ask(url, "GET", path, headers=ADMIN))[0] == 200, path
    assert (await ask(url, "GET", "/locations"))[0] == 401
    body = {"url": "http://127.0.0.1:9"}
    assert (await ask(url, "PUT", "/locations/two", headers=ADMIN, json=body))[0] == 201
    for path in (f"/v2/images/{ID}", f"/resolve/{ID}", "/v2/schemas/image"):
        assert (await ask(url, "GET", path))[0] == 404, path
    status, text = await ask(url, "GET", "/", headers={"Accept": "text/html"})
    assert (status, "<html" in text) == (200, True)
    _, metrics = await ask(url, "GET", "/metrics")
    assert 'route="/locations/{name}"' in metrics
    assert await ask(gateway.url, "GET", f"/v2/images/{ID}")
    _, metrics = await ask(url, "GET", "/metrics")
    assert 'route="/{api}/images/{id}{rest}"' in metrics, "both ports are counted"


async def test_each_port_says_of_the_paths_of_the_other_where_they_are(start: Start) -> None:
    port, public_url = free_port(), "https://images.example"
    gateway = await start(management_port=port, public_url=public_url)
    url = f"http://127.0.0.1:{port}"
    documents = [
        json.loads((await ask(base, "GET", "/openapi.json"))[1]) for base in (gateway.url, url)
    ]
    public, management = (set(document["paths"]) for document in documents)
    assert public | management == set(openapi_document()["paths"])
    assert public & management == {*HEALTH, "/", "/openapi.json", "/versions"}
    assert {"/resolve", "/v2/images"} <= public
    assert {"/locations/{name}/images/{id}", "/index", "/metrics"} <= management
    assert [document["servers"][0]["url"] for document in documents] == [public_url, "/"]
    for path in public - management:
        for method in ("GET", "POST", "DELETE"):
            filled = re.sub(r"\{(\w+)\}", lambda match: VALUES.get(match[1], "x"), path)
            status, text = await ask(url, method, filled)
            assert (status, "other port" in text, public_url in text) == (404, True, True), path
    status, text = await ask(url, "GET", "/nowhere")
    assert (status, "nothing is here" in text) == (404, True)


@pytest.mark.parametrize("public_url", ["https://images.example/api", ""])
async def test_the_catalog_is_made_at_the_management_port(start: Start, public_url: str) -> None:
    """Where the gateway knows its URL for clients; otherwise it says what to give."""
    port = free_port()
    gateway = await start(management_port=port, public_url=public_url)
    await gateway.location("one", region="RegionOne")
    environ = {"RESOLVER_URL": f"http://127.0.0.1:{port}", "RESOLVER_TOKEN": TOKEN}
    status, out, err = await run("catalog", "--in-place", **environ)
    if public_url:
        assert (status, f"{public_url}/region/RegionOne" in out) == (0, True)
    else:
        assert status != 0
        assert "--endpoint" in err
    status, _, err = await run("resolve", ID, **environ)
    assert (status, "other port" in err, "--gateway" in err) == (1, True, True)


async def test_clients_of_the_public_port_cannot_take_the_connections_of_the_other(
    start: Start,
) -> None:
    port = free_port()
    gateway = await start(management_port=port, max_connections=4)
    public = int(gateway.url.rpartition(":")[2])
    held = []
    for _ in range(8):
        reader, writer = await asyncio.open_connection("127.0.0.1", public)
        writer.write(b"POST /resolve HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        held.append((reader, writer))
    async with asyncio.timeout(5):
        assert (await ask(f"http://127.0.0.1:{port}", "GET", "/metrics"))[0] == 200
    for _, writer in held:
        writer.close()


async def test_an_indexer_serves_its_metrics_at_the_management_port(start: Start) -> None:
    port = free_port()
    indexer = await start(role="indexer", management_port=port)
    for path in ("/metrics", "/status"):
        assert (await ask(indexer.url, "GET", path))[0] == 404
        assert (await ask(f"http://127.0.0.1:{port}", "GET", path))[0] == 200
    assert (await ask(indexer.url, "GET", "/healthcheck"))[0] == 200


async def test_a_gateway_at_the_management_port_is_no_location(ports: tuple[Gateway, str]) -> None:
    _, url = ports
    status, text = await ask(url, "PUT", "/locations/self", headers=ADMIN, json={"url": url})
    assert status == 400
    assert "gateway itself" in text or "glance-resolver" in text


@pytest.mark.redis
async def test_workers_share_a_management_port(redis_url: str) -> None:
    port = free_port()
    environ = {
        "RESOLVER_REDIS_URL": redis_url,
        "RESOLVER_MANAGEMENT_PORT": str(port),
        "RESOLVER_ADMIN_TOKENS": "ops=s3cret-token-0123456789",
    }
    async with serve("--workers", "2", **environ) as server:
        for _ in range(8):
            url = f"http://127.0.0.1:{port}"
            assert (await ask(url, "GET", "/metrics"))[0] == 200
            assert (await ask(url, "GET", "/locations"))[0] == 401
            assert (await ask(server.url, "GET", "/metrics"))[0] == 404
            assert (await ask(server.url, "GET", "/healthcheck"))[0] == 200


async def test_a_reload_keeps_the_management_port() -> None:
    port = free_port()
    async with serve(RESOLVER_MANAGEMENT_PORT=str(port)) as server:
        server.process.send_signal(1)
        await wait_until(lambda: "settings read again" in server.output)
        assert (await ask(f"http://127.0.0.1:{port}", "GET", "/metrics"))[0] == 200


def test_one_port_cannot_be_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_MANAGEMENT_PORT", "9393")
    with pytest.raises(SettingsError, match="RESOLVER_MANAGEMENT_PORT"):
        load_settings()


async def test_a_port_that_is_taken_is_named(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port}.*RESOLVER_MANAGEMENT_PORT"):
            await start(management_port=port)


async def test_both_ports_speak_tls(start: Start, authority: Authority) -> None:
    files = authority.issue("127.0.0.1")
    port = free_port()
    await start(management_port=port, tls_cert=str(files.cert), tls_key=str(files.key))
    async with aiohttp.ClientSession() as http:
        url = f"https://127.0.0.1:{port}/livez"
        async with http.get(url, ssl=authority.client()) as response:
            assert response.status == 200
