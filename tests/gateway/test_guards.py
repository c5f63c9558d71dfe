"""Which hosts a location may not have: forbidden ones, this gateway, and other resolvers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.errors import LocationUnavailable
from resolver.glance import HOP, GlanceServer, connect, is_resolver
from resolver.glance.glance_server import MAX_STATUS_BODY_BYTES
from resolver.glance.host_policy import HostPolicy, parse_address
from resolver.models import Location
from resolver.standin import StandIn
from tests.gateway.conftest import ADMIN, Start
from tests.support.faults import Switch
from tests.support.wait import wait_until


class FakeDns:
    """A resolver of host names whose addresses a test can set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: dict[str, str] = {}
        real = asyncio.BaseEventLoop.getaddrinfo

        async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
            if host in self.addresses:
                host = self.addresses[host]
            return await real(loop, host, port, **options)

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> FakeDns:
    return FakeDns(monkeypatch)


@pytest.mark.parametrize(
    ("rules", "host", "address", "allowed"),
    [
        ((), "any.test", "127.0.0.1", True),
        (("10.0.0.0/8",), "any.test", "10.1.2.3", True),
        (("10.0.0.0/8",), "any.test", "11.1.2.3", False),
        (("10.0.0.0/8",), "any.test", "::ffff:10.1.2.3", True),
        (("*.cloud.test",), "a.cloud.test", "11.1.2.3", True),
        (("*.cloud.test",), "A.Cloud.Test.", "192.168.1.1", True),
        (("*.cloud.test",), "cloud.test", "11.1.2.3", False),
        (("*.cloud.test",), "a.cloud.test", "169.254.169.254", False),
        (("*.cloud.test",), "a.cloud.test", "127.0.0.1", False),
        (("*.cloud.test",), "a.cloud.test", "::1", False),
        (("*.cloud.test",), "a.cloud.test", "fe80::1%eth0", False),
        (("*.cloud.test", "127.0.0.0/8"), "a.cloud.test", "127.0.0.1", True),
        (("localhost",), "localhost", "127.0.0.1", True),
        (("2001:db8::/32",), "a.test", "2001:db8::7", True),
    ],
)
def test_the_host_policy_allows_and_refuses_addresses(
    rules: tuple[str, ...], host: str, address: str, allowed: bool
) -> None:
    parsed = parse_address(address)
    assert parsed is not None
    assert HostPolicy(rules).allows(host, parsed) is allowed


async def request_result(url: str, *allowed: str, require_https: bool = False) -> str:
    """`ok`, or the error code of a request that was refused or failed."""
    async with connect(5, allowed_hosts=allowed, require_https=require_https) as session:
        try:
            await GlanceServer(session, Location(name="one", url=url)).versions()
        except LocationUnavailable as error:
            return error.problem_code
    return "ok"


async def test_the_host_policy_applies_to_each_connection(dns: FakeDns) -> None:
    async with StandIn() as server:
        assert await request_result(server.url, "127.0.0.0/8") == "ok"
        assert await request_result(server.url, "10.0.0.0/8") == "not-allowed"
        for spelling in ("localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]"):
            assert await request_result(f"http://{spelling}:{server.port}", "10.0.0.0/8") != "ok"
        dns.addresses["glance.cloud.test"] = "127.0.0.1"
        named = f"http://glance.cloud.test:{server.port}"
        assert await request_result(named, "*.cloud.test") == "not-allowed"
        assert await request_result(named, "*.cloud.test", "127.0.0.1") == "ok"
        assert await request_result(named, require_https=True) == "not-allowed"
        assert await request_result(server.url, require_https=True) == "ok", "loopback"


async def test_a_host_name_that_now_resolves_to_a_forbidden_address_gets_no_request(
    start: Start, dns: FakeDns
) -> None:
    """DNS rebinding: the address was allowed when the location was registered."""
    async with StandIn() as server:
        gateway = await start(allowed_hosts="10.0.0.0/8", role="all", health_interval=0.2)
        url = f"http://cloud.test:{server.port}"
        dns.addresses["cloud.test"] = "127.0.0.1"
        response, body = await gateway.call(
            "PUT", "/locations/one", headers=ADMIN, json={"url": url}
        )
        assert (response.status, "not allowed here" in body["detail"]) == (400, True)
        dns.addresses["cloud.test"] = "10.1.2.3"
        await gateway.services.registry.put("one", {"url": url})
        dns.addresses["cloud.test"] = "127.0.0.1"

        async def is_refused() -> bool:
            health = (await gateway.services.registry.show("one"))["health"]
            return "cloud.test at 127.0.0.1 is not allowed here" in health["reason"]

        await wait_until(is_refused, message="the health check is refused")
        assert sum(server.requests.values()) == 0


async def test_requests_of_a_resolver_are_refused_with_508(start: Start) -> None:
    gateway = await start()
    for path in ("/", "/versions", "/healthcheck", "/v2/images", "/locations"):
        response, body = await gateway.get(path, headers={HOP: "1", **ADMIN})
        assert (response.status, body["code"]) == (508, "loop")
        assert "register the servers behind it" in body["detail"]


async def test_another_resolver_is_refused_as_a_location(start: Start) -> None:
    one, two = await start(), await start(role="all", health_interval=0.2)
    response, body = await two.call("PUT", "/locations/one", headers=ADMIN, json={"url": one.url})
    assert response.status == 400
    assert "is a glance-resolver, this one or another" in body["detail"]
    async with StandIn() as server:
        put = await two.call("PUT", "/locations/one", headers=ADMIN, json={"url": server.url})
        assert put[0].status == 201
        response, _ = await two.call(
            "PATCH", "/locations/one", headers=ADMIN, json={"url": f"{one.url}/behind"}
        )
        assert response.status == 400
    # One that did not answer at registration is detected later, and its data is not used.
    await two.services.registry.put("unanswered", {"url": one.url})

    async def is_detected() -> bool:
        shown = await two.services.registry.show("unanswered")
        codes = shown["sweep"]["error_code"]
        return "it is a glance-resolver" in shown["health"]["reason"] and codes == "loop"

    await wait_until(is_detected, message="the resolver is detected")


async def test_this_gateway_is_refused_as_a_location_by_any_name(
    start: Start, dns: FakeDns
) -> None:
    gateway = await start(public_url="https://images.example")
    dns.addresses["alias.test"] = "127.0.0.1"
    url = f"http://alias.test:{gateway.url.rpartition(':')[2]}"
    assert await is_resolver(gateway.services.session, url)
    response, _ = await gateway.call("PUT", "/locations/one", headers=ADMIN, json={"url": url})
    assert response.status == 400


async def test_a_server_that_does_not_answer_can_be_registered(start: Start) -> None:
    gateway = await start()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        put = await gateway.call("PUT", "/locations/one", headers=ADMIN, json={"url": url})
    assert put[0].status == 201


async def test_a_response_longer_than_the_limit_is_not_read_to_its_end() -> None:
    async def endless(request: web.Request, _: Handler) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(4 * MAX_STATUS_BODY_BYTES // 65536):
            await response.write(b" " * 65536)
        return response

    switch = Switch()
    async with StandIn(middlewares=[switch.middleware]) as server:
        switch.fault = endless
        assert await request_result(server.url) == "too-long"


async def test_redirects_are_not_followed() -> None:
    async def redirect(_: web.Request, __: Handler) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"{other.url}/versions"})

    switch = Switch()
    async with StandIn() as other, StandIn(middlewares=[switch.middleware]) as server:
        switch.fault = redirect
        assert await request_result(server.url) == "not-glance"
        assert sum(other.requests.values()) == 0
