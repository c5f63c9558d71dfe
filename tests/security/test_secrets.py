"""No secret or internal detail is in logs, answers, metrics or the audit log."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from resolver.gateway.api import version_documents
from resolver.gateway.tokens import Tokens
from resolver.settings import Settings
from resolver.standin import StandIn
from tests.cli.test_serve import serve
from tests.conftest import started
from tests.gateway.conftest import ADMIN, TOKEN, Start
from tests.security.test_hostile import answer, request
from tests.security.test_smuggling import port_of
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
PASSWORD = "r3dis-passw0rd"
OPS, READER, UNKNOWN, USER = (
    "ops-t0ken-aaaa",
    "reader-t0ken-bb",
    "unknown-t0ken-c",
    "user-t0ken-dddd",
)
SECRETS = [PASSWORD, OPS, READER, UNKNOWN, USER]
SECRETS += [base64.b64encode(f"{name}:{OPS}".encode()).decode() for name in ("ops", "admin")]
SECRETS += [base64.b64encode(OPS.encode()).decode()]

HEADERS: list[dict[str, str]] = [
    {},
    {"Authorization": f"Bearer {OPS}"},
    {"Authorization": f"Bearer {READER}"},
    {"Authorization": f"Bearer {UNKNOWN}"},
    {"Authorization": f"bearer  {OPS}"},
    {"Authorization": OPS},
    {"Authorization": f"Token {OPS}"},
    {"Authorization": f"Basic {SECRETS[5]}"},
    {"Authorization": f"Basic {SECRETS[7]}"},
    {"X-Auth-Token": USER, "X-Service-Token": USER, "Cookie": f"token={USER}"},
    {
        "User-Agent": "python-glanceclient",
        "X-Auth-Token": USER,
        "Authorization": f"Bearer {UNKNOWN}",
    },
]
PATHS = [
    *(f"/v2/images/{ID}", f"/v2/images/{ID}/tags/x", f"/resolve/{ID}", f"/resolve/{ID}/explain"),
    *("/locations", "/locations/one", "/audit", "/index", "/metrics", "/versions", "/none"),
    *(f"/locations?token={OPS}", f"/resolve/{ID}?access_token={OPS}", f"/none?x=1&auth={OPS}&y=2"),
    *(f"/v2/images/{ID}?X-Auth-Token={USER}", f"/locations?PASSWORD={PASSWORD}"),
]
BROKEN = [
    f"GET /locations HTTP/1.1\r\nHost: a\r\nAuthorization Bearer {OPS}\r\n\r\n",
    f"GET /locations HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {OPS}\x00\r\n\r\n",
    f"GET /locations HTTP/1.1\r\nHost: a\r\nX-Auth-Token: {USER}\x01\r\n\r\n",
    f"{OPS} /locations HTTP/1.1\r\nHost: a\r\n\r\n",
    f"GET /locations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {OPS}\r\n\r\n",
    f"GET /locations HTTP/1.1\r\nHost: a\r\nContent-Length: {OPS}\r\n\r\n",
    f"GET /locations {OPS}/1.1\r\nHost: a\r\n\r\n",
]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = started(RedisServer(tmp_path, password=PASSWORD))
    yield server
    server.kill()


def secrets_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.redis
@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_secret_is_in_responses_logs_metrics_or_audit(
    redis: RedisServer, form: str
) -> None:
    """A real process, with every way of sending a token: its responses and its log."""
    responses: list[str] = []
    environ = {
        "RESOLVER_REDIS_URL": redis.url,
        "RESOLVER_ADMIN_TOKENS": f"ops={OPS},dash:ro={READER}",
        "RESOLVER_LOG_LEVEL": "debug",
        "RESOLVER_LOG_FORMAT": form,
    }
    async with serve("--location", "one=http://127.0.0.1:9", **environ) as server:
        async with aiohttp.ClientSession(server.url) as http:

            async def ask(method: str, path: str, **options: Any) -> int:
                async with http.request(method, path, allow_redirects=False, **options) as reply:
                    body = await reply.text()
                    if f"{ID}?" not in path:  # its redirect must have the query
                        responses.append(
                            f"{method} {path.partition('?')[0]}\n{reply.headers}\n{body}"
                        )
                    return reply.status

            async def ask_everything() -> None:
                for headers in HEADERS:
                    for path in PATHS:
                        for method in ("GET", "PUT"):
                            await ask(method, path, headers=headers)
                for text in BROKEN:
                    port = int(server.url.rpartition(":")[2])
                    responses.append(await answer(port, text.encode("latin-1")))

            assert await ask("PUT", f"/locations/one/images/{ID}", headers=HEADERS[1]) == 201
            await ask("PATCH", "/locations/one", headers=HEADERS[1], json={"reason": "racks"})
            await ask_everything()
            assert await ask("GET", "/audit", headers=HEADERS[2]) == 200
            assert '"by": "ops"' in responses[-1]
            redis.kill()
            await wait_until(lambda: "Redis did not answer" in server.output)
            for path in (*PATHS, "/readyz"):
                await ask("GET", path, headers=HEADERS[1])
            assert any("503" in text or "Redis did not answer" in text for text in responses)
        log = server.output
    assert log.count("\n") > 300
    assert secrets_in(log) == []
    assert [text for text in responses if secrets_in(text)] == []
    for text in responses:  # nor the address of Redis, or a path in the resolver
        assert redis.address not in text
        assert not re.search(r"Traceback|site-packages|/resolver/\w+\.py|/tmp/|Error \d+", text), (
            text
        )


async def test_only_admins_see_the_path_of_a_credential(start: Start, tmp_path: Path) -> None:
    gateway = await start(role="all", probe=True, health_interval=0.2)
    file = tmp_path / "token-of-one"
    async with StandIn() as one:
        fields = {"url": one.url, "auth": {"token_file": str(file)}}
        put, _ = await gateway.call("PUT", "/locations/one", headers=ADMIN, json=fields)
        assert put.status == 201

        async def failed() -> bool:
            _, body = await gateway.get("/locations/one", headers=ADMIN)
            return str(file) in (body["sweep"]["error"] or "")

        await wait_until(failed)  # an admin sees it
        paths = (f"/resolve/{ID}", f"/resolve/{ID}/explain", f"/v2/images/{ID}", "/index")
        for path in (*paths, "/metrics", "/readyz", "/v2/schemas/image"):
            reply, _ = await gateway.get(path)
            text = f"{reply.headers} {await reply.text()}"
            assert file.name not in text
            assert str(tmp_path) not in text


async def test_an_internal_error_shows_only_its_request_id(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"cannot read /etc/glance-resolver/secret with {PASSWORD}")

    gateway = await start()
    monkeypatch.setattr(version_documents, "version_document", broken)
    reply, body = await gateway.get("/versions")
    assert (reply.status, body["code"]) == (500, "internal-error")
    assert body["detail"] == f"the log has the cause: {reply.headers['X-Openstack-Request-Id']}"
    assert "secret" not in await reply.text()
    assert "secret" in caplog.text


def test_every_token_is_compared_whole_and_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []
    real = hmac.compare_digest

    def recorded(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", recorded)
    tokens = Tokens(Settings(admin_tokens="a=first-token,b=second-token,c=third-token"))
    for given in (b"first-token", b"third-token", b"fir", b"", b"first-token-and-more"):
        compared.clear()
        found = tokens.find(given)
        assert (found is not None) == (given in (b"first-token", b"third-token"))
        # With all tokens, at whatever position the right one is.
        assert compared == [
            (given, token) for token in (b"first-token", b"second-token", b"third-token")
        ]


async def test_a_token_is_accepted_as_bearer_only(start: Start) -> None:
    gateway = await start()
    basic = base64.b64encode(f"ops:{TOKEN}".encode()).decode()
    ways = [TOKEN, f"Basic {basic}", f"Token {TOKEN}", f"Bearer{TOKEN}", f"Bearer {TOKEN}x"]
    for value in [*ways, f'Bearer "{TOKEN}"', f"Bearer {TOKEN} {TOKEN}"]:
        reply, body = await gateway.get("/locations", headers={"Authorization": value})
        assert (reply.status, body["code"]) == (401, "unauthorized"), value
    for query in (f"?token={TOKEN}", f"?access_token={TOKEN}"):
        assert (await gateway.get(f"/locations{query}"))[0].status == 401
    twice = f"Authorization: Bearer x\r\nAuthorization: Bearer {TOKEN}\r\n"
    response = await answer(port_of(gateway), request("GET", "/locations", twice))
    assert " 400 " in response[:20] or " 401 " in response[:20]
