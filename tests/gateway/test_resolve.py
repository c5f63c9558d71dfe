"""``/resolve``: answers as data, for one id and for many."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.conftest import V1, Gateway, Start

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
ABSENT = "ffffffff-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


async def test_the_json_answer_has_the_documented_members(gateway: Gateway) -> None:
    await gateway.location("one", region="R1", priority=1)
    await gateway.location("two", region="R2", versions=V1)
    await gateway.claim("one", ID)
    await gateway.claim("two", ID)
    response, body = await gateway.get(f"/resolve/{ID.upper()}")
    assert response.status == 200
    assert response.content_type == "application/json"
    assert response.headers["Vary"] == "Accept"
    one, two = "https://one.example:9292", "https://two.example:9292"
    assert body == {
        "id": ID,
        "outcome": "found",
        "uri": f"{one}/v1/images/{ID}",
        "url": f"{one}/v2/images/{ID}",
        "owners": [
            {
                "location": "one",
                "region": "R1",
                "uri": f"{one}/v1/images/{ID}",
                "url": f"{one}/v2/images/{ID}",
                "health": "up",
                "state": "active",
                "status": None,
                "digest": None,
            },
            {
                "location": "two",
                "region": "R2",
                "uri": f"{two}/v1/images/{ID}",
                "url": f"{two}/v1/images/{ID}",
                "health": "up",
                "state": "active",
                "status": None,
                "digest": None,
            },
        ],
        "conflict": False,
        "missing": [],
        "proof": None,
        "source": "index",
        "age": 0.0,
    }


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/uri-list", "text/uri-list"),
        ("text/*", "text/uri-list"),
        ("text/uri-list;q=0.1, application/json;q=0.9", "application/json"),
        ("text/uri-list, */*;q=0.1", "text/uri-list"),
        ("application/json;q=0, text/uri-list", "text/uri-list"),
        ("text/html", None),
        ("application/json;q=0", None),
    ],
)
async def test_the_accept_header_selects_the_representation(
    gateway: Gateway, accept: str | None, kind: str | None
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    response, body = await gateway.get(
        f"/resolve/{ID}", headers={"Accept": accept} if accept else {}
    )
    if kind is None:
        assert (response.status, body["code"]) == (406, "not-acceptable")
        return
    assert response.content_type == kind
    if kind == "text/uri-list":
        assert await response.text() == f"https://one.example:9292/v1/images/{ID}\r\n"


async def test_a_problem_document_has_the_members_of_the_answer(gateway: Gateway) -> None:
    await gateway.location("one")
    response, body = await gateway.get(f"/resolve/{ABSENT}")
    assert response.status == 404
    assert response.content_type == "application/problem+json"
    assert {
        k: body[k] for k in ("status", "code", "id", "outcome", "owners", "missing", "proof")
    } == {
        "status": 404,
        "code": "image-absent",
        "id": ABSENT,
        "outcome": "absent",
        "owners": [],
        "missing": [],
        "proof": "covered",
    }
    await gateway.location("two", covered=False)
    response, body = await gateway.get(f"/resolve/{ABSENT}")
    assert (response.status, body["outcome"], body["missing"]) == (503, "unknown", ["two"])
    assert "not swept yet" in body["detail"]


async def test_an_unknown_parameter_is_refused(gateway: Gateway) -> None:
    response, body = await gateway.get(f"/resolve/{ID}?regoin=x")
    assert response.status == 400
    assert "regoin" in body["detail"]


async def test_many_ids_are_answered_in_order(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    asked = [ABSENT, ID, "nonsense", ID.upper(), 7, None, ID]
    response, body = await gateway.call("POST", "/resolve", json=asked)
    assert response.status == 200
    assert [row["outcome"] for row in body] == [
        "absent",
        "found",
        "invalid",
        "found",
        "invalid",
        "invalid",
        "found",
    ]
    assert [row["id"] for row in body] == [ABSENT, ID, "nonsense", ID, "7", "null", ID]
    assert body[1]["uri"] == f"https://one.example:9292/v1/images/{ID}"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (json.dumps([ID, ABSENT]), "application/json"),
        (json.dumps({"ids": [ID, ABSENT]}), "application/json; charset=utf-8"),
        (f"{ID}\n{ABSENT}\n", "text/plain"),
        (f"{ID}\r\n{ABSENT}", "text/plain"),
        (f"{ID}\n{ABSENT}\n", "application/x-www-form-urlencoded"),
        (json.dumps([ID, ABSENT]), ""),
    ],
)
async def test_bulk_ids_are_accepted_in_every_documented_form(
    gateway: Gateway, body: str, kind: str
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    response, rows = await gateway.call(
        "POST", "/resolve", data=body.encode(), headers={"Content-Type": kind}
    )
    assert response.status == 200
    assert [row["outcome"] for row in rows] == ["found", "absent"]


async def test_ndjson_is_one_answer_a_line(start: Start) -> None:
    gateway = await start(index_timeout=30)  # a busy machine answers too
    await gateway.location("one")
    ids = [f"{n:08x}-4e5f-4a6b-8c7d-9e0f1a2b3c4d" for n in range(1203)]
    await gateway.claim("one", *ids[::400])
    response, _ = await gateway.call(
        "POST", "/resolve", json=ids, headers={"Accept": "application/x-ndjson"}
    )
    assert response.content_type == "application/x-ndjson"
    rows = [json.loads(line) for line in (await response.text()).splitlines()]
    assert [row["id"] for row in rows] == ids
    assert [i for i, row in enumerate(rows) if row["outcome"] == "found"] == [0, 400, 800, 1200]
    response, as_array = await gateway.call("POST", "/resolve", json=ids)
    for row in (*as_array, *rows):
        if row["proof"]:
            row.pop("age")  # that of the proof, and time goes on
    assert as_array == rows


async def test_an_empty_bulk_request_gets_an_empty_answer(gateway: Gateway) -> None:
    assert (await gateway.call("POST", "/resolve", json=[]))[1] == []


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        ("{", "application/json", 400, "invalid-request"),
        ("[" * 100_000, "application/json", 400, "invalid-request"),
        ('{"uuids": []}', "application/json", 400, "invalid-request"),
        ('"text"', "application/json", 400, "invalid-request"),
        ("\xff\xfe", "text/plain", 400, "invalid-request"),
        ("<ids/>", "application/xml", 415, "unsupported-media-type"),
    ],
)
async def test_invalid_bulk_bodies_are_refused(
    gateway: Gateway, body: str, kind: str, status: int, code: str
) -> None:
    response, problem = await gateway.call(
        "POST", "/resolve", data=body.encode("latin-1"), headers={"Content-Type": kind}
    )
    assert (response.status, problem["code"]) == (status, code)


async def test_too_many_ids_are_413(start: Start) -> None:
    gateway = await start(bulk_limit=3)
    response, body = await gateway.call("POST", "/resolve", json=[ID] * 4)
    assert (response.status, body["code"]) == (413, "too-large")
    assert "RESOLVER_BULK_LIMIT" in body["detail"]
    response, body = await gateway.call("POST", "/resolve", data=b"x" * 1_000_000)
    assert (response.status, body["code"]) == (413, "too-large")
    response, _ = await gateway.call("POST", "/resolve", json=[ID] * 3)
    assert response.status == 200


async def test_explain_shows_every_location(gateway: Gateway) -> None:
    await gateway.location("a", region="north")
    await gateway.location("b", region="south")
    await gateway.location("c", state="maintenance", reason="moving")
    await gateway.location("d")
    await gateway.location("e", covered=False)
    for name in "abc":
        await gateway.claim(name, ID)
    _, body = await gateway.get(f"/resolve/{ID}/explain?region=south")
    rows: dict[str, dict[str, Any]] = {row["location"]: row for row in body["locations"]}
    assert [(rows[n]["verdict"], rows[n]["rank"]) for n in "bacde"] == [
        ("chosen", 1),
        ("ranked", 2),
        ("left out", None),
        ("not an owner", None),
        ("not an owner", None),
    ]
    assert "in region south" in rows["b"]["reasons"]
    assert "moving" in rows["c"]["reasons"][0]
    assert rows["d"]["covered"] is True
    assert "not swept yet" in rows["e"]["reasons"]
    assert [o["location"] for o in body["owners"]] == ["b", "a"]


@pytest.mark.parametrize(
    "accept", ["application/json", "text/uri-list", "application/metalink4+xml"]
)
async def test_header_fields_name_the_best_owner_for_proxies(gateway: Gateway, accept: str) -> None:
    public = "https://images.example/two"
    await gateway.location("one", priority=9)
    await gateway.location("two", public_url=public, priority=1)
    for name in ("one", "two"):
        await gateway.claim(name, ID)
    for method in ("GET", "HEAD", "GET"):
        response, _ = await gateway.call(method, f"/resolve/{ID}", headers={"Accept": accept})
        assert response.status == 200
        assert response.headers["X-Resolver-Location"] == "two"
        assert response.headers["X-Resolver-Base"] == public
    for path in (f"/resolve/{ABSENT}", f"/resolve/{ID}?exclude=one,two"):
        response, _ = await gateway.get(path)
        assert response.status in (404, 503)
        assert "X-Resolver-Location" not in response.headers
