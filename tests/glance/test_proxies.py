"""The environment's proxies hold for requests to Glance, as they do for those to Keystone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer, connect
from resolver.glance.proxies import proxy_for
from resolver.models import Location
from resolver.standin import StandIn
from tests.support.tcp_server import listening

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Proxy:
    """A forward proxy for http, which leads every request to one server."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.request_lines: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, _, rest = head.partition("\r\n")
        self.request_lines.append(line)
        method, url, version = line.split()
        path = "/" + url.split("/", 3)[3]
        behind, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        rest = "\r\n".join(h for h in rest.split("\r\n") if not h.lower().startswith("connection"))
        to_server.write(f"{method} {path} {version}\r\nConnection: close\r\n{rest}".encode())
        writer.write(await behind.read())
        await writer.drain()
        for each in (writer, to_server):
            each.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with StandIn() as server:
        proxy = Proxy(server.port)
        listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        proxy.port = listener.sockets[0].getsockname()[1]
        async with listener:
            yield proxy


async def ask(url: str, allowed_hosts: tuple[str, ...] = ()) -> int:
    async with connect(5, allowed_hosts=allowed_hosts) as session:
        server = GlanceServer(session, Location(name="one", url=url))
        return (await server.request("/v2/images", {"limit": "1"})).status


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_glance_is_asked_through_the_proxy(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert await ask("http://glance.test/image") != 0
    assert proxy.request_lines == ["GET http://glance.test/image/v2/images?limit=1 HTTP/1.1"]


async def test_a_host_of_no_proxy_is_asked_directly(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "glance.invalid")
    with pytest.raises(LocationUnavailable, match="cannot connect"):
        await ask("http://glance.invalid")
    assert proxy.request_lines == []


async def test_loopback_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with StandIn() as server:
        assert await ask(server.url) == 200


async def test_a_proxy_that_is_gone_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    with pytest.raises(LocationUnavailable, match="proxy of the environment") as caught:
        await ask("http://glance.test")
    assert caught.value.problem_code == "bad-proxy"
    assert "secret" not in caught.value.detail


async def test_a_proxy_that_refuses_the_tunnel_is_named_as_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with listening(refuse) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(LocationUnavailable, match="answered 407") as caught:
            await ask("https://glance.test")
    assert caught.value.problem_code == "bad-proxy"


async def test_allowed_hosts_hold_behind_a_proxy_by_name(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy looks the name up, so an address says nothing; the proxy itself is trusted."""
    monkeypatch.setenv("HTTP_PROXY", f"http://localhost:{proxy.port}")
    assert await ask("http://glance.test", ("glance.test",)) != 0
    with pytest.raises(LocationUnavailable, match="not allowed"):
        await ask("http://other.test", ("glance.test", "0.0.0.0/0"))
    assert len(proxy.request_lines) == 1


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "https://a.example/x", False),
        ("*", "https://a.example/x", True),
        ("a.example", "https://a.example/x", True),
        ("example", "https://a.example/x", True),
        (".example", "https://a.example/x", True),
        ("*.example", "https://a.example/x", True),
        ("ample", "https://a.example/x", False),
        ("b.example, A.EXAMPLE", "https://a.example:9292", True),
        ("a.example:9292", "https://a.example:9292", True),
        ("a.example:9292", "https://a.example", False),
        ("a.example:443", "https://a.example", True),
        ("10.0.0.0/8", "https://10.7.1.1", True),
        ("10.0.0.0/8", "https://11.7.1.1", False),
        ("10.7.1.1", "https://10.7.1.1:9292", True),
        ("fd00::/8", "https://[fd00::1]:9292", True),
        ("[fd00::1]", "https://[fd00::1]:9292", True),
        ("a.example.", "https://a.example.", True),
    ],
)
def test_no_proxy_is_respected(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(url) == (None if direct else "http://proxy.test:3128")


def test_an_empty_variable_in_lower_case_takes_the_other_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As for requests, with which Keystone is asked."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("https_proxy", "")
    assert proxy_for("https://a.example/x") is None


def test_a_proxy_of_another_kind_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test:1080")
    with pytest.raises(LocationUnavailable, match="name the host in NO_PROXY"):
        proxy_for("https://a.example")
