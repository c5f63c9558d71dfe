"""``/region/NAME/…``: a client is pinned to a region by the URL of its endpoint."""

from __future__ import annotations

import pytest

from resolver.resolution import TemplateCache
from tests.gateway.bridged_requests import BridgedRequests, bridged
from tests.gateway.conftest import V1, V2, Gateway, Start
from tests.support.http_connection import connected
from tests.support.objects import all_instances

__all__ = ["bridged"]

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


async def both_regions(gateway: Gateway) -> None:
    """An image in two regions, of which the north comes first for all who ask for none."""
    await gateway.location("north", region="north", priority=1)
    await gateway.location("south", region="Süd Ost", priority=2, versions=V1 + V2)
    await gateway.claim("north", ID)
    await gateway.claim("south", ID)


SOUTH = "/region/S%C3%BCd%20Ost"


@pytest.mark.parametrize("rest", ["", "/file", "/members", "?x=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_owners_in_the_region_come_first(
    gateway: Gateway, bridged: BridgedRequests, method: str, rest: str
) -> None:
    await both_regions(gateway)
    path = f"/v2/images/{ID}{rest}"
    async with connected(gateway.url) as connection:
        for _ in range(3):  # parsed, recognized, and after another kind of request
            for prefix, name in (("", "north"), (SOUTH, "south"), ("/region/north", "north")):
                response = await connection.ask(method, prefix + path)
                assert response.status == 307
                assert f"Location: https://{name}.example:9292{path}\r\n" in response.head
    assert bridged.count == 0


async def test_other_reads_prefer_the_region_too(gateway: Gateway) -> None:
    await both_regions(gateway)
    for path in ("/v2/info/stores", "/v2/schemas/image", "/v2/metadefs/namespaces?limit=1"):
        for prefix, name in ((SOUTH, "south"), ("", "north")):
            response, _ = await gateway.get(prefix + path)
            assert response.headers["Location"] == f"https://{name}.example:9292{path}"


async def test_writes_prefer_the_region_too(start: Start) -> None:
    gateway = await start(redirect_writes=True)
    await both_regions(gateway)
    response, _ = await gateway.call("PATCH", f"{SOUTH}/v2/images/{ID}")
    assert response.headers["Location"] == f"https://south.example:9292/v2/images/{ID}"
    response, body = await gateway.call("PUT", f"{SOUTH}/v2/images/{ID}/file")
    assert response.status == 405
    assert "--os-region-name 'Süd Ost'" in body["detail"]
    response, _ = await gateway.call("POST", f"{SOUTH}/v2/images")
    assert response.status == 307, "the record of an image is small"
    assert response.headers["Location"] == "https://south.example:9292/v2/images"
    assert (await gateway.call("PUT", f"{SOUTH}/v2/images"))[0].status == 405


async def test_the_region_in_the_url_overrides_the_header_field(gateway: Gateway) -> None:
    await both_regions(gateway)
    headers = {"X-Resolver-Region": "north"}
    response, _ = await gateway.get(f"{SOUTH}/v2/images/{ID}", headers=headers)
    assert response.headers["Location"].startswith("https://south.")


async def test_a_region_without_locations_changes_nothing(gateway: Gateway) -> None:
    """A 404 would mean that the image does not exist, whenever a region's last location goes."""
    await both_regions(gateway)
    async with connected(gateway.url) as connection:
        for number in range(20):
            for _ in range(2):
                response = await connection.ask("GET", f"/region/r{number}/v2/images/{ID}")
                assert "Location: https://north." in response.head
    tables = {cache.context.table.version for cache in all_instances(TemplateCache)}
    caches = [c for c in all_instances(TemplateCache) if c.context.table.version == max(tables)]
    assert len(caches) == 1, "clients can make no more of them than there are regions"


async def test_templates_follow_changes_of_locations(gateway: Gateway) -> None:
    await both_regions(gateway)
    async with connected(gateway.url) as connection:
        path = f"{SOUTH}/v2/images/{ID}"
        for _ in range(2):
            assert "Location: https://south." in (await connection.ask("GET", path)).head
        await gateway.location("south", region="elsewhere", priority=2)
        for _ in range(2):
            assert "Location: https://north." in (await connection.ask("GET", path)).head
        await gateway.location("north", region="Süd Ost", priority=9)
        for _ in range(2):
            assert "Location: https://north." in (await connection.ask("GET", path)).head


@pytest.mark.parametrize("public_url", ["", "https://images.example/api"])
async def test_version_documents_keep_the_region(start: Start, public_url: str) -> None:
    gateway = await start(public_url=public_url)
    await gateway.location("north", region="north")
    base = public_url or gateway.url
    for path in ("", "/", "/versions", "/v1", "/v2", "/v2/"):
        response, body = await gateway.get(f"/region/north{path}")
        assert response.status == (300 if path in ("", "/") else 200)
        hrefs = {link["href"] for version in body["versions"] for link in version["links"]}
        assert hrefs == {f"{base}/region/north/v2/"}


async def test_errors_have_the_form_of_glance(gateway: Gateway) -> None:
    await gateway.location("north", region="north")
    for method, path, status in (
        ("GET", f"/v2/images/{ID}", 404),
        ("DELETE", f"/v2/images/{ID}", 404),
        ("GET", "/v2/images/debian-12", 404),
        ("GET", "/v2/none", 404),
        ("POST", "/v2/images", 405),
    ):
        response, _ = await gateway.call(method, f"/region/north{path}", headers={"Accept": "*/*"})
        assert (response.status, response.content_type) == (status, "text/html")
    for path in ("/region", "/region/", "/region/north/resolve/x", "/region//v2/images/x"):
        response, body = await gateway.get(path)
        assert (response.status, body["code"]) == (404, "not-found")
    response, _ = await gateway.get("/region/%2e%2e/v2")
    assert response.status == 400
