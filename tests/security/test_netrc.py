"""No password of ~/.netrc goes anywhere, and no question about loopback through a proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler
from glance_resolver_client import AsyncClient, Client

from resolver.cli import main
from resolver.glance import GlanceServer, connect, keep_connections
from resolver.glance.cloud_config import CloudRef
from resolver.glance.keystone import authenticate
from resolver.models import Location
from resolver.standin import StandIn
from tests.support.fake_keystone import FakeKeystone
from tests.support.plain_server import PlainReply, PlainServer

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


@pytest.fixture(autouse=True)
def _netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".netrc"
    file.write_text("default login somebody password secret\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(file))
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        for each in (name, name.lower()):
            monkeypatch.setenv(each, "http://127.0.0.1:1")


class Recorder(PlainServer):
    """A gateway or a collector that finds nothing, and records what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []
        self.passwords: list[str] = []

    def answer(self, path: str, headers: Message) -> PlainReply:
        self.paths.append(path)
        self.passwords += headers.get_all("Authorization", [])
        return PlainReply(body=b'{"locations": []}')


@asynccontextmanager
async def location() -> AsyncIterator[tuple[Location, list[str]]]:
    """A location, and the passwords that it was sent."""
    passwords: list[str] = []

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        passwords.extend(request.headers.getall("Authorization", ()))
        return await handler(request)

    async with StandIn(middlewares=[record]) as server:
        yield Location(name="one", url=server.url), passwords


async def test_keystone_is_sent_the_password_of_clouds_yaml_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openstack")
    monkeypatch.setenv("NO_PROXY", "*")
    async with FakeKeystone() as keystone:
        file = tmp_path / "clouds.yaml"
        file.write_text(yaml.safe_dump({"clouds": {"one": {"auth": keystone.auth()}}}))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        sent = await asyncio.to_thread(authenticate, CloudRef("one"))
        assert sent.headers["X-Auth-Token"] == "token-1"
        assert (keystone.logins, keystone.passwords) == (1, [])


async def test_locations_are_sent_none() -> None:
    async with location() as (one, passwords), connect(5) as session, keep_connections(5) as kept:
        for each in (None, kept):
            await GlanceServer(session, one, kept=each).request(f"/v2/images/{ID}")
        assert passwords == []


def test_commands_send_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESOLVER_TOKEN", raising=False)
    with Recorder() as gateway:
        with contextlib.suppress(SystemExit):
            main(["locations", "list", "--gateway", gateway.url])
        assert (len(gateway.paths), gateway.passwords) == (1, [])


async def test_the_client_library_sends_none() -> None:
    answer: dict[str, Any] = {"id": ID, "outcome": "absent", "missing": []}

    async def serve(request: web.Request) -> web.Response:
        passwords.extend(request.headers.getall("Authorization", ()))
        return web.json_response(answer, status=404)

    passwords: list[str] = []
    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{runner.addresses[0][1]}"
            with Client(url) as client:
                await asyncio.to_thread(client.resolve, ID)
            async with AsyncClient(url) as client:
                await client.resolve(ID)
    finally:
        await runner.cleanup()
    assert passwords == []


async def test_collectors_of_spans_are_sent_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from resolver.otel_spans import open_spans  # noqa: PLC0415 - the optional extra

    monkeypatch.setenv("NO_PROXY", "*")
    with Recorder() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with open_spans() as spans:
            with spans.span("a span", {}):
                pass
        assert (collector.paths, collector.passwords) == (["/v1/traces"], [])
