"""What of a client chooses among owners: its network, and whether it uses https."""

from __future__ import annotations

from typing import Any

import pytest

from resolver.image_facts import ImageStatus
from resolver.resolution import TemplateCache
from tests.gateway.bridged_requests import BridgedRequests, bridged
from tests.gateway.conftest import ADMIN, V1, V2, Gateway, Start
from tests.support.contents import ONE
from tests.support.http_connection import Response, connected
from tests.support.objects import all_instances

__all__ = ["bridged"]

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
PATH = f"/v2/images/{ID}"
NORTH, SOUTH, ELSEWHERE = "10.1.2.3", "2001:db8:2::1", "192.0.2.1"


async def two_regions(gateway: Gateway) -> None:
    """An image in two regions with networks; the north comes first for all others."""
    await gateway.location("north", region="north", networks=["10.1.0.0/16"], priority=1)
    await gateway.location("south", region="south", networks=["2001:db8:2::/48"], priority=2)
    for name in ("north", "south"):
        await gateway.claim(name, ID)


@pytest.fixture
async def behind_proxy(start: Start) -> Gateway:
    """A gateway whose clients come over a proxy on this host."""
    gateway = await start(trusted_proxies="127.0.0.1")
    await two_regions(gateway)
    return gateway


def owner(response: Response) -> str:
    """The location that a redirect leads to."""
    line = next(line for line in response.head.splitlines() if line.startswith("Location: "))
    return line.partition("//")[2].partition(".")[0]


@pytest.mark.parametrize("path", [PATH, f"{PATH}/file", f"{PATH}?x=1", f"/v1/images/{ID}"])
async def test_the_region_of_the_clients_network_is_preferred(
    behind_proxy: Gateway, bridged: BridgedRequests, path: str
) -> None:
    async with connected(behind_proxy.url) as connection:
        for _ in range(3):
            for address, name in ((SOUTH, "south"), (NORTH, "north"), (ELSEWHERE, "north")):
                response = await connection.ask("GET", path, f"X-Forwarded-For: {address}")
                assert owner(response) == name
    assert bridged.count == 0


async def test_every_kind_of_answer_follows_the_network(behind_proxy: Gateway) -> None:
    gateway, headers = behind_proxy, {"X-Forwarded-For": f"6.6.6.6, {SOUTH}"}
    for _ in range(2):
        _, body = await gateway.get(f"/resolve/{ID}", headers=headers)
        assert [found["location"] for found in body["owners"]] == ["south", "north"]
    _, body = await gateway.call("POST", "/resolve", data=ID, headers=headers)
    assert body[0]["owners"][0]["location"] == "south"
    response, _ = await gateway.get("/v2/schemas/image", headers=headers)
    assert response.headers["Location"] == "https://south.example:9292/v2/schemas/image"
    response, body = await gateway.call("DELETE", PATH, headers=headers)
    assert body["url"] == f"https://south.example:9292{PATH}"
    _, body = await gateway.get(f"/resolve/{ID}/explain", headers=headers)
    reasons = {row["location"]: row["reasons"] for row in body["locations"]}
    assert "in the region of the client's network south" in reasons["south"]
    assert "not in the region of the client's network south" in reasons["north"]


async def test_a_region_in_the_request_overrides_the_network(behind_proxy: Gateway) -> None:
    async with connected(behind_proxy.url) as connection:
        field = f"X-Forwarded-For: {SOUTH}"
        for _ in range(2):
            assert owner(await connection.ask("GET", f"/region/north{PATH}", field)) == "north"
            response = await connection.ask("GET", PATH, field, "X-Resolver-Region: north")
            assert owner(response) == "north"


async def test_only_trusted_proxies_name_the_client(start: Start) -> None:
    gateway = await start()
    await two_regions(gateway)
    await gateway.location("local", region="local", networks=["127.0.0.0/8"], priority=9)
    await gateway.claim("local", ID)
    async with connected(gateway.url) as connection:
        for _ in range(2):
            response = await connection.ask("GET", PATH, f"X-Forwarded-For: {SOUTH}")
            assert owner(response) == "local", "the address of the connection counts"


async def test_the_home_region_comes_after_the_network(start: Start) -> None:
    gateway = await start(trusted_proxies="127.0.0.1", region="north")
    await two_regions(gateway)
    async with connected(gateway.url) as connection:
        for _ in range(2):
            response = await connection.ask("GET", PATH, f"X-Forwarded-For: {SOUTH}")
            assert owner(response) == "south"


async def test_templates_are_kept_by_region_not_by_client(behind_proxy: Gateway) -> None:
    async with connected(behind_proxy.url) as connection:
        for number in range(60):
            address = f"10.{number % 3}.0.{number}"
            response = await connection.ask("GET", PATH, f"X-Forwarded-For: {address}")
            assert response.status == 307
    newest = max(cache.context.table.version for cache in all_instances(TemplateCache))
    caches = [c for c in all_instances(TemplateCache) if c.context.table.version == newest]
    assert len(caches) == 2, "one for the north and one for clients from elsewhere"


async def test_a_change_of_the_networks_applies_at_once(behind_proxy: Gateway) -> None:
    gateway, field = behind_proxy, f"X-Forwarded-For: {ELSEWHERE}"
    async with connected(gateway.url) as connection:
        for _ in range(2):
            assert owner(await connection.ask("GET", PATH, field)) == "north"
        change = {"json": {"networks": ["192.0.2.0/24"]}, "headers": ADMIN}
        response, _ = await gateway.call("PATCH", "/locations/south", **change)
        assert response.status == 200
        for _ in range(2):
            assert owner(await connection.ask("GET", PATH, field)) == "south"


HTTPS = "X-Forwarded-Proto: https"


async def one_with_https(gateway: Gateway, **fields: Any) -> None:
    """The image at an owner with http, which comes first but for that, and at one with https."""
    await gateway.location("plain", url="http://plain.example:9292", priority=1, **fields)
    await gateway.location("secure", priority=9, state="draining")
    for name in ("plain", "secure", "plain"):  # of the only owner nobody needs to know the bytes
        await gateway.claim_with_facts(name, ID, ImageStatus.ACTIVE, ONE)


@pytest.mark.parametrize("path", [PATH, f"{PATH}/file", f"{PATH}?x=1"])
async def test_an_https_client_is_not_sent_to_http(start: Start, path: str) -> None:
    gateway = await start(trusted_proxies="127.0.0.1")
    await one_with_https(gateway)
    async with connected(gateway.url) as connection:
        for _ in range(3):
            response = await connection.ask("GET", path, HTTPS)
            assert f"Location: https://secure.example:9292{path}\r\n" in response.head
            assert "http://" not in response.head, "not in Link either"
            response = await connection.ask("GET", path)
            assert f"Location: http://plain.example:9292{path}\r\n" in response.head
            assert "<https://secure." in response.head
    _, body = await gateway.get(f"/resolve/{ID}", headers={"X-Forwarded-Proto": "https, http"})
    assert [found["location"] for found in body["owners"]] == ["secure", "plain"]
    headers = {"X-Forwarded-Proto": "https", "Accept": "application/metalink4+xml"}
    response, _ = await gateway.get(f"/resolve/{ID}", headers=headers)
    assert "http://plain" not in await response.text()
    response, _ = await gateway.get("/v2/tasks", headers={"X-Forwarded-Proto": "https"})
    assert response.headers["Location"] == "https://secure.example:9292/v2/tasks"


async def test_an_owner_with_http_is_offered_where_no_other_is_usable(start: Start) -> None:
    gateway = await start(trusted_proxies="127.0.0.1")
    await gateway.location("plain", url="http://plain.example:9292")
    await gateway.location("secure")
    await gateway.claim_with_facts("plain", ID, ImageStatus.ACTIVE)
    await gateway.claim_with_facts("secure", ID, ImageStatus.PENDING)
    async with connected(gateway.url) as connection:
        for path in (PATH, f"{PATH}/file"):
            for _ in range(2):
                assert owner(await connection.ask("GET", path, HTTPS)) == "plain"


async def test_an_https_client_is_sent_to_another_api_rather_than_to_http(start: Start) -> None:
    gateway = await start(trusted_proxies="127.0.0.1")
    await gateway.location("plain", url="http://plain.example:9292", versions=V2)
    await gateway.location("secure", versions=V1)
    for name in ("plain", "secure"):
        await gateway.claim(name, ID)
    async with connected(gateway.url) as connection:
        response = await connection.ask("GET", f"{PATH}/file", HTTPS)
        assert f"Location: https://secure.example:9292/v1/images/{ID}\r\n" in response.head


@pytest.mark.parametrize(
    ("settings", "fields", "is_https"),
    [
        ({}, [HTTPS], False),  # the client itself cannot say so
        ({"trusted_proxies": "127.0.0.1"}, ["X-Forwarded-Proto: http"], False),
        ({"trusted_proxies": "127.0.0.1"}, ["X-Forwarded-Proto: HTTPS"], True),
        ({"public_url": "https://images.example", "hosts": "gateway"}, [], True),
        ({"public_url": "http://images.example", "hosts": "gateway"}, [], False),
    ],
)
async def test_clients_with_https_are_recognized(
    start: Start, settings: dict[str, str], fields: list[str], is_https: bool
) -> None:
    gateway = await start(**settings)
    await one_with_https(gateway)
    async with connected(gateway.url) as connection:
        for _ in range(2):
            response = await connection.ask("GET", PATH, *fields)
            assert owner(response) == ("secure" if is_https else "plain")


async def test_clients_are_sent_to_the_public_url(gateway: Gateway) -> None:
    public = "https://images.example/one"
    await gateway.location("one", url="http://10.0.0.1:9292", public_url=public, versions=V1 + V2)
    await gateway.claim("one", ID)
    for path in (PATH, f"{PATH}/file?x=1", f"/v1/images/{ID}", "/v2/info/import"):
        for _ in range(2):
            response, _ = await gateway.get(path)
            assert response.headers["Location"] == public + path
    _, body = await gateway.call("PUT", f"{PATH}/file")
    assert body["url"] == f"{public}{PATH}/file"
    _, body = await gateway.get(f"/resolve/{ID}")
    assert body["uri"] == body["url"] == f"{public}/v1/images/{ID}"
    response, _ = await gateway.get(f"/resolve/{ID}", headers={"Accept": "text/uri-list"})
    assert await response.text() == f"{public}/v1/images/{ID}\r\n"
    assert "10.0.0.1" not in str(body)
