"""Nothing is done with an admin token, and no token is tried, without a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from resolver.admin_tokens import Role, parse_token
from resolver.gateway.limits import BURST_SECONDS, REFUSED_LOGIN_TOKENS
from resolver.gateway.server import serving
from resolver.gateway.tokens import Tokens
from resolver.registry.export_format import BLOCK_CLAIMS
from resolver.services import open_services
from resolver.settings import Settings
from tests.gateway.conftest import Gateway, Start
from tests.support.ids import make_ids

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
TOKENS = "ann=ann-token-0123456789,bob:ro=bob-token-0123456789,eve:state=eve-token-0123456789"
ANN = {"Authorization": "Bearer ann-token-0123456789"}
BOB = {"Authorization": "Bearer bob-token-0123456789"}
EVE = {"Authorization": "Bearer eve-token-0123456789"}
WRONG = {"Authorization": "Bearer wrong-token"}


async def trail(gateway: Gateway, count: int) -> list[tuple[str, str, str | None, str]]:
    """The last entries, the oldest first: by, what, location and detail."""
    _, body = await gateway.get(f"/audit?limit={count}", headers=ANN)
    rows = [
        (row["by"], row["what"], row["location"], row["detail"] or "") for row in body["changes"]
    ]
    return rows[::-1]


@pytest.fixture
async def watched(start: Start) -> Gateway:
    gateway = await start(admin_tokens=TOKENS)
    await gateway.location("one", url="http://127.0.0.1:9")
    return gateway


async def exported(gateway: Gateway) -> str:
    async with gateway.http.get("/index/export", headers=ANN) as response:
        return await response.text()


async def test_an_import_that_breaks_off_is_in_the_audit_log(watched: Gateway) -> None:
    await watched.services.index.claims.claim(1, make_ids(2 * BLOCK_CLAIMS))
    lines = (await exported(watched)).splitlines(keepends=True)
    assert lines[-1].startswith("end ")
    response, body = await watched.call(
        "POST", "/index/import", headers=ANN, data="".join(lines[:-1])
    )
    claims = body["applied"]["claims"]
    assert response.status == 400
    assert claims >= BLOCK_CLAIMS
    began, failed = await trail(watched, 2)
    assert began == ("ann", "import-begin", None, "")
    assert failed[:2] == ("ann", "import-failed")
    assert f"{claims} images with {claims} claims" in failed[3]


async def test_an_import_says_what_it_did(watched: Gateway) -> None:
    await watched.claim("one", ID)
    text = await exported(watched)
    await watched.call("POST", "/index/import?with_auth=1", headers=ANN, data=text)
    assert await trail(watched, 2) == [
        ("ann", "import-begin", None, "with credentials"),
        ("ann", "import", None, "1 images with 1 claims were imported"),
    ]


async def test_exports_checks_claims_and_releases_are_in_the_audit_log(watched: Gateway) -> None:
    async with watched.http.get("/index/export", headers=BOB) as response:
        assert response.status == 200
    await watched.call("POST", "/locations/one/check", headers=ANN)
    for method in ("PUT", "DELETE"):  # refused, and so no entry
        response, _ = await watched.call(method, f"/locations/nowhere/images/{ID}", headers=ANN)
        assert response.status == 404
    await watched.call("PUT", f"/locations/one/images/{ID.upper()}", headers=ANN)
    await watched.call("DELETE", f"/locations/one/images/{ID}", headers=ANN)
    assert await trail(watched, 4) == [
        ("bob", "export", None, ""),
        ("ann", "check", "one", ""),
        ("ann", "claim", "one", ID.upper()),
        ("ann", "release", "one", ID),
    ]


async def test_an_action_that_cannot_be_recorded_is_refused(watched: Gateway) -> None:
    """The list of the audit log is something else: no entry can be written."""
    await watched.claim("one", ID)
    text = await exported(watched)
    client = watched.services.index.client
    await client.command("DEL", "glr:{reg}:audit")
    await client.command("SET", "glr:{reg}:audit", "x")
    for method, path, options in (
        ("GET", "/index/export", {}),
        ("POST", "/index/import", {"data": text.replace("one", "two")}),
        ("POST", "/locations/one/check", {}),
        ("DELETE", f"/locations/one/images/{ID}", {}),
        ("POST", "/locations/one/sweep", {"json": {"confirm_shrink": True}}),
        ("POST", "/index/rebuild", {"json": {"bits": 9}}),
        ("PUT", "/locations/two", {"json": {"url": "http://127.0.0.1:9"}}),
    ):
        response, _ = await watched.call(method, path, headers=ANN, **options)
        assert response.status == 503, path
    assert (await watched.get(f"/resolve/{ID}"))[0].status == 200, "it was not released"
    assert list((await watched.services.index.records.load()).records) == ["one"]
    assert await watched.services.index.rebuild.progress() is None
    assert await watched.services.index.records.requested_sweeps() == {}


async def test_refused_logins_are_counted_logged_and_recorded(
    watched: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        response, _ = await watched.get("/locations", headers=WRONG)
        assert response.status == 401
    lines = [record for record in caplog.records if "login refused" in record.getMessage()]
    assert 1 <= len(lines) <= 2, "at most every ten seconds"
    assert "127.0.0.1" in caplog.text
    assert "wrong-token" not in caplog.text
    by, what, _, detail = (await trail(watched, 1))[0]
    assert (by, what) == ("(nobody)", "login-refused")
    assert "127.0.0.1" in detail
    async with watched.http.get("/metrics") as response:
        assert "glance_resolver_logins_refused_total 20.0" in await response.text()


async def test_the_number_of_refused_logins_is_written_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    services = open_services(Settings(role="gateway", admin_tokens=TOKENS, port=0))
    async with services as opened, serving(opened) as url, aiohttp.ClientSession(url) as http:
        for _ in range(7):
            async with http.get("/locations", headers=WRONG) as response:
                assert response.status == 401
    lines = [record.msg for record in caplog.records if record.name == "audit"]
    counts = [line["count"] for line in lines if isinstance(line, dict) and "count" in line]
    assert sum(counts) == 7


async def test_a_role_that_is_not_enough_is_recorded(watched: Gateway) -> None:
    response, _ = await watched.call("DELETE", "/locations/one", headers=BOB)
    assert response.status == 403
    ((by, what, _, detail),) = await trail(watched, 1)
    assert (by, what) == ("bob", "change-refused")
    assert "token bob has the role ro" in detail
    response, _ = await watched.call("PATCH", "/locations/one", headers=EVE, json={"weight": 2})
    assert response.status == 403, "found by the handler"
    ((by, what, _, detail),) = await trail(watched, 1)
    assert (by, what) == ("eve", "change-refused"), "at once: it is not one more of the other's"
    assert "1 refused" in detail
    async with watched.http.get("/metrics") as response:
        text = await response.text()
    assert "glance_resolver_changes_refused_total 2.0" in text
    assert "glance_resolver_logins_refused_total 0.0" in text


async def test_wrong_tokens_are_rate_limited_and_reads_are_not(start: Start) -> None:
    gateway = await start(admin_tokens=TOKENS, client_rate=10)
    allowed = int(10 * BURST_SECONDS / REFUSED_LOGIN_TOKENS)
    statuses = [(await gateway.get("/locations", headers=WRONG))[0].status for _ in range(30)]
    assert statuses[:allowed] == [401] * allowed
    assert statuses[-1] == 429
    response, body = await gateway.get("/locations", headers=ANN)
    assert (response.status, body["code"]) == (429, "too-many-requests"), "the right one, too"
    assert 1 <= int(response.headers["Retry-After"]) <= BURST_SECONDS
    assert (await gateway.get(f"/resolve/{ID}/explain"))[0].status == 200


async def test_requests_without_a_token_do_not_count_as_guesses(start: Start) -> None:
    gateway = await start(admin_tokens=TOKENS, client_rate=1)
    for _ in range(20):
        assert (await gateway.get("/locations"))[0].status == 401
    assert (await gateway.get("/locations", headers=ANN))[0].status == 200


def logged(caplog: pytest.LogCaptureFixture, path: str) -> list[Any]:
    """The access log's lines about a path."""
    found = [record.msg for record in caplog.records if record.name == "access"]
    return [line for line in found if isinstance(line, dict) and line["path"] == path]


async def test_the_access_log_names_the_token(
    watched: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "access"):
        await watched.get("/locations", headers=BOB)
        await watched.get("/index", headers=BOB)
    (line,) = logged(caplog, "/locations")
    assert line["admin"] == "bob"
    (line,) = logged(caplog, "/index")
    assert "admin" not in line, "no admin path"


async def test_the_access_log_names_the_client_behind_a_trusted_proxy(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(trusted_proxies="127.0.0.0/8", admin_tokens=TOKENS, access_log="all")
    await gateway.location("one")
    await gateway.claim("one", ID)
    behind = {"X-Forwarded-For": "198.51.100.9, 203.0.113.7, 127.0.0.5"}
    paths = [f"/v2/images/{ID}", f"/resolve/{ID}", "/healthcheck", "/nowhere", "/locations"]
    with caplog.at_level("INFO", "access"):
        for path in paths:
            for _ in range(3):  # the second is a request that the front knows
                await gateway.get(path, headers=behind | WRONG)
    for path in paths:
        lines = logged(caplog, path)
        assert [line["client"] for line in lines] == ["203.0.113.7"] * 3, path
    assert "203.0.113.7" in next(
        record.getMessage() for record in caplog.records if "login refused" in record.getMessage()
    )


def test_an_invalid_line_of_the_tokens_file_affects_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(
        b"ann=first-token-0123456789\n\xff\xfe=b\nsecret thing\nx:root=some-token-123456\n"
        b"bob=last-token-0123456789\n"
    )
    tokens = Tokens(Settings(admin_tokens_file=str(file)))
    tokens.check()
    for given in (b"first-token-0123456789", b"last-token-0123456789"):
        assert tokens.find(given) is not None
    assert tokens.find(b"some-token-123456") is None
    (problem,) = tokens.problems()
    assert problem.code == "admin-tokens"
    assert "line 2, 3, 4" in problem.text
    assert "secret" not in problem.text + caplog.text
    assert caplog.text.count("admin tokens file is wrong") == 1
    file.write_text("ann=first-token-0123456789\n")
    assert list(tokens.problems()) == []


SAME = "the-same-token-0123456789"


@pytest.mark.parametrize(
    ("roles", "role"),
    [
        (("admin", "ro"), "ro"),
        (("ro", "admin"), "ro"),
        (("state", "admin"), "state"),
        (("claims", "state"), "ro"),
        (("state", "claims", "admin"), "ro"),
        (("admin", "admin"), "admin"),
    ],
)
@pytest.mark.parametrize("in_settings", [0, 1, 3])
def test_a_token_with_several_roles_has_the_least(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    in_settings: int,
    roles: tuple[str, ...],
    role: str,
) -> None:
    entries = [f"t{number}:{each}={SAME}" for number, each in enumerate(roles)]
    file = tmp_path / "tokens"
    file.write_text("\n".join(["ann=first-token-0123456789", *entries[in_settings:], ""]))
    tokens = Tokens(
        Settings(
            admin_tokens=",".join(entries[:in_settings]) or "bob=another-token-0123456",
            admin_tokens_file=str(file),
        )
    )
    tokens.check()
    assert tokens.find(SAME.encode()) == ("t0", SAME, role)
    assert tokens.find(b"first-token-0123456789") is not None
    (problem,) = tokens.problems()
    assert problem.code == "admin-token-repeated"
    assert f"t0:{roles[0]} and t1:{roles[1]}" in problem.text
    assert SAME not in problem.text + caplog.text
    assert caplog.text.count("admin token is repeated") == 1
    file.write_text(f"t0:{roles[0]}={SAME}\n")
    if not in_settings:
        assert list(tokens.problems()) == []
        assert tokens.find(SAME.encode()) == ("t0", SAME, roles[0])


def test_an_entry_may_be_both_in_the_settings_and_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"ann={SAME}\nann={SAME}\n")
    tokens = Tokens(Settings(admin_tokens=f"ann={SAME}", admin_tokens_file=str(file)))
    assert tokens.find(SAME.encode()) == ("ann", SAME, "admin")
    assert list(tokens.problems()) == []


def test_a_short_token_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    Tokens(Settings(admin_tokens="ann=short1,bob=long-enough-0123456789"))
    assert "admin token is short" in caplog.text
    assert "ann" in caplog.text
    assert "bob" not in caplog.text
    assert "short1" not in caplog.text


@pytest.mark.parametrize("role", [*Role, ""])
def test_the_role_is_a_part_of_the_entry(role: str) -> None:
    entry = parse_token(f"ann{f':{role}' if role else ''}=a-token=with:signs")
    assert entry == ("ann", "a-token=with:signs", role or "admin")


ALLOWED = {
    "claims": {"claim", "release", "sweep", "check"},
    "state": {"state", "sweep", "check"},
    "ro": set(),
    "admin": {"claim", "release", "sweep", "check", "state", "confirm", "patch", "put", "batch"}
    | {"rebuild", "import", "remove"},
}


@pytest.mark.parametrize("role", ALLOWED)
async def test_each_role_has_exactly_its_rights(start: Start, role: str) -> None:
    gateway = await start(admin_tokens=f"x:{role}=a-token-0123456789,root=root-token-0123456789")
    headers = {"Authorization": "Bearer a-token-0123456789"}
    await gateway.location("one", url="http://127.0.0.1:9")
    text = await exported_by(gateway, headers)
    requests: dict[str, tuple[str, str, dict[str, Any]]] = {
        "claim": ("PUT", f"/locations/one/images/{ID}", {}),
        "release": ("DELETE", f"/locations/one/images/{ID}", {}),
        "sweep": ("POST", "/locations/one/sweep", {}),
        "check": ("POST", "/locations/one/check", {}),
        "state": ("PATCH", "/locations/one", {"json": {"state": "draining", "reason": "disks"}}),
        "confirm": ("POST", "/locations/one/sweep", {"json": {"confirm_shrink": True}}),
        "patch": ("PATCH", "/locations/one", {"json": {"state": "active", "priority": 1}}),
        "put": ("PUT", "/locations/one", {"json": {"url": "http://127.0.0.1:9"}}),
        "batch": ("POST", "/locations", {"json": {"remove": []}}),
        "rebuild": ("POST", "/index/rebuild", {"json": {"bits": 9}}),
        "import": ("POST", "/index/import", {"data": text}),
        "remove": ("DELETE", "/locations/one", {}),
    }
    for path in ("/locations", "/locations/one", "/audit", "/report/conflicts"):
        assert (await gateway.get(path, headers=headers))[0].status == 200, path
    for what, (method, path, options) in requests.items():
        response, body = await gateway.call(method, path, headers=headers, **options)
        if what in ALLOWED[role]:
            assert response.status < 300, (what, body)
        else:
            assert response.status == 403, what
            assert body["code"] == ("read-only-token" if role == "ro" else "wrong-role")
            assert "a-token" not in json.dumps(body)


async def exported_by(gateway: Gateway, headers: dict[str, str]) -> str:
    async with gateway.http.get("/index/export", headers=headers) as response:
        assert response.status == 200
        return await response.text()


async def test_the_log_has_the_fields_of_a_change(
    watched: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis may lose the audit log, and the change with it. What was refused is not there."""
    fields = {"state": "draining", "reason": "new racks"}
    with caplog.at_level("INFO", "audit"):
        response, _ = await watched.call("PATCH", "/locations/one", headers=ANN, json=fields)
        assert response.status == 200
        await watched.call("PATCH", "/locations/one", headers=ANN, json={"state": "s3cret"})
    lines = [record.msg for record in caplog.records if record.name == "audit"]
    changes = [line for line in lines if isinstance(line, dict) and line["event"] == "admin"]
    (changed,) = (line for line in lines if isinstance(line, dict) and "after" in line)
    assert (changed["event"], changed["admin"], changed["after"]) == (
        "location changed",
        "ann",
        fields,
    )
    assert [line["status"] for line in changes] == [200, 400]
    assert "s3cret" not in caplog.text
