"""What the settings say of hosts and URLs holds for where clients are sent, however a location came
into the table."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest

from resolver.errors import InvalidLocation
from resolver.glance.host_policy import Address
from resolver.index import Index, open_index
from resolver.models import Location, parse_id
from resolver.registry import Admission, FreshnessPolicy, TableKeeper
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
TOKEN = {"X-Auth-Token": "a-client's"}

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("http://evil.example:80", {"allowed_hosts": "*.cloud.example"}, "RESOLVER_ALLOWED_HOSTS"),
    ("https://evil.example", {"allowed_hosts": "*.cloud.example"}, "RESOLVER_ALLOWED_HOSTS"),
    ("https://192.0.2.7", {"allowed_hosts": "10.0.0.0/8"}, "RESOLVER_ALLOWED_HOSTS"),
    ("https://a.invalid", {"allowed_hosts": "10.0.0.0/8"}, "RESOLVER_ALLOWED_HOSTS"),
    ("https://[::ffff:127.0.0.1]", {"allowed_hosts": "10.0.0.0/8"}, "RESOLVER_ALLOWED_HOSTS"),
    ("http://one.cloud.example", {"require_https": True}, "RESOLVER_REQUIRE_HTTPS"),
    ("https://me.example/image", {"public_url": "https://Me.example"}, "this gateway"),
    ("https://one.example\r\nSet-Cookie: a=b", {}, "its URL"),
    ("javascript:alert(1)//", {}, "its URL"),
    ("//evil.example", {}, "its URL"),
    ("https://user:password@evil.example", {}, "its URL"),
    ("https://one.example/v2?x=", {}, "its URL"),
    ("https://one.example/" + "a" * 2000, {}, "its URL"),
    ("", {}, "its URL"),
]


async def write_location(index: Index, name: str, url: str, public_url: str = "") -> int:
    """Writes a location as another process, or an attacker who can write to Redis, does. It claims
    the image `ID`."""
    location = Location(name=name, url=url, public_url=public_url)
    location = await index.records.put(location, None)
    await index.claims.claim(location.number, [parse_id(ID)])
    return location.number


async def assert_not_offered(gateway: Gateway, reason: str) -> None:
    for path in (f"/v2/images/{ID}", f"/v1/images/{ID}", f"/v2/images/{ID}/file"):
        response, body = await gateway.get(path, headers=TOKEN)
        assert (response.status, body["code"]) == (503, "image-unknown"), path
        assert reason in body["detail"]
        assert "Location" not in response.headers
    response, _ = await gateway.get("/v2/schemas/image", headers=TOKEN)
    assert response.status == 503
    response, body = await gateway.get(f"/resolve/{ID}")
    assert (response.status, body["owners"], body["url"]) == (503, [], None)
    _, rows = await gateway.call("POST", "/resolve", json=[ID])
    assert (rows[0]["outcome"], rows[0]["owners"]) == ("unknown", [])
    _, explained = await gateway.get(f"/resolve/{ID}/explain")
    assert reason in str(explained["locations"][0]["reasons"])


@pytest.mark.parametrize(("url", "settings", "reason"), REFUSED)
async def test_no_client_is_sent_to_a_location_that_the_settings_refuse(
    start: Start, url: str, settings: dict[str, Any], reason: str
) -> None:
    gateway = await start(**settings)
    await write_location(gateway.services.index, "evil", url)
    await assert_not_offered(gateway, reason)
    _, status = await gateway.get("/status")
    (problem,) = (row for row in status["problems"] if row["code"] == "location-refused")
    assert problem["location"] == "evil"
    assert reason in problem["text"]
    async with gateway.http.get("/metrics") as response:
        assert 'glance_resolver_location_not_offered{location="evil"} 1.0' in await response.text()
    _, shown = await gateway.get("/locations/evil", headers=ADMIN)
    assert reason in shown["refused"]
    assert shown["state"] == "active"


@pytest.mark.parametrize(("url", "settings", "reason"), [case for case in REFUSED if case[1]])
async def test_no_client_is_sent_to_a_public_url_that_the_settings_refuse(
    start: Start, url: str, settings: dict[str, Any], reason: str
) -> None:
    gateway = await start(**settings)
    await write_location(gateway.services.index, "evil", "https://one.cloud.example", url)
    await assert_not_offered(gateway, reason)


@pytest.mark.redis
async def test_a_location_is_refused_from_the_start_with_stricter_settings(
    start: Start, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_index(redis_url) as before:
        await write_location(before, "evil", "http://evil.example:80")
        await write_location(before, "good", "https://a.cloud.example")
    lax = await start(redis_url=redis_url)
    assert (await lax.get(f"/v2/images/{ID}"))[0].status == 307
    strict = await start(
        redis_url=redis_url, allowed_hosts="*.cloud.example,10.0.0.0/8", require_https=True
    )
    for path in (f"/v2/images/{ID}", "/v2/schemas/image"):
        response, _ = await strict.get(path, headers=TOKEN)
        assert response.headers["Location"].startswith("https://a.cloud.example/"), path
        assert "evil" not in response.headers.get("Link", "")
    assert "location not offered" in caplog.text
    assert "evil" in caplog.text
    caplog.set_level("INFO")
    await strict.services.registry.remove("evil")
    await wait_until(lambda: "evil" not in strict.services.tables.table.by_name)
    assert "offered again" not in caplog.text


async def test_a_location_is_offered_again_when_its_url_is_allowed(start: Start) -> None:
    gateway = await start(allowed_hosts="*.cloud.example")
    await write_location(gateway.services.index, "one", "https://evil.example")
    await assert_not_offered(gateway, "RESOLVER_ALLOWED_HOSTS")
    response, body = await gateway.call(
        "PATCH", "/locations/one", headers=ADMIN, json={"url": "https://one.cloud.example"}
    )
    assert (response.status, body["refused"]) == (200, None)
    await gateway.claim("one", ID)
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert response.headers["Location"] == f"https://one.cloud.example/v2/images/{ID}"
    _, status = await gateway.get("/status")
    assert "location-refused" not in {row["code"] for row in status["problems"]}


class Names:
    """Host names with addresses that a test sets; a name without one cannot be looked up."""

    def __init__(self, **addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0

    async def __call__(self, host: str) -> Sequence[Address]:
        self.asked += 1
        if host not in self.addresses:
            raise InvalidLocation(f"host {host} cannot be looked up")
        return [ipaddress.ip_address(self.addresses[host])]


async def test_a_name_that_only_a_network_allows_is_looked_up(index: Index) -> None:
    names = Names(**{"in.example": "10.1.2.3", "out.example": "192.0.2.1"})
    tables = TableKeeper(
        index, FreshnessPolicy(60), admission=Admission(["10.0.0.0/8"], lookup=names)
    )
    for name in ("in", "out", "gone"):
        await write_location(index, name, f"https://{name}.example")
    await tables.current()
    assert set(tables.table.not_offered()) == {"in", "out", "gone"}, "not looked up yet"
    await tables.look_up_hosts()
    assert set(tables.table.not_offered()) == {"out", "gone"}
    asked = names.asked
    await tables.look_up_hosts()
    assert names.asked == asked, "they were looked up a moment ago"


async def test_without_rules_about_networks_nothing_is_looked_up(index: Index) -> None:
    names = Names()
    tables = TableKeeper(
        index, FreshnessPolicy(60), admission=Admission(["*.example"], lookup=names)
    )
    await write_location(index, "one", "https://one.example")
    await tables.current()
    await tables.look_up_hosts()
    await tables.watch_hosts()
    assert names.asked == 0
    assert tables.table.not_offered() == {}


async def test_a_server_looks_new_hosts_up_by_itself(start: Start) -> None:
    gateway = await start(allowed_hosts="127.0.0.0/8,::1")
    number = await write_location(gateway.services.index, "one", "http://localhost:9")

    async def is_offered() -> bool:
        return (await gateway.get(f"/v2/images/{ID}"))[0].status == 307

    await wait_until(is_offered, message="localhost is looked up")
    assert number
