"""``/v1`` and ``/v2``: what clients see that only follow redirects."""

from __future__ import annotations

import re

import pytest

from resolver.image_facts import ImageStatus
from tests.gateway.conftest import V1, V2, Gateway, Start
from tests.support.contents import ONE
from tests.support.http_connection import connected

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OTHER = "ffffffff-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


async def location_of(gateway: Gateway, path: str, **options: object) -> str:
    response, _ = await gateway.get(path, **options)
    assert response.status == 307, await response.text()
    return response.headers["Location"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_redirect_keeps_prefix_rest_and_query(gateway: Gateway, method: str) -> None:
    await gateway.location("one", url="https://cloud.example/image/")
    await gateway.claim("one", ID)
    path = f"/v2/images/{ID}/file?a=1%202&b=%2F&a=x"
    response, _ = await gateway.call(method, path)
    assert response.status == 307
    assert response.headers["Location"] == f"https://cloud.example/image{path}"


async def test_percent_escapes_are_redirected_unchanged(gateway: Gateway) -> None:
    """An escape that is decoded or encoded on the way names another resource."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    path = f"/v2/images/{ID}/tags/a%2Fb%20c%C3%A9~!$&'()*+,;=:@?x=%0D%0Ay&z=%3F+"
    assert await location_of(gateway, path) == f"https://one.example:9292{path}"


@pytest.mark.parametrize(
    "asked", [ID, ID.upper(), ID.replace("-", ""), f"urn:uuid:{ID}", f"URN:UUID:{ID.upper()}"]
)
async def test_every_form_of_an_id_redirects_to_the_spelling_of_its_owner(
    gateway: Gateway, asked: str
) -> None:
    """Glance on SQLite and PostgreSQL finds an image only by the spelling it was created with."""
    await gateway.location("lower")
    await gateway.claim("lower", ID)
    assert await location_of(gateway, f"/v2/images/{asked}") == (
        f"https://lower.example:9292/v2/images/{ID}"
    )
    await gateway.call("DELETE", f"/locations/lower/images/{ID}")
    await gateway.services.registry.remove("lower")
    await gateway.location("upper")
    await gateway.claim("upper", ID.upper())
    assert await location_of(gateway, f"/v2/images/{asked}") == (
        f"https://upper.example:9292/v2/images/{ID.upper()}"
    )


async def test_the_other_owners_are_duplicates(gateway: Gateway) -> None:
    for name, priority in (("c", 3), ("a", 1), ("b", 2)):
        await gateway.location(name, priority=priority)
    for _ in range(2):  # the bytes of the first owner are kept only from then on
        for name in ("c", "a", "b"):
            await gateway.claim_with_facts(name, ID, ImageStatus.ACTIVE, ONE)
    response, _ = await gateway.get(f"/v2/images/{ID}/file?x=1")
    tail = f"example:9292/v2/images/{ID}/file?x=1"
    assert response.headers["Location"] == f"https://a.{tail}"
    assert response.headers["Link"] == (
        f"<https://b.{tail}>; rel=duplicate; pri=2, <https://c.{tail}>; rel=duplicate; pri=3"
    )


async def test_request_headers_select_the_owner(gateway: Gateway) -> None:
    await gateway.location("a", region="north", priority=1)
    await gateway.location("b", region="south", priority=2)
    await gateway.claim("a", ID)
    await gateway.claim("b", ID)
    path = f"/v2/images/{ID}"
    assert "//a." in await location_of(gateway, path)
    assert "//b." in await location_of(gateway, path, headers={"X-Resolver-Region": "south"})
    assert "//b." in await location_of(gateway, path, headers={"X-Resolver-Exclude": "x, a"})
    response, body = await gateway.get(path, headers={"X-Resolver-Exclude": "a,b"})
    assert response.status == 503
    assert body["missing"] == ["a", "b"]


@pytest.mark.parametrize(
    ("versions", "requested", "redirected"),
    [
        (V2, "/v2/images/ID", "/v2/images/ID"),
        (V2, "/v1/images/ID", "/v2/images/ID/file"),
        (V2, "/v1/images/ID?x=1", "/v2/images/ID/file?x=1"),
        (V2, "/v1/images/ID/members", None),
        (V1, "/v2/images/ID/file", "/v1/images/ID"),
        (V1, "/v2/images/ID", None),
        (V1, "/v1/images/ID", "/v1/images/ID"),
        (V2 + V1, "/v1/images/ID", "/v1/images/ID"),
        ((), "/v1/images/ID", "/v1/images/ID"),
        ((), "/v2/images/ID/members/x", "/v2/images/ID/members/x"),
    ],
)
async def test_the_api_versions_of_the_owner_select_the_path(
    gateway: Gateway, versions: tuple[str, ...], requested: str, redirected: str | None
) -> None:
    await gateway.location("one", versions=versions)
    await gateway.claim("one", ID)
    response, body = await gateway.get(requested.replace("ID", ID))
    if redirected is None:
        assert response.status == 501
        assert body["code"] == "no-counterpart"
        assert body["url"] in body["detail"]
        assert body["url"] in response.headers["Link"]
    else:
        assert response.headers["Location"] == "https://one.example:9292" + redirected.replace(
            "ID", ID
        )


@pytest.mark.parametrize("redirect_writes", [False, True])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_write_goes_to_an_owner_that_has_its_api(
    start: Start, method: str, *, redirect_writes: bool
) -> None:
    gateway = await start(redirect_writes=redirect_writes)
    await gateway.location("one", versions=V2)
    await gateway.claim("one", ID)
    response, body = await gateway.call(method, f"/v1/images/{ID}")
    assert (response.status, body["code"]) == (501, "no-counterpart")
    assert body["detail"].endswith(f": use https://one.example:9292/v2/images/{ID}")
    await gateway.location("two", versions=V1, priority=200)
    await gateway.claim("two", ID)
    response, body = await gateway.call(method, f"/v1/images/{ID}")
    url = f"https://two.example:9292/v1/images/{ID}"
    if response.status == 307:
        assert response.headers["Location"] == url
    else:
        assert (response.status, body["url"]) == (405, url)


async def test_a_head_request_for_v1_metadata_is_not_redirected_to_v2_data(
    gateway: Gateway,
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    response, _ = await gateway.call("HEAD", f"/v1/images/{ID}")
    assert response.status == 501
    assert f"/v2/images/{ID}" in response.headers["Link"]


async def test_an_owner_that_can_serve_the_path_is_preferred_to_one_that_cannot(
    gateway: Gateway,
) -> None:
    await gateway.location("old", versions=V1, priority=1)
    await gateway.location("new", versions=V2, priority=2)
    await gateway.claim("old", ID)
    await gateway.claim("new", ID)
    assert "//new." in await location_of(gateway, f"/v2/images/{ID}")
    assert "//old." in await location_of(gateway, f"/v1/images/{ID}")


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_writes_are_refused_with_the_direct_url(gateway: Gateway, method: str) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    response, body = await gateway.call(method, f"/v2/images/{ID}/file")
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert body["url"] == f"https://one.example:9292/v2/images/{ID}/file"


@pytest.mark.parametrize(
    ("method", "path", "redirected"),
    [
        ("PATCH", "/v2/images/ID", True),
        ("DELETE", "/v2/images/ID", True),
        ("PUT", "/v2/images/ID/tags/t", True),
        ("POST", "/v2/images/ID/members", True),
        ("POST", "/v2/images/ID/actions/deactivate", True),
        ("DELETE", "/v1/images/ID", True),
        ("PUT", "/v2/images/ID/file", False),
        ("PUT", "/v2/images/ID/stage", False),
        ("PUT", "/v1/images/ID", False),
        ("POST", "/v1/images/ID", False),
    ],
)
async def test_small_writes_are_redirected_where_asked_for_and_uploads_never(
    start: Start, method: str, path: str, redirected: bool
) -> None:
    gateway = await start(redirect_writes=True)
    await gateway.location("one", versions=V2 + V1)
    await gateway.claim("one", ID)
    path = path.replace("ID", ID)
    response, body = await gateway.call(method, path)
    if redirected:
        assert response.status == 307
        assert response.headers["Location"] == f"https://one.example:9292{path}"
    else:
        assert response.status == 405
        assert body["url"] == f"https://one.example:9292{path}"
        assert method not in response.headers["Allow"]


@pytest.mark.parametrize(
    "path",
    [
        f"/v2/images/{ID}/../../../admin",
        f"/v2/images/{ID}/%2e%2e/x",
        f"/v2/images/{ID}/a/%2E/x",
        f"/v2/images/{ID}/x%0d%0aSet-Cookie:a",
        f"/v2/images/{ID}/a%5c..%5cb",
    ],
)
async def test_ambiguous_paths_are_refused(gateway: Gateway, path: str) -> None:
    await gateway.location("one", url="https://cloud.example/image")
    await gateway.claim("one", ID)
    reply = await send_bytes(
        gateway, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert reply.startswith("HTTP/1.1 400 "), reply
    assert "Location" not in reply
    assert "Set-Cookie" not in reply


async def send_bytes(gateway: Gateway, request: str) -> str:
    """The response to these bytes, sent without a client library."""
    async with connected(gateway.url) as connection:
        await connection.send(request.encode("latin-1"))
        return (await connection.read_to_end()).decode("latin-1")


@pytest.mark.parametrize(
    "line",
    [
        f"GET /v2/images/{ID}/" + "x" * 9000 + " HTTP/1.1",
        f"GET /v2/images/{ID}\x01 HTTP/1.1",
        "NONSENSE",
        f"GET /v2/images/{ID} HTTP/9.9",
    ],
)
async def test_a_malformed_request_is_refused(gateway: Gateway, line: str) -> None:
    reply = await send_bytes(gateway, f"{line}\r\nHost: x\r\nConnection: close\r\n\r\n")
    status = 414 if "xxx" in line else 400
    assert re.match(rf"HTTP/1\.[01] {status} ", reply), reply
    assert ("application/problem+json" in reply) is (line == "NONSENSE")
    assert re.search(r"X-Openstack-Request-Id: req-[0-9a-f-]{36}", reply)
    assert "Traceback" not in reply
    assert "aiohttp/" not in reply.partition("\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/v1/images/..", "/resolve/0a1b", "/resolve/" + "a" * 5000])
async def test_a_malformed_id_is_400(gateway: Gateway, path: str) -> None:
    reply = await send_bytes(
        gateway, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert reply.startswith("HTTP/1.1 400 "), reply
    assert '"code": "invalid-image-id"' in reply or path.endswith("..")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE"])
async def test_a_name_in_place_of_an_id_is_404_as_at_glance(gateway: Gateway, method: str) -> None:
    for path in ("/v2/images/debian-12", "/v1/images/debian-12", "/v2/images/debian-12/file"):
        response, body = await gateway.call(method, path)
        assert response.status == 404
        assert method == "HEAD" or body["code"] == "invalid-image-id"


async def test_image_paths_answer_307_404_or_503(gateway: Gateway) -> None:
    response, body = await gateway.get(f"/v2/images/{ID}")
    assert (response.status, body["outcome"]) == (503, "unknown")  # no location is registered
    number = await gateway.location("one", covered=False)
    response, body = await gateway.get(f"/v2/images/{ID}")
    assert (response.status, body["code"], body["missing"]) == (503, "image-unknown", ["one"])
    assert int(response.headers["Retry-After"]) > 0
    await gateway.location("one")
    response, body = await gateway.get(f"/v2/images/{ID}")
    assert (response.status, body["code"]) == (404, "image-absent")
    assert response.content_type == "application/problem+json"
    await gateway.claim("one", ID)
    assert "//one." in await location_of(gateway, f"/v2/images/{ID}")
    assert number == 1


async def test_a_removed_location_is_never_offered_again(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.location("two")
    await gateway.claim("one", ID)
    await gateway.call("DELETE", "/locations/one", headers={"Authorization": "Bearer s3cret-token"})
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert response.status == 404
    await gateway.location("one")  # a new location of the same name
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert response.status == 404


async def test_maintenance_answers_503_with_the_reason(gateway: Gateway) -> None:
    await gateway.location("one", state="maintenance", reason="new disks")
    await gateway.location("two")
    await gateway.claim("one", ID)
    response, body = await gateway.get(f"/v2/images/{ID}")
    assert response.status == 503
    assert "new disks" in body["detail"]
    response, _ = await gateway.get(f"/v2/images/{OTHER}")
    assert response.status == 404  # "two" is covered, and "one" does not count in maintenance
    await gateway.claim("two", ID)
    assert "//two." in await location_of(gateway, f"/v2/images/{ID}")


async def test_a_draining_location_is_offered_last(gateway: Gateway) -> None:
    await gateway.location("one", state="draining", priority=1)
    await gateway.location("two", priority=9)
    await gateway.claim("one", ID)
    assert "//one." in await location_of(gateway, f"/v2/images/{ID}")
    await gateway.claim("two", ID)
    assert "//two." in await location_of(gateway, f"/v2/images/{ID}")


@pytest.mark.parametrize("rest", ["../../admin", "%2e%2e/x", "..%2fx", "a/./b"])
async def test_schema_paths_cannot_leave_the_schema_prefix(gateway: Gateway, rest: str) -> None:
    await gateway.location("one", url="https://cloud.example/image")
    reply = await send_bytes(
        gateway, f"GET /v2/schemas/{rest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert reply.startswith("HTTP/1.1 400 "), reply


async def test_other_methods_get_405_with_allow(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    for method in ("OPTIONS", "PURGE"):
        response, _ = await gateway.call(method, f"/v2/images/{ID}")
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_errors_have_a_vary_header(gateway: Gateway) -> None:
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert "X-Resolver-Exclude" in response.headers["Vary"]
    response, _ = await gateway.get(f"/resolve/{ID}")
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "path", ["/resolve/%7B{}%7D", "/v2/images/%7B{}%7D/file", "/v1/images/%7Bx"]
)
async def test_an_id_in_braces_is_refused(gateway: Gateway, path: str) -> None:
    response, body = await gateway.get(path.replace("{}", ID))
    status = 400 if path.startswith("/resolve") else 404
    assert (response.status, body["code"]) == (status, "invalid-image-id")
