"""``/route/…``: where a proxy that carries requests is to send one."""

from __future__ import annotations

import pytest

from resolver.image_facts import ImageStatus
from tests.gateway.conftest import V1, Gateway, Start
from tests.support.clouds import cloud_of

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
UPPER = "0A1B2C3D-4E5F-4A6B-8C7D-9E0F1A2B3C4E"
ABSENT = "ffffffff-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
IMAGE = f"/v2/images/{ID}"
NORTH, SOUTH = "https://north.example:9292", "https://south.example:9292/image"


async def two_regions(gateway: Gateway) -> None:
    """An image at both, of which the north comes first for all who ask for no region."""
    await gateway.location("north", region="north", priority=1)
    await gateway.location("south", region="south", priority=2, url=SOUTH)
    for name in ("north", "south"):
        await gateway.claim(name, ID)


async def route(gateway: Gateway, method: str, target: str, **fields: str) -> str:
    """Where a request is to be sent; ``self`` for the gateway, else the URL."""
    headers = {"X-Forwarded-Method": method, **fields}
    response, body = await gateway.get(f"/route{target}", headers=headers)
    assert response.headers["Cache-Control"] == "no-store"
    if response.status == 403:
        assert body["code"] == "no-route"
        assert "X-Resolver-Url" not in response.headers
        return "self"
    assert response.status == 204
    url: str = response.headers["X-Resolver-Url"]
    assert url.startswith(response.headers["X-Resolver-Base"] + "/")
    return url


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{IMAGE}?a=b%2Fc"),
        ("GET", f"{IMAGE}/file"),
        ("PUT", f"{IMAGE}/file"),
        ("PUT", f"{IMAGE}/stage"),
        ("POST", f"{IMAGE}/import"),
        ("PATCH", IMAGE),
        ("DELETE", IMAGE),
        ("DELETE", f"{IMAGE}/tags/a%20b"),
        ("POST", "/v2/images"),
        ("POST", "/v2/tasks"),
        ("GET", "/v2/schemas/image"),
        ("GET", "/v2/info/import"),
        ("PUT", f"/v2/cache/{ID}"),
    ],
)
async def test_requests_of_glance_go_to_the_best_location(
    gateway: Gateway, method: str, path: str
) -> None:
    await two_regions(gateway)
    assert await route(gateway, method, path) == NORTH + path
    assert await route(gateway, method, f"/region/south{path}") == SOUTH + path
    assert await route(gateway, method, path, **{"X-Resolver-Region": "south"}) == SOUTH + path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/images?limit=1"),
        ("GET", "/v2/images/a-name"),
        ("PUT", "/v2/images/a-name/file"),
        ("GET", f"/v2/images/{ABSENT}"),
        ("PUT", f"/v2/images/{ABSENT}/file"),
        ("GET", "/v2"),
        ("GET", "/versions"),
        ("GET", "/v2/nothing"),
        ("GET", "/v1/schemas"),
        ("GET", "/v1/images"),
        ("PUT", "/locations/north"),
        ("GET", "/metrics"),
        ("GET", f"/resolve/{ID}"),
        ("POST", "/resolve"),
        ("GET", f"/route{IMAGE}"),
        ("GET", f"{IMAGE}/../{ABSENT}"),
        ("PUT", f"{IMAGE}/%2e%2e/file"),
        ("POST", "/v2/%2e%2e/locations"),
        ("TRACE", IMAGE),
        ("OPTIONS", IMAGE),
        ("get", IMAGE),
    ],
)
async def test_the_gateway_keeps_what_it_answers_itself(
    gateway: Gateway, method: str, path: str
) -> None:
    await two_regions(gateway)
    assert await route(gateway, method, path) == "self"


async def test_a_request_without_a_method_is_routed_as_a_read(gateway: Gateway) -> None:
    await two_regions(gateway)
    response, _ = await gateway.get(f"/route{IMAGE}")
    assert response.headers["X-Resolver-Url"] == NORTH + IMAGE
    assert response.headers["X-Resolver-Location"] == "north"


async def test_a_client_cannot_choose_the_server(gateway: Gateway) -> None:
    await two_regions(gateway)
    forged = dict.fromkeys(("X-Resolver-Url", "X-Resolver-Base"), "http://evil.example")
    forged |= {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    for method, path in (("PUT", f"{IMAGE}/file"), ("POST", "/v2/images")):
        assert await route(gateway, method, path, **forged) == NORTH + path


async def test_ids_are_spelled_and_paths_chosen_as_the_owner_has_them(gateway: Gateway) -> None:
    await gateway.location("north")
    await gateway.location("old", versions=V1)
    await gateway.claim("north", UPPER)
    await gateway.claim("old", ID)
    lower = UPPER.lower()
    assert await route(gateway, "PUT", f"/v2/images/{lower}/file") == (
        f"{NORTH}/v2/images/{UPPER}/file"
    )
    old = "https://old.example:9292"
    assert await route(gateway, "GET", f"{IMAGE}/file") == f"{old}/v1/images/{ID}"
    assert await route(gateway, "PUT", f"/v1/images/{ID}") == f"{old}/v1/images/{ID}"
    assert await route(gateway, "PUT", f"{IMAGE}/file") == "self", "v1 has no such upload"
    assert await route(gateway, "POST", "/v1/images") == f"{old}/v1/images"


async def test_uploads_go_where_the_image_waits_for_its_bytes(gateway: Gateway) -> None:
    await two_regions(gateway)
    await gateway.claim_with_facts("north", ID, ImageStatus.ACTIVE)
    await gateway.claim_with_facts("south", ID, ImageStatus.PENDING)
    for method, rest in (("PUT", "/file"), ("PUT", "/stage"), ("POST", "/import")):
        assert await route(gateway, method, f"{IMAGE}{rest}") == f"{SOUTH}{IMAGE}{rest}"
    for method, rest in (("GET", "/file"), ("PATCH", ""), ("DELETE", "")):
        assert await route(gateway, method, f"{IMAGE}{rest}") == f"{NORTH}{IMAGE}{rest}"


async def test_a_read_of_bytes_that_no_owner_has_is_answered_by_the_gateway(
    gateway: Gateway,
) -> None:
    await gateway.location("north")
    await gateway.claim_with_facts("north", ID, ImageStatus.PENDING)
    assert await route(gateway, "GET", f"{IMAGE}/file") == "self"
    assert await route(gateway, "PUT", f"{IMAGE}/file") == f"{NORTH}{IMAGE}/file"


async def test_a_location_that_is_not_offered_gets_no_writes(start: Start) -> None:
    gateway = await start(allowed_hosts="north.example,south.example")
    await two_regions(gateway)
    await gateway.services.registry.patch("north", {"state": "maintenance"})
    for method, path in (("PUT", f"{IMAGE}/file"), ("POST", "/v2/images")):
        assert await route(gateway, method, path) == SOUTH + path
    await gateway.services.registry.patch("south", {"state": "maintenance"})
    for method, path in (("PUT", f"{IMAGE}/file"), ("POST", "/v2/images")):
        assert await route(gateway, method, path) == "self"


async def test_an_image_is_found_as_soon_as_it_is_created(start: Start) -> None:
    """What was remembered of its id before does not keep its bytes away."""
    gateway = await start(probe=True, probe_timeout=5)
    async with cloud_of(gateway.services) as cloud:
        await cloud.add("one")
        two = await cloud.add("two")
        file = f"{IMAGE}/file"
        assert await route(gateway, "GET", file) == "self"
        two.add(id=ID, status="queued")
        assert await route(gateway, "GET", file) == "self", "remembered"
        assert await route(gateway, "PUT", file) == two.url + file
