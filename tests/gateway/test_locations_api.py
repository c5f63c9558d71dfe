"""The registry over HTTP."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import ADMIN, Gateway, Start

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
ONE = {"url": "https://one.example"}

PATHS = [
    ("GET", "/locations"),
    ("GET", "/locations/one"),
    ("PUT", "/locations/one"),
    ("PATCH", "/locations/one"),
    ("DELETE", "/locations/one"),
    ("POST", "/locations/one/sweep"),
    ("PUT", f"/locations/one/images/{ID}"),
    ("DELETE", f"/locations/one/images/{ID}"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_admin_paths_require_a_token(gateway: Gateway, method: str, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong-token"},
        {"Authorization": "Basic s3cret-token"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer s3cret-tokenX"},
        {"Authorization": "Bearer \u00e9"},
    ):
        response, body = await gateway.call(method, path, headers=headers, json=ONE)
        assert (response.status, body["code"]) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        has_token = scheme == "Bearer" and token != ""
        assert ("this token is not in" in body["detail"]) == has_token
    assert (await gateway.services.index.records.load()).records == {}


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_without_tokens_the_admin_paths_are_disabled(
    start: Start, method: str, path: str
) -> None:
    gateway = await start(admin_tokens="")
    response, body = await gateway.call(method, path, headers=ADMIN, json=ONE)
    assert (response.status, body["code"]) == (403, "admin-disabled")
    assert "RESOLVER_ADMIN_TOKENS" in body["detail"]


async def test_each_of_several_tokens_is_accepted(start: Start) -> None:
    gateway = await start(admin_tokens="ops=first-token, second-token")
    for token in ("first-token", "second-token"):
        response, _ = await gateway.get("/locations", headers={"Authorization": f"Bearer {token}"})
        assert response.status == 200


async def test_a_location_is_created_changed_and_deleted(gateway: Gateway) -> None:
    response, body = await gateway.call(
        "PUT",
        "/locations/one",
        headers=ADMIN,
        json={
            "url": "https://Cloud.Example:8443/image/",
            "region": "R1",
            "auth": {"token_env": "T"},
        },
    )
    assert response.status == 201
    assert body["url"] == "https://cloud.example:8443/image"
    assert body["auth"] == {"token_env": "T"}
    assert (body["coverage"]["covered"], body["coverage"]["why"]) == (False, "not swept yet")
    assert body["serves"] is None
    response, again = await gateway.call(
        "PUT",
        "/locations/one",
        headers=ADMIN,
        json={"url": body["url"], "region": "R1", "auth": {"token_env": "T"}},
    )
    assert response.status == 200
    assert again == body  # nothing changed, so nothing was written
    response, body = await gateway.call(
        "PATCH", "/locations/one", headers=ADMIN, json={"state": "draining", "weight": 5}
    )
    assert (body["state"], body["weight"], body["region"]) == ("draining", 5, "R1")
    response, body = await gateway.call("PUT", "/locations/one", headers=ADMIN, json=ONE)
    assert (body["state"], body["weight"], body["auth"]) == ("active", 1, None)  # PUT replaces all
    _, listed = await gateway.get("/locations", headers=ADMIN)
    assert [row["name"] for row in listed["locations"]] == ["one"]
    response, _ = await gateway.call("DELETE", "/locations/one", headers=ADMIN)
    assert response.status == 204
    response, body = await gateway.call("DELETE", "/locations/one", headers=ADMIN)
    assert (response.status, body["code"]) == (404, "location-not-found")
    response, _ = await gateway.call("PATCH", "/locations/one", headers=ADMIN, json={"weight": 1})
    assert response.status == 404


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "`url` is missing"),
        ({"url": "ftp://x"}, "http"),
        ({"url": "https://u:p@x"}, "user or password"),
        ({"url": "https://x/?a"}, "query or fragment"),
        ({"url": "https://x/v2"}, "without the version: https://x"),
        ({"url": "https://x/a/../b"}, "two ways"),
        ({"url": "https://x:99999"}, "URL"),
        ({"url": "https://x\r\ny"}, "characters"),
        ({**ONE, "api": "v3"}, "auto, v1, v2"),
        ({**ONE, "state": "gone"}, "active, draining, maintenance"),
        ({**ONE, "weight": -1}, "whole number"),
        ({**ONE, "priority": True}, "whole number"),
        ({**ONE, "priority": 1.5}, "whole number"),
        ({**ONE, "region": "a\nb"}, "printable"),
        ({**ONE, "sees_all": "yes"}, "true, false"),
        ({**ONE, "auth": {"token": "abc"}}, "token_env"),
        ({**ONE, "auth": {"token_env": "RESOLVER_ADMIN_TOKENS"}}, "setting of the resolver"),
        ({**ONE, "auth": {"token_file": "relative"}}, "absolute"),
        ({**ONE, "wieght": 1}, "unknown field wieght (did you mean 'weight'?): a location has url"),
        ({**ONE, "name": "two"}, "renamed"),
    ],
)
async def test_invalid_fields_are_refused_with_what_to_do(
    gateway: Gateway, fields: dict[str, object], message: str
) -> None:
    response, body = await gateway.call("PUT", "/locations/one", headers=ADMIN, json=fields)
    assert (response.status, body["code"]) == (400, "invalid-location")
    assert message in body["detail"]
    assert (await gateway.services.index.records.load()).records == {}


@pytest.mark.parametrize("name", ["One", "a%20b", "-a", "a" * 64, "%C3%A9", "a%2fb"])
async def test_invalid_names_are_refused(gateway: Gateway, name: str) -> None:
    response, body = await gateway.call("PUT", f"/locations/{name}", headers=ADMIN, json=ONE)
    assert (response.status, body["code"]) in {(400, "invalid-location"), (404, "not-found")}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b'{"url": "https://x"}' + b" " * 70_000, "application/json", 413),
        (b"\xff" * 9, "application/json", 400),
    ],
)
async def test_invalid_bodies_are_refused(
    gateway: Gateway, body: bytes, kind: str, status: int
) -> None:
    response, problem = await gateway.call(
        "PUT", "/locations/one", headers={**ADMIN, "Content-Type": kind}, data=body
    )
    assert response.status == status
    assert response.content_type == "application/problem+json"
    assert problem["detail"]


async def test_a_gateway_cannot_be_its_own_location(start: Start) -> None:
    gateway = await start(public_url="https://images.example/glance")
    for url in (
        gateway.url,
        gateway.url.replace("127.0.0.1", "localhost"),
        "https://images.example/glance",
        "https://images.example/glance/image",
    ):
        response, body = await gateway.call(
            "PUT", "/locations/one", headers=ADMIN, json={"url": url}
        )
        assert response.status == 400
        assert "this gateway itself" in body["detail"]


async def test_allowed_hosts(start: Start) -> None:
    gateway = await start(allowed_hosts="*.example.org,10.0.0.0/8,glance.test")
    for url, status in (
        ("https://a.example.org", 201),
        ("https://GLANCE.test", 201),
        ("http://10.9.8.7:9292", 201),
        ("https://example.org", 400),
        ("https://example.org.evil.test", 400),
        ("http://11.0.0.1", 400),
        ("http://127.0.0.1", 400),
    ):
        await gateway.call("DELETE", "/locations/one", headers=ADMIN)
        response, body = await gateway.call(
            "PUT", "/locations/one", headers=ADMIN, json={"url": url}
        )
        assert response.status == status, (url, body)


async def test_require_https_allows_http_on_loopback(start: Start) -> None:
    gateway = await start(require_https=True)
    for url, status in (
        ("http://one.example", 400),
        ("https://one.example", 201),
        ("http://127.0.0.2:9292", 200),
    ):
        response, _ = await gateway.call("PUT", "/locations/o", headers=ADMIN, json={"url": url})
        assert response.status == status, url


async def test_operators_claim_and_release_images(gateway: Gateway) -> None:
    await gateway.location("one")
    path = f"/locations/one/images/{ID.upper()}"
    assert (await gateway.call("PUT", path, headers=ADMIN))[0].status == 201
    assert (await gateway.call("PUT", path, headers=ADMIN))[0].status == 204
    assert (await gateway.get(f"/resolve/{ID}"))[1]["uri"].endswith(ID.upper())
    assert (await gateway.call("DELETE", path, headers=ADMIN))[0].status == 204
    assert (await gateway.get(f"/resolve/{ID}"))[0].status == 404
    response, _ = await gateway.call("PUT", f"/locations/two/images/{ID}", headers=ADMIN)
    assert response.status == 404
    response, _ = await gateway.call("PUT", "/locations/one/images/x", headers=ADMIN)
    assert response.status == 400


async def test_a_sweep_can_be_requested(gateway: Gateway) -> None:
    number = await gateway.location("one")
    response, _ = await gateway.call("POST", "/locations/one/sweep", headers=ADMIN)
    assert response.status == 202
    assert response.headers["Location"] == "/locations/one"
    assert not (await gateway.services.index.records.requested_sweeps())[number].confirm_shrink
    response, _ = await gateway.call(
        "POST", "/locations/one/sweep", headers=ADMIN, json={"confirm_shrink": True}
    )
    assert (await gateway.services.index.records.requested_sweeps())[number].confirm_shrink
    response, _ = await gateway.call(
        "POST", "/locations/one/sweep", headers=ADMIN, json={"confirm": 1}
    )
    assert response.status == 400


async def test_a_new_url_starts_without_claims(gateway: Gateway) -> None:
    """Claims of the old server do not count for the new one."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    await gateway.call(
        "PATCH", "/locations/one", headers=ADMIN, json={"url": "https://new.example"}
    )
    response, body = await gateway.get(f"/resolve/{ID}")
    assert (response.status, body["missing"]) == (503, ["one"])


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0", "127.0.0.1"]
)
@pytest.mark.parametrize("listen_host", ["127.0.0.1", "0.0.0.0"])
async def test_no_spelling_of_the_gateways_address_is_accepted(
    start: Start, host: str, listen_host: str
) -> None:
    gateway = await start(host=listen_host)
    port = gateway.url.rpartition(":")[2]
    response, body = await gateway.call(
        "PUT", "/locations/one", headers=ADMIN, json={"url": f"http://{host}:{port}"}
    )
    assert response.status == 400, body


async def test_another_server_behind_the_same_name_is_accepted(start: Start) -> None:
    gateway = await start(public_url="https://cloud.example/resolver")
    response, _ = await gateway.call(
        "PUT", "/locations/one", headers=ADMIN, json={"url": "https://cloud.example/image"}
    )
    assert response.status == 201


async def test_a_duplicate_member_in_the_json_is_refused(gateway: Gateway) -> None:
    response, body = await gateway.call(
        "PUT",
        "/locations/one",
        headers={**ADMIN, "Content-Type": "application/json"},
        data=b'{"url": "https://one.example", "url": "https://two.example"}',
    )
    assert response.status == 400
    assert "twice" in body["detail"]
