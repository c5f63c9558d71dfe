"""One endpoint that carries bytes: nginx and HAProxy, with the configurations that are shipped.

The Glance servers are small ones that show what reached them.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.conftest import started
from tests.gateway.conftest import Gateway, Start
from tests.security.test_smuggling import exchange
from tests.support.carriers import CARRIERS, Carrier, loopback_dns
from tests.support.certificates import Authority
from tests.support.http_connection import connected
from tests.support.process import free_port

pytestmark = pytest.mark.balancer

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
ABSENT = "ffffffff-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
IMAGE = f"/v2/images/{ID}"
FILE = f"{IMAGE}/file"
MEGABYTE = 1 << 20


@dataclass
class Seen:
    """A request that reached a Glance server."""

    method: str
    target: str
    headers: Any
    size: int
    digest: str


@dataclass
class Recorder:
    """A server that answers everything, and keeps what it was asked."""

    prefix: str = ""
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    first_bytes: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        digest, size = hashlib.sha256(), 0
        async for chunk in request.content.iter_any():
            self.first_bytes.set()
            digest.update(chunk)
            size += len(chunk)
        self.seen.append(
            Seen(request.method, request.raw_path, request.headers, size, digest.hexdigest())
        )
        return web.Response(status=self.status, headers=self.headers, body=b"bytes of an image")

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Recorder]:
        server = web.Server(self.handle)
        runner = web.ServerRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


@dataclass
class Endpoint:
    """A carrying proxy, the gateway that it asks, and the servers behind."""

    gateway: Gateway
    carrier: Carrier
    one: Recorder
    two: Recorder
    http: aiohttp.ClientSession

    async def call(self, method: str, target: str, **options: Any) -> tuple[Any, bytes]:
        url = URL(self.carrier.url + target, encoded=True)
        async with self.http.request(method, url, allow_redirects=False, **options) as response:
            return response, await response.read()


@pytest.fixture(params=CARRIERS, ids=lambda kind: kind.name)
async def endpoint(
    request: pytest.FixtureRequest, start: Start, tmp_path: Path
) -> AsyncIterator[Endpoint]:
    """An image at `one`, which is preferred, by its address. `two` has a name, TLS and a path."""
    authority = Authority(tmp_path)
    files = authority.issue("two.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    gateway = await start(trusted_proxies="127.0.0.1")
    port = int(gateway.url.rpartition(":")[2])
    async with AsyncExitStack() as stack:
        dns_port = stack.enter_context(loopback_dns())
        one = await stack.enter_async_context(Recorder().serving())
        two = await stack.enter_async_context(Recorder("/image").serving(context))
        await gateway.location("one", url=f"http://127.0.0.1:{one.port}", region="one", priority=1)
        await gateway.location("two", url=f"https://two.test:{two.port}/image", region="two")
        await gateway.claim("one", ID)
        await gateway.claim("two", ID)
        carrier = started(request.param(port, dns_port=dns_port, authority=str(authority.file)))
        stack.callback(carrier.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Endpoint(gateway, carrier, one, two, http)


CARRIED = [
    ("PUT", FILE),
    ("PUT", f"{IMAGE}/stage"),
    ("POST", f"{IMAGE}/import?a=b%2Fc"),
    ("PATCH", IMAGE),
    ("DELETE", f"{IMAGE}/tags/a%20b"),
    ("POST", "/v2/images"),
    ("GET", FILE),
    ("GET", IMAGE),
    ("GET", "/v2/schemas/image"),
]


@pytest.mark.parametrize("region", ["one", "two"])
async def test_requests_reach_the_owner_as_they_were_sent(endpoint: Endpoint, region: str) -> None:
    sent = {"X-Auth-Token": "t0ken", "Range": "bytes=0-1", "Content-Type": "application/x"}
    asked, other = endpoint.one, endpoint.two
    if region == "two":
        asked, other = other, asked
    host = f"127.0.0.1:{asked.port}" if region == "one" else f"two.test:{asked.port}"
    for method, target in CARRIED:
        body = b"x" * 100_000 if method in ("PUT", "POST", "PATCH") else b""
        response, content = await endpoint.call(
            method, f"/region/{region}{target}", data=body or None, headers=sent
        )
        assert (response.status, content) == (200, b"bytes of an image"), target
        seen = asked.seen.pop()
        assert not asked.seen, "it is sent once"
        assert (seen.method, seen.target) == (method, asked.prefix + target)
        assert seen.size == len(body)
        assert seen.headers["Host"] == host
        assert {name: seen.headers[name] for name in sent} == sent
    assert not other.seen, "the token goes to the owner only"


ANSWERED_BY_THE_GATEWAY = [
    ("GET", "/versions"),
    ("GET", "/v2/"),
    ("GET", "/v2/images/a-name"),
    ("GET", "/v2/nothing"),
    ("GET", "/healthcheck"),
    ("GET", "/resolve/no-id"),
    ("GET", f"/v2/images/{ABSENT}"),
    ("DELETE", f"/v2/images/{ABSENT}"),
    ("PUT", f"/v2/images/{ABSENT}/file"),
    ("GET", f"{IMAGE}/../{ABSENT}"),
    ("PUT", "/locations/evil"),
]


async def test_what_the_gateway_answers_is_passed_on_as_it_is(endpoint: Endpoint) -> None:
    headers = {"Host": "images.example", "X-Openstack-Request-Id": f"req-{ID}"}
    for method, target in ANSWERED_BY_THE_GATEWAY:
        body = b"x" * 10_000 if method == "PUT" else None
        carried, content = await endpoint.call(method, target, headers=headers, data=body)
        url = URL(endpoint.gateway.url + target, encoded=True)
        async with endpoint.http.request(
            method, url, allow_redirects=False, headers=headers, data=body
        ) as direct:
            assert (carried.status, content) == (direct.status, await direct.read()), target
        for name in ("Content-Type", "Allow", "Vary", "X-Openstack-Request-Id"):
            assert carried.headers.get(name) == direct.headers.get(name), name
    assert not endpoint.one.seen
    assert not endpoint.two.seen


async def test_an_unknown_image_is_503_with_retry_after_and_the_silent_locations(
    endpoint: Endpoint,
) -> None:
    await endpoint.gateway.location("silent", covered=False)
    for method in ("GET", "PUT"):
        response, content = await endpoint.call(method, f"/v2/images/{ABSENT}/file")
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert b"silent: " in content


async def test_errors_of_glance_are_passed_on(endpoint: Endpoint) -> None:
    one = endpoint.one
    for status in (400, 401, 403, 404, 409, 413, 500, 503):
        one.status, one.headers = status, {"Retry-After": "7", "WWW-Authenticate": "Keystone"}
        response, content = await endpoint.call("PUT", FILE, data=b"x")
        assert (response.status, content) == (status, b"bytes of an image")
        assert response.headers["Retry-After"] == "7"
        assert response.headers["WWW-Authenticate"] == "Keystone"
    assert len(one.seen) == 8, "each was sent once"


async def test_a_new_images_location_is_at_this_endpoint(endpoint: Endpoint) -> None:
    endpoint.one.status, endpoint.two.status = 201, 201
    endpoint.one.headers = {"Location": f"http://127.0.0.1:{endpoint.one.port}{IMAGE}"}
    endpoint.two.headers = {"Location": f"https://two.test:{endpoint.two.port}/image{IMAGE}"}
    for region in ("one", "two"):
        response, _ = await endpoint.call("POST", f"/region/{region}/v2/images", json={})
        assert response.headers["Location"] == IMAGE


async def test_a_client_cannot_choose_the_server(endpoint: Endpoint) -> None:
    """Neither by what the gateway's answer has, nor by what proxies say, nor by the target."""
    async with Recorder().serving() as evil:
        url = f"http://127.0.0.1:{evil.port}"
        forged = {
            **dict.fromkeys(("X-Resolver-Url", "X-Resolver-Base", "X-Owner-Url", "Location"), url),
            **dict.fromkeys(("X-Forwarded-Host", "X-Original-Url", "X-Rewrite-Url"), url),
            "Host": f"127.0.0.1:{evil.port}",
            "X-Forwarded-Method": "DELETE",
            "X-Resolver-Location": "evil",
        }
        for target in (FILE, f"/v2/images/{ABSENT}/file", "/v2/images", "/.route", f"{url}{FILE}"):
            for method in ("PUT", "GET", "POST"):
                text = "".join(f"{name}: {value}\r\n" for name, value in forged.items())
                text += "Connection: close\r\nContent-Length: 0\r\n"
                await exchange(endpoint.carrier.port, f"{method} {target} HTTP/1.1\r\n{text}\r\n")
        text = f"CONNECT 127.0.0.1:{evil.port} HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        await exchange(endpoint.carrier.port, text)
        assert not evil.seen
    assert endpoint.one.seen
    assert {seen.method for seen in endpoint.one.seen} == {"PUT", "GET", "POST"}


async def test_other_credentials_and_cookies_are_not_passed_on(endpoint: Endpoint) -> None:
    fields = {"Authorization": "Bearer an-operators", "Cookie": "a=b", "X-Auth-Token": "t0ken"}
    await endpoint.call("GET", IMAGE, headers=fields)
    (seen,) = endpoint.one.seen
    assert seen.headers["X-Auth-Token"] == "t0ken"
    assert "Authorization" not in seen.headers
    assert "Cookie" not in seen.headers
    assert seen.headers["X-Forwarded-For"] == "127.0.0.1"


async def test_a_forged_client_address_chooses_no_region(endpoint: Endpoint) -> None:
    await endpoint.gateway.services.registry.patch("two", {"networks": ["10.9.0.0/16"]})
    await endpoint.call("GET", IMAGE, headers={"X-Forwarded-For": "10.9.1.1"})
    (seen,) = endpoint.one.seen
    assert seen.headers["X-Forwarded-For"] == "127.0.0.1"


async def test_an_endpoint_that_is_its_own_location_ends_the_loop(endpoint: Endpoint) -> None:
    await endpoint.gateway.location("self", url=endpoint.carrier.url, priority=0, region="self")
    await endpoint.gateway.claim("self", ID)
    for method in ("GET", "PUT"):
        response, content = await endpoint.call(method, f"/region/self{FILE}")
        assert response.status == 508
        assert b"glance-resolver" in content


async def test_a_certificate_for_another_name_is_refused(endpoint: Endpoint) -> None:
    for name in ("other.test", "127.0.0.1"):
        url = f"https://{name}:{endpoint.two.port}/image"
        await endpoint.gateway.services.registry.patch("two", {"url": url})
        await endpoint.gateway.claim("two", ID)
        response, _ = await endpoint.call("PUT", f"/region/two{FILE}", data=b"secret")
        assert response.status in (502, 503)
    assert not endpoint.two.seen


async def test_a_server_that_is_gone_is_a_5xx(endpoint: Endpoint) -> None:
    await endpoint.gateway.location("gone", url="http://127.0.0.1:1", region="gone")
    await endpoint.gateway.claim("gone", ID)
    response, _ = await endpoint.call("PUT", f"/region/gone{FILE}", data=b"x")
    assert response.status in (502, 503)
    assert not endpoint.one.seen, "an upload is sent once, to one server"


async def test_bytes_are_streamed(endpoint: Endpoint) -> None:
    """The server has the first bytes while the client still keeps the last ones."""
    parts = [b"a" * MEGABYTE, b"b" * MEGABYTE, b"c" * MEGABYTE]

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
            async with asyncio.timeout(30):
                await endpoint.one.first_bytes.wait()

    response, _ = await endpoint.call("PUT", FILE, data=body())
    assert response.status == 200
    (seen,) = endpoint.one.seen
    assert seen.size == 3 * MEGABYTE
    assert seen.digest == hashlib.sha256(b"".join(parts)).hexdigest()


async def test_an_upload_for_an_absent_image_is_refused_at_once(endpoint: Endpoint) -> None:
    """The client learns it before it has sent everything."""
    async with connected(endpoint.carrier.url) as connection:
        connection.send_request("PUT", f"/v2/images/{ABSENT}/file", "Content-Length: 9999999")
        await connection.send(b"x" * 1000)
        response = await connection.response()
    assert response.status == 404
    assert ABSENT in response.text


@pytest.mark.parametrize("image", [ID, ABSENT])
async def test_a_request_in_the_body_of_another_is_not_answered(
    endpoint: Endpoint, image: str
) -> None:
    hidden = "DELETE /v2/images HTTP/1.1\r\nHost: hidden\r\n\r\n"
    head = f"PUT /v2/images/{image}/file HTTP/1.1\r\nHost: a\r\n"
    chunk = f"{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n"
    bodies = [
        f"Content-Length: {len(hidden)}\r\n\r\n{hidden}",
        f"Transfer-Encoding: chunked\r\n\r\n{chunk}",
        f"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}",
        f"Content-Length: {len(chunk)}\r\nTransfer-Encoding: x\r\n\r\n{chunk}",
        f"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n{hidden}",
    ]
    following = f"GET {IMAGE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for body in bodies:
        await exchange(endpoint.carrier.port, f"{head}{body}{following}")
    methods = {seen.method for seen in endpoint.one.seen}
    assert methods <= {"PUT", "GET"}
    assert "PUT" in methods or image == ABSENT
    for seen in endpoint.one.seen:
        assert seen.headers["Host"] != "hidden"
        assert seen.size in (0, len(hidden))


@pytest.mark.parametrize("kind", CARRIERS, ids=lambda kind: kind.name)
async def test_without_a_gateway_nothing_is_sent_anywhere(kind: type[Carrier]) -> None:
    with closing(started(kind(free_port()))) as carrier:
        async with aiohttp.ClientSession(carrier.url) as http:
            for method, target in (("GET", IMAGE), ("PUT", FILE), ("GET", "/")):
                body = b"x" * 100_000 if method == "PUT" else None
                async with http.request(method, target, data=body) as response:
                    assert response.status in (502, 503)


@pytest.mark.parametrize("kind", CARRIERS, ids=lambda kind: kind.name)
async def test_gateways_with_a_certificate_are_asked_by_its_name(
    kind: type[Carrier], start: Start, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("gateway.test")
    gateway = await start(tls_cert=str(files.cert), tls_key=str(files.key))
    port = int(gateway.url.rpartition(":")[2])
    async with Recorder().serving() as one:
        await gateway.location("one", url=f"http://127.0.0.1:{one.port}")
        await gateway.claim("one", ID)
        for name, expected in (("gateway.test", {200}), ("other.test", {502, 503})):
            carrier = kind(port, authority=str(authority.file), gateway_name=name)
            with closing(started(carrier)):
                async with aiohttp.ClientSession(carrier.url) as http:
                    for target in (FILE, f"/resolve/{ID}"):
                        async with http.get(target) as response:
                            assert response.status in expected, (name, target)
        assert [seen.target for seen in one.seen] == [FILE]


@pytest.mark.parametrize("kind", CARRIERS, ids=lambda kind: kind.name)
async def test_a_gateway_that_stops_loses_no_request(kind: type[Carrier], start: Start) -> None:
    gateway = await start()
    async with Recorder().serving() as one:
        await gateway.location("one", url=f"http://127.0.0.1:{one.port}")
        await gateway.claim("one", ID)
        port = int(gateway.url.rpartition(":")[2])
        with closing(started(kind(port, stopped_port=free_port()))) as carrier:
            async with aiohttp.ClientSession(carrier.url) as http:
                for _ in range(4):
                    for target, expected in ((FILE, 200), (f"/resolve/{ID}", 200), ("/v2/x", 404)):
                        async with http.get(target, allow_redirects=False) as response:
                            assert response.status == expected, target
