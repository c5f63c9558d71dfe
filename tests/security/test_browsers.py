"""A web page cannot use a reader's browser to reach what only the reader can reach."""

from __future__ import annotations

from typing import Any

import pytest

from resolver.gateway.browser_guard import HEALTH_PATHS
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.security.test_hostile import answer
from tests.security.test_smuggling import port_of

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
PATHS = [
    *(f"/v2/images/{ID}", f"/resolve/{ID}", f"/resolve/{ID}/explain", "/versions", "/", "/v2"),
    *("/index", "/metrics", "/status", "/openapi.json", "/locations", "/nowhere", "/v2/images"),
]
OURS = [
    "images.example",
    "images.example:8443",
    "IMAGES.example.",
    "gw.svc.local",
    "a.gw.svc.local",
]
OURS += [
    "127.0.0.1",
    "127.0.0.1:9393",
    "[::1]:9393",
    "localhost:1",
    "gateway-1:9393",
    "10.1.2.3",
    "[fd00::1]",
]
OTHERS = ["rebind.evil.example", "images.example.evil.example", "evil.example:9393"]
OTHERS += ["localhost.evil.example", "127.0.0.1.evil.example", "images.example@evil.example"]
OTHERS += ["1.evil.example:x", "[::1", "svc.local", "a b"]


@pytest.fixture
async def named(start: Start) -> Gateway:
    hosts = "gw.svc.local,*.gw.svc.local"
    gateway = await start(public_url="https://images.example:8443", hosts=hosts)
    await gateway.location("one")
    await gateway.claim("one", ID)
    return gateway


async def status_of(gateway: Gateway, method: str, path: str, **fields: str) -> int:
    response, _ = await gateway.call(method, path, headers=fields)
    return int(response.status)


@pytest.mark.parametrize("path", PATHS)
async def test_another_host_is_misdirected(named: Gateway, path: str) -> None:
    usual = await status_of(named, "GET", path)
    assert usual != 421
    for host in OTHERS:
        for _ in range(2):  # the second might be a read that is known
            response, body = await named.get(path, headers={"Host": host})
            assert response.status in (400, 421), host
            assert "Location" not in response.headers
            assert ID not in str(body)
    for host in OURS:
        assert await status_of(named, "GET", path, Host=host) == usual, host


async def test_health_is_answered_to_any_host(named: Gateway) -> None:
    for path in HEALTH_PATHS:
        assert await status_of(named, "GET", path, Host="rebind.evil.example") == 200


async def test_the_host_of_an_absolute_target_counts(named: Gateway) -> None:
    for target in ("http://evil.example/versions", f"http://evil.example/v2/images/{ID}"):
        text = f"GET {target} HTTP/1.1\r\nHost: images.example\r\nConnection: close\r\n\r\n"
        reply = await answer(port_of(named), text.encode())
        assert reply.startswith("HTTP/1.1 4")
        assert "evil.example" not in reply


async def test_a_request_without_a_host_is_answered(named: Gateway) -> None:
    text = f"GET /v2/images/{ID} HTTP/1.0\r\n\r\n"
    assert " 307 " in (await answer(port_of(named), text.encode())).partition("\r\n")[0]


async def test_a_known_read_of_our_host_is_not_known_for_another(named: Gateway) -> None:
    path = f"/v2/images/{ID}"
    for _ in range(3):
        assert await status_of(named, "GET", path, Host="images.example") == 307
        assert await status_of(named, "GET", path, Host="evil.example") == 421


async def test_without_a_name_every_host_is_answered(start: Start) -> None:
    gateway = await start()
    assert await status_of(gateway, "GET", "/versions", Host="anything.example") == 200


async def test_the_management_port_is_guarded_too(start: Start) -> None:
    gateway = await start(role="indexer", hosts="gw.example")
    assert await status_of(gateway, "GET", "/metrics", Host="evil.example") == 421
    assert await status_of(gateway, "GET", "/metrics", Host="gw.example") == 200


CROSS_SITE: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "Cross-Site", "Origin": "https://images.example:8443"},
    {"Origin": "https://evil.example"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-site"},
    {"Origin": "null"},
    {"Origin": "https://images.example:8443.evil.example"},
]
OWN: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://images.example:8443"},
    {"Origin": "https://images.example:8443", "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://proxy.example", "Sec-Fetch-Site": "same-origin"},
]


@pytest.mark.parametrize("fields", CROSS_SITE)
async def test_cross_site_requests_are_refused_unless_they_read(
    named: Gateway, fields: dict[str, str]
) -> None:
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/resolve", ID),
        ("POST", "/index/import", "x"),
        ("PUT", "/locations/one", "{}"),
        ("DELETE", "/locations/one", None),
    ]
    for method, path, data in requests:
        headers = {**ADMIN, "Content-Type": "text/plain", **fields}
        response, body = await named.call(method, path, headers=headers, data=data)
        assert (response.status, body["code"]) == (403, "cross-site"), path
    assert (await named.get(f"/v2/images/{ID}", headers=fields))[0].status == 307
    assert list((await named.services.index.records.load()).records) == ["one"]


@pytest.mark.parametrize("fields", OWN)
async def test_other_requests_are_answered(named: Gateway, fields: dict[str, str]) -> None:
    response, rows = await named.call("POST", "/resolve", headers=fields, json=[ID])
    assert (response.status, rows[0]["outcome"]) == (200, "found")


async def test_a_page_of_the_gateway_itself_needs_no_name(start: Start) -> None:
    gateway = await start()
    fields = {"Origin": gateway.url}
    assert (await gateway.call("POST", "/resolve", headers=fields, json=[ID]))[0].status == 200
    fields = {"Origin": "https://evil.example"}
    assert (await gateway.call("POST", "/resolve", headers=fields, json=[ID]))[0].status == 403
