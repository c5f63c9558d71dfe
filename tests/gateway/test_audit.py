"""Admin tokens, and the audit log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from resolver.errors import SettingsError
from resolver.gateway.tokens import Tokens
from resolver.index import open_index
from resolver.index.audit import AUDIT_MAX_ENTRIES, entry_head
from resolver.index.keys import Keys
from resolver.index.redis.scripts import load
from resolver.settings import Settings
from tests.gateway.conftest import ADMIN, Gateway, Start

ONE = {"url": "https://one.example", "auth": {"token_env": "ONE_TOKEN"}}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_the_log_has_who_did_what(start: Start) -> None:
    gateway = await start(admin_tokens="ann=ann-token,bob=bob-token")
    ann, bob = bearer("ann-token"), bearer("bob-token")
    await gateway.call("PUT", "/locations/one", headers=ann, json=ONE)
    maintenance = {"state": "maintenance", "reason": "new disks"}
    await gateway.call("PATCH", "/locations/one", headers=bob, json=maintenance)
    await gateway.call("PATCH", "/locations/one", headers=bob, json=maintenance)
    await gateway.call("PUT", "/locations/two", headers=ann, json={"url": "https://two.example"})
    confirm = {"confirm_shrink": True}
    await gateway.call("POST", "/locations/one/sweep", headers=ann, json=confirm)
    await gateway.call("POST", "/locations/one/sweep", headers=ann)
    await gateway.call("DELETE", "/locations/one", headers=bob)
    _, body = await gateway.get("/audit?location=one", headers=ann)
    changes = [(row["by"], row["what"], row["before"], row["after"]) for row in body["changes"]]
    fields = {
        "url": "https://one.example",
        "region": "",
        "api": "auto",
        "priority": 100,
        "weight": 1,
        "state": "active",
        "reason": "",
        "sees_all": None,
        "auth": {"token_env": "ONE_TOKEN"},
        "notifications": None,
    }
    assert changes == [
        ("bob", "remove", {**fields, **maintenance}, None),
        ("ann", "confirm-shrink", None, None),
        ("bob", "change", {"state": "active", "reason": ""}, maintenance),
        ("ann", "add", None, fields),
    ]
    times = [row["at"] for row in body["changes"]]
    assert times == sorted(times, reverse=True)
    _, body = await gateway.get("/audit?limit=2", headers=ann)
    assert [row["location"] for row in body["changes"]] == ["one", "one"]


@pytest.mark.parametrize(
    ("fields", "before"),
    [
        ({"vouches": False}, {"vouches": True}),
        ({"rate": 5, "networks": ["10.1.0.0/16"]}, {"rate": 0, "networks": []}),
    ],
)
async def test_the_log_has_defaults_that_are_not_stored(
    start: Start, fields: dict[str, Any], before: dict[str, Any]
) -> None:
    """``before`` is what to set again."""
    gateway = await start(admin_tokens="ann=ann-token")
    ann = bearer("ann-token")
    await gateway.call("PUT", "/locations/one", headers=ann, json={**ONE, "region": "North"})
    await gateway.call("PATCH", "/locations/one", headers=ann, json=fields)
    await gateway.call("PATCH", "/locations/one", headers=ann, json=before)
    _, body = await gateway.get("/audit?limit=2", headers=ann)
    changes = [(row["before"], row["after"]) for row in body["changes"]]
    assert changes == [(fields, before), (before, fields)]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=10001", "limit=²", "from=1", "location=A"]
)
async def test_an_invalid_audit_query_is_refused(gateway: Gateway, query: str) -> None:
    response, body = await gateway.get(f"/audit?{query}", headers=ADMIN)
    assert response.status == 400
    assert body["detail"]


async def test_the_log_requires_a_token(gateway: Gateway) -> None:
    assert (await gateway.get("/audit"))[0].status == 401


async def test_the_log_is_bounded(index_url: str) -> None:
    assert f"0, {AUDIT_MAX_ENTRIES - 1})" in load("audit").text
    async with open_index(index_url) as index:
        await index.audit.record("ann", "first")
        some = entry_head("ann", "more", "") + ',"before":null,"after":null}'
        await index.client.command("LPUSH", Keys("glr:").audit, *[some] * AUDIT_MAX_ENTRIES)
        await index.audit.record("ann", "last")
        entries = await index.audit.last(AUDIT_MAX_ENTRIES * 2)
        assert (len(entries), entries[0].what, entries[-1].what) == (
            AUDIT_MAX_ENTRIES,
            "last",
            "more",
        )


@pytest.mark.redis
async def test_a_change_at_one_gateway_applies_to_the_next_request_at_another(
    start: Start, redis_url: str
) -> None:
    first = await start(redis_url=redis_url)
    second = await start(redis_url=redis_url)
    image = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
    await first.location("here")
    await first.claim("here", image)
    assert (await second.get(f"/v2/images/{image}"))[0].status == 307
    body = {"state": "maintenance", "reason": "new disks until nine"}
    await first.call("PATCH", "/locations/here", headers=ADMIN, json=body)
    response, problem = await second.get(f"/v2/images/{image}")
    assert response.status == 503
    assert "new disks until nine" in problem["detail"]
    await second.call("PATCH", "/locations/here", headers=ADMIN, json={"state": "draining"})
    assert (await first.get(f"/v2/images/{image}"))[0].status == 307


async def test_a_read_only_token(start: Start) -> None:
    gateway = await start(admin_tokens="ops=ops-token,board:ro=board-token")
    board = bearer("board-token")
    await gateway.call("PUT", "/locations/one", headers=bearer("ops-token"), json=ONE)
    for path in ("/locations", "/locations/one", "/audit", "/index/export"):
        assert (await gateway.get(path, headers=board))[0].status == 200
    for method, path in (
        ("PUT", "/locations/two"),
        ("PATCH", "/locations/one"),
        ("DELETE", "/locations/one"),
        ("POST", "/locations/one/sweep"),
        ("POST", "/index/rebuild"),
        ("POST", "/index/import"),
    ):
        response, body = await gateway.call(method, path, headers=board, json=ONE)
        assert (response.status, body["code"]) == (403, "read-only-token")
        assert "'board' may only read" in body["detail"]
    assert set((await gateway.services.index.records.load()).records) == {"one"}


async def test_the_token_file_is_read_again_when_it_changes(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# people\nann=first-token\n\nboard:ro=board-token\n")
    gateway = await start(admin_tokens="ops=ops-token", admin_tokens_file=str(file))

    async def status(token: str) -> int:
        return int((await gateway.get("/locations", headers=bearer(token)))[0].status)

    assert [await status(t) for t in ("ops-token", "first-token", "board-token")] == [200] * 3
    new = tmp_path / "new"
    new.write_text("ann=second-token\n")
    os.replace(new, file)
    assert [await status(t) for t in ("first-token", "second-token")] == [401, 200]
    # Where no line is a token it says so; the other tokens stay valid.
    file.write_text("# people\nsecret but no token\n")
    response, body = await gateway.get("/locations", headers=bearer("second-token"))
    assert (response.status, body["code"]) == (403, "admin-disabled")
    assert "RESOLVER_ADMIN_TOKENS_FILE line 2: must be TOKEN" in body["detail"]
    assert "secret" not in body["detail"]
    file.unlink()
    assert [await status(t) for t in ("second-token", "ops-token")] == [403, 200]
    file.write_text("ann=third-token\n")
    assert await status("third-token") == 200


@pytest.mark.parametrize("text", [None, "short", "a b=secret-token", "\u00e9=secret-token"])
def test_a_wrong_token_file_is_an_error_at_start(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "tokens"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="RESOLVER_ADMIN_TOKENS_FILE"):
        Tokens(Settings(admin_tokens_file=str(file))).check()
