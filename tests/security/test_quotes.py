"""What a location says is in no answer, but for what Glance says to clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator

import pytest

from resolver.glance.caller_listings import reason_of
from resolver.glance.glance_reply import Reply
from resolver.glance.glance_server import MAX_REASON_CHARACTERS
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.tcp_server import listening

MARK = "qu0ted"
IDS = (f"0a1b2c3d-4e5f-4a6b-8c7d-{number:012x}" for number in itertools.count())


def http(status: str, body: str = MARK, *fields: str, kind: str = "text/html") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return ("\r\n".join([*head, *fields]) + f"\r\n\r\n{body}").encode()


def page(status: str, reason: str) -> bytes:
    return http(status, f"<html><h1>{status}</h1>{reason}<br /><br /></html>")


VERSIONS = json.dumps({"versions": [{"id": "v2.15", "status": MARK, "links": [MARK]}, MARK]})

ANSWERS = {
    "no HTTP": f"{MARK} {MARK}\r\n\r\n".encode(),
    "another status line": f"HTTP/1.1 2{MARK} OK\r\n\r\n".encode(),
    "a bad field": f"HTTP/1.1 200 OK\r\n{MARK}\x01: {MARK}\r\n\r\n".encode(),
    "bad chunks": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{MARK}\r\n".encode(),
    "text": http(f"200 {MARK}", kind="text/plain"),
    "versions": http("200 OK", VERSIONS),
    "no rows": http("200 OK", json.dumps({"images": MARK, "next": MARK})),
    "rows of text": http("200 OK", json.dumps({"images": [[MARK]], "next": MARK})),
    "broken JSON": http("200 OK", f'{{"images": [{{"id": "{MARK}"'),
    "redirect": http("302 Found", MARK, f"Location: http://192.0.2.1/{MARK}"),
    **{f"{n} text": http(f"{n} {MARK}", kind="text/plain") for n in (400, 403, 404, 409, 500, 503)},
    **{f"{n} JSON": http(f"{n} {MARK}", json.dumps({"message": MARK})) for n in (400, 403)},
    **{f"{n} Glance's": page(f"{n} {MARK}", MARK) for n in (404, 500, 503)},
    "401": http(f"401 {MARK}"),
    "413": http(f"413 {MARK}", MARK, f"Retry-After: {MARK}"),
}


class Server:
    """A location that answers everything with the same bytes."""

    def __init__(self) -> None:
        self.answer = b""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with listening(server.serve) as server.url:
        yield server


@pytest.fixture
async def gateway(start: Start, server: Server) -> Gateway:
    gateway = await start(probe=True, probe_timeout=5, listing_timeout=5, absent_ttl=0)
    await gateway.location("one", url=server.url)
    return gateway


async def everything(gateway: Gateway, unknown: str) -> AsyncIterator[tuple[str, str]]:
    """Requests that make the gateway ask the location, with their answers in full."""
    client = {"X-Auth-Token": "client"}
    html = {**client, "Accept": "text/html"}
    for method, path, headers in [
        ("POST", "/locations/one/check", ADMIN),
        ("GET", f"/resolve/{unknown}", {}),
        ("GET", f"/resolve/{unknown}?fresh=1", client),
        ("GET", f"/resolve/{unknown}/explain", {}),
        ("GET", f"/v2/images/{unknown}", client),
        ("HEAD", f"/v1/images/{unknown}", client),
        ("GET", "/v2/images?limit=5", client),
        ("GET", "/v2/images?limit=5", html),
        ("GET", "/v2/images?sort=name:asc", {**client, "X-Resolver-Partial": "allow"}),
        ("GET", "/resolve?name=x", client),
        ("GET", f"/?id={unknown}", html),
        ("GET", "/locations/one", ADMIN),
        ("GET", "/status", ADMIN),
        ("GET", "/index", ADMIN),
        ("GET", "/metrics", ADMIN),
    ]:
        async with gateway.http.request(
            method, path, headers=headers, allow_redirects=False
        ) as response:
            text = (await response.read()).decode()
            yield f"{method} {path}", f"{response.reason} {response.headers} {text}"


@pytest.mark.parametrize("kind", ANSWERS)
async def test_no_answer_quotes_a_location(gateway: Gateway, server: Server, kind: str) -> None:
    server.answer = ANSWERS[kind]
    quoted = [
        (request, answer)
        async for request, answer in everything(gateway, next(IDS))
        if MARK in answer
    ]
    assert quoted == []


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden"])
async def test_the_reason_of_glance_is_passed_on(
    gateway: Gateway, server: Server, status: str
) -> None:
    """Which filter Glance does not accept, its clients must know. It is escaped, and short."""
    server.answer = page(status, f"{MARK} &lt;script&gt;\x1b[31m\r\n{'x' * 10_000}")
    for accept in ("*/*", "application/json"):
        headers = {"X-Auth-Token": "client", "Accept": accept}
        async with gateway.http.get("/v2/images", headers=headers) as response:
            text = await response.text()
        assert response.status == int(status[:3])
        assert MARK in text
        assert "\x1b" not in text
        assert len(text) < 1000
        assert "<script>" not in text or response.content_type.endswith("json")


@pytest.mark.parametrize(
    "reason", ["&#" + "9" * 5000, "&#x" + "f" * 5000 + ";", "&ampamp" * 8000, "&" * 60_000]
)
async def test_references_without_end_in_a_reason_are_no_fault(
    gateway: Gateway, server: Server, reason: str
) -> None:
    """A number of more than 4,300 digits was a 500, and 60 kB of names took 10 ms."""
    server.answer = page("400 Bad Request", reason)
    async with gateway.http.get("/v2/images", headers={"X-Auth-Token": "client"}) as response:
        assert response.status == 400
    reply = Reply(400, {}, server.answer.partition(b"\r\n\r\n")[2])
    started = time.thread_time()
    assert len(reason_of(reply)) <= MAX_REASON_CHARACTERS
    assert time.thread_time() - started < 0.005


async def test_the_challenge_of_a_location_is_passed_on(gateway: Gateway, server: Server) -> None:
    """As Glance's own to its clients."""
    server.answer = http("401 Unauthorized", MARK, "WWW-Authenticate: Keystone uri='https://k'")
    async with gateway.http.get("/v2/images", headers={"X-Auth-Token": "client"}) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Keystone uri='https://k'"
        assert MARK not in await response.text()


@pytest.mark.parametrize("character", ["\x01", "\x1b", "\x7f", "\u009b", "\u00e9"])
async def test_a_challenge_that_cannot_be_sent_on_is_left_out(
    gateway: Gateway, server: Server, character: str
) -> None:
    """With it, clients got no answer at all."""
    server.answer = http("401 Unauthorized", MARK, f"WWW-Authenticate: Keystone {character}a")
    for path in ("/v2/images", "/resolve?name=a"):
        async with gateway.http.get(path, headers={"X-Auth-Token": "client"}) as response:
            assert response.status == 401
            assert "WWW-Authenticate" not in response.headers
