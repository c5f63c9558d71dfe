"""The application without the front, under aiohttp's own runner, compared with the gateway."""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from resolver.gateway.app import gateway_routes, make_app, monitoring_routes
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.gateway.random_locations import register_random_locations
from tests.support.http_connection import connected

PARAMETER = re.compile(r"\{(\w+)[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
"""A parameter in the path of a route, with its pattern."""

HEADERS = [
    (),
    ("Accept: text/uri-list",),
    ("Accept: application/json;q=0.1, text/uri-list;q=0.5",),
    ("Accept: image/png",),
    ("Accept: */*", "User-Agent: curl/7.88.1"),
    ("Accept: application/json",),
    ("Accept: application/problem+json, */*;q=0.1",),
    ("Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",),
    ("X-Resolver-Region: north",),
    ("x-resolver-exclude: l0, l1",),
    ("X-Resolver-Fresh: 1",),
    ("X-Resolver-Fresh: maybe",),
    ("X-Resolver-Hop: 1",),
    ("X-Forwarded-For: 10.1.2.3", "X-Forwarded-Proto: https"),
    ("X-Forwarded-For: 10.1.2.3, 192.0.2.1",),
    ("X-Auth-Token:   padded  ", "Accept-Encoding: gzip", "Cookie: a=b"),
]


@asynccontextmanager
async def plain_server(gateway: Gateway) -> AsyncIterator[str]:
    """The same services under a runner of aiohttp with default options."""
    runner = web.AppRunner(make_app(gateway.services))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def exchange(url: str, *pieces: bytes) -> str:
    """Everything that a server sends until it closes the connection."""
    async with connected(url) as connection:
        for piece in pieces:
            await connection.send(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0)
        return (await connection.read_to_end()).decode()


def comparable(responses: str) -> str:
    """Responses without the parts that change with time."""
    responses = re.sub(r'"source": "(index|cache)", "age": [0-9.]+', '"source": …', responses)
    responses = re.sub(r"up to \d+ s ago", "up to … s ago", responses)
    responses = re.sub(r"(?m)^Content-Length: (?!0\r).*$", "Content-Length: …", responses)
    return re.sub(r"(?m)^(Date|X-Openstack-Request-Id): .*$", r"\1: …", responses)


async def prepared(start: Start, rng: random.Random) -> tuple[Gateway, list[str]]:
    """A gateway with random locations, and paths of all kinds."""
    gateway = await start(
        region=rng.choice(["", "north"]),
        public_url=rng.choice(["https://gateway.example", "http://gateway.example"]),
        hosts="gateway",
        index_timeout=10,  # a busy machine changes no answer
        trusted_proxies="127.0.0.1",
    )
    ids = await register_random_locations(gateway, rng, 4)
    forms = ["/v1/images/%s", "/v2/images/%s", "/v2/images/%s/file", "/v1/images/%s/file?a=b"]
    forms += ["/v2/images/%s/members/x", "/v2/images/%s/%%2e%%2e/x", "/resolve/%s", "/resolve/%s?"]
    forms += ["/resolve/%s?region=north&exclude=l0", "/resolve/%s?fresh=1", "/resolve/%s?what=1"]
    paths = [form % text for form in forms for text in (*ids, ids[1].upper(), "no-uuid")]
    paths += [f"/resolve/{ids[1].replace('-', '')}", f"/resolve/urn%3Auuid%3A{ids[1]}"]
    others = ["/", "/versions", "/v1", "/v2/", "/v3", "/v1/images/detail", "/v2/none"]
    others += ["/v2/schemas/image?a=b", "/v2/info/stores", "/v2/tasks", "/v2/schemasx", "/v2/info/"]
    others += ["/v2/metadefs/x/%2e%2e", "/v2/metadefs/%C3%A9", "/v1/schemas/image"]
    prefixes = ("/region/north", "/region/no%20where", "/region/%2e%2e", "/region//north")
    paths += [prefix + path for prefix in prefixes for path in rng.sample([*paths, *others], 9)]
    pinned = ["/region/north", "/region/north/", "/region/north/versions", "/region", "/region/"]
    return gateway, [*paths, *others, *pinned, "/healthcheck", "/livez"]


@pytest.mark.parametrize("seed", range(6))
async def test_front_and_application_send_the_same_bytes(start: Start, seed: int) -> None:
    rng = random.Random(seed)
    gateway, paths = await prepared(start, rng)
    async with plain_server(gateway) as plain:
        for path in paths:
            for _ in range(4):
                method = rng.choice(["GET", "GET", "HEAD"])
                version = rng.choice(["1.1", "1.1", "1.0"])
                lines = [f"{method} {path} HTTP/{version}", "Host: gateway"]
                lines += [*rng.choice(HEADERS), "Connection: close", "", ""]
                request = "\r\n".join(lines).encode()
                answers = [comparable(await exchange(url, request)) for url in (gateway.url, plain)]
                assert answers[0] == answers[1], request


async def test_front_and_application_answer_pipelined_requests_alike(start: Start) -> None:
    rng = random.Random(7)
    gateway, paths = await prepared(start, rng)
    sample = rng.sample(paths, 20)
    requests = [f"GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n" for path in sample]
    requests.append("GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
    together = "".join(requests).encode()
    async with plain_server(gateway) as plain:
        expected = comparable(await exchange(plain, together))
        assert comparable(await exchange(gateway.url, together)) == expected
        cuts = sorted(rng.sample(range(len(together)), 40))
        pieces = [together[a:b] for a, b in zip([0, *cuts], [*cuts, len(together)], strict=True)]
        assert comparable(await exchange(gateway.url, *pieces)) == expected


async def test_a_request_may_be_split_at_every_byte(gateway: Gateway) -> None:
    await gateway.location("one")
    text = str(uuid.UUID(int=5 << 64))
    await gateway.claim("one", text)
    request = f"GET /v2/images/{text} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n".encode()
    expected = comparable(await exchange(gateway.url, request))
    assert expected.startswith("HTTP/1.1 307 ")
    for cut in range(1, len(request)):
        assert comparable(await exchange(gateway.url, request[:cut], request[cut:])) == expected


async def test_every_route_works_without_the_front(gateway: Gateway) -> None:
    """Under aiohttp's test client. A handler that needs the front would answer 500."""
    await gateway.location("one")
    text = str(uuid.UUID(int=6 << 64))
    await gateway.claim("one", text)
    values = {"api": "v2", "id": text, "rest": "", "name": "one", "path": "x"}
    values |= {"region": "north", "file": "status.css"}
    async with TestClient(TestServer(make_app(gateway.services))) as client:
        for route in [*monitoring_routes(), *gateway_routes()]:
            path = PARAMETER.sub(lambda m: values[m[1]], route.path)
            method = "PATCH" if route.method == "*" else route.method
            if method == "DELETE" and path == "/locations/one":
                continue  # tested last, below
            async with client.request(
                method, path, headers=ADMIN, json={}, allow_redirects=False
            ) as response:
                assert response.status != 500, f"{method} {path}: {await response.text()}"
                assert response.status != 404 or "images" in path, f"{method} {path}"
                assert "X-Openstack-Request-Id" in response.headers
        async with client.delete("/locations/one", headers=ADMIN) as response:
            assert response.status in (200, 204)
