"""A Keystone that redirects: a login goes to the server that clouds.yaml names, and to no other."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from resolver.bounded_http import MAX_DOCUMENT_BYTES, MAX_HEAD_BYTES
from resolver.errors import LocationUnavailable
from resolver.glance.cloud_config import CloudRef
from resolver.glance.keystone import authenticate
from resolver.glance.keystone_http import MAX_LOGIN_BYTES
from tests.support.certificates import Authority
from tests.support.fake_keystone import FakeKeystone
from tests.support.plain_server import PlainReply, PlainServer
from tests.support.wait import POLL_SECONDS

pytest.importorskip("openstack")

TOKEN = {
    "methods": ["password"],
    "user": {"id": "u", "name": "sweep", "domain": {"id": "d", "name": "d"}},
    "issued_at": "2026-01-01T00:00:00.000000Z",
    "expires_at": "2126-01-01T00:00:00.000000Z",
}


class Keystone(PlainServer):
    """Redirects logins to ``target``, with this status. It accepts those that come there."""

    def __init__(self) -> None:
        super().__init__()
        self.status, self.target = 307, "/elsewhere"
        self.reply: PlainReply | None = None
        """To any request, in place of that."""
        self.logins: list[str] = []

    def answer(self, path: str, headers: Message) -> PlainReply:
        if self.reply is not None:
            return self.reply
        if path == "/v3/auth/tokens":
            return PlainReply(self.status, b"", {"Location": self.target})
        if path.endswith("/elsewhere"):
            self.logins.append(path)
            return PlainReply(
                201, json.dumps({"token": TOKEN}).encode(), {"X-Subject-Token": "token"}
            )
        return PlainReply(404)


@pytest.fixture
def keystone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keystone]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Keystone() as keystone:
        auth = {"auth_url": f"{keystone.url}/v3", "user_id": "u", "password": "secret"}
        cloud = {"auth_type": "v3password", "auth": auth}
        file = tmp_path / "clouds.yaml"
        file.write_text(yaml.safe_dump({"clouds": {"one": cloud}}))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        yield keystone


@pytest.mark.parametrize("status", [301, 302, 303, 305, 307, 308])
def test_a_login_is_not_sent_to_another_server(keystone: Keystone, status: int) -> None:
    with Keystone() as other:
        keystone.status, keystone.target = status, f"{other.url}/elsewhere"
        with pytest.raises(LocationUnavailable, match="redirects to another server") as error:
            authenticate(CloudRef("one"))
        assert other.logins == []
        assert "elsewhere" not in error.value.detail  # no byte of what it answered


def test_a_login_is_not_sent_to_another_server_by_a_relative_url(keystone: Keystone) -> None:
    with Keystone() as other:
        keystone.target = f"//{urlsplit(other.url).netloc}/elsewhere"
        with pytest.raises(LocationUnavailable, match="redirects to another server"):
            authenticate(CloudRef("one"))
        assert other.logins == []


async def test_a_login_goes_over_https_whatever_the_version_document_says(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    issued = authority.issue()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(issued.cert, issued.key)
    secure = await FakeKeystone().start(tls)
    async with secure, FakeKeystone() as plain:
        auth = secure.auth() | {"auth_url": secure.url.removesuffix("/v3")}
        cloud = {"auth": auth, "cacert": str(authority.file)}
        file = tmp_path / "clouds.yaml"
        file.write_text(yaml.safe_dump({"clouds": {"one": cloud}}))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        secure.url = plain.url  # what its version document names
        assert (await asyncio.to_thread(authenticate, CloudRef("one"))).headers
        assert (secure.logins, plain.logins) == (1, 0)


def test_a_compressed_answer_is_not_read(keystone: Keystone) -> None:
    body = gzip.compress(bytes(10_000_000))
    keystone.reply = PlainReply(201, body, {"Content-Encoding": "gzip"})
    with pytest.raises(LocationUnavailable, match="it compresses its answer"):
        authenticate(CloudRef("one"))


def test_a_long_answer_is_not_decoded(keystone: Keystone) -> None:
    """Decoding holds the interpreter, in a thread too: 32 MiB of lists held up all clients for two
    seconds. A thousand endpoints are no such answer."""
    endpoint = {"id": "0" * 32, "region_id": "one", "url": "https://one.example/image"}
    service = {"type": "image", "endpoints": [{**endpoint, "interface": "public"}] * 3}
    for services, is_read in ((1000, True), (3000, False)):
        token = TOKEN | {"catalog": [service] * services}
        reply = PlainReply(201, json.dumps({"token": token}).encode(), {"X-Subject-Token": "token"})
        keystone.reply = reply
        assert (len(reply.body) > MAX_LOGIN_BYTES) is not is_read
        if is_read:
            assert authenticate(CloudRef("one")).headers == {"X-Auth-Token": "token"}
            continue
        with pytest.raises(LocationUnavailable, match="longer than 1 MiB"):
            authenticate(CloudRef("one"))


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b" " * 65_536 + b"\r\n"


@pytest.mark.parametrize(
    ("first", "again", "limit"),
    [
        (b"", INTERIM * 2000, MAX_HEAD_BYTES),
        (b"HTTP/1.1 201 Created\r\n", b"A: b\r\n" * 9000, MAX_HEAD_BYTES),
        (CHUNKED, CHUNK, MAX_DOCUMENT_BYTES),
        (b"HTTP/1.1 201 Created\r\n\r\n", b" " * 65_536, MAX_DOCUMENT_BYTES),
    ],
    ids=["interim", "head", "chunks", "body"],
)
def test_an_answer_without_end_is_an_error(
    keystone: Keystone,
    tmp_path: Path,
    first: bytes,
    again: bytes,
    limit: int,
) -> None:
    class Endless(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            nonlocal sent
            self.rfile.readline()
            with contextlib.suppress(OSError):
                self.wfile.write(first)
                while True:
                    sent += self.wfile.write(again)

    sent = 0
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v3"
        auth = {"auth_url": url, "user_id": "u", "password": "secret"}
        cloud = {"auth_type": "v3password", "auth": auth}
        (tmp_path / "clouds.yaml").write_text(yaml.safe_dump({"clouds": {"one": cloud}}))
        with pytest.raises(LocationUnavailable, match="gives no token") as error:
            authenticate(CloudRef("one"))
        server.shutdown()
        thread.join()
    assert sent < limit + 16 * 1024 * 1024  # what the kernel had taken
    assert error.value.detail.isprintable()


def test_a_redirect_at_the_same_server_is_followed(keystone: Keystone) -> None:
    keystone.target = f"{keystone.url}/elsewhere"
    assert authenticate(CloudRef("one")).headers == {"X-Auth-Token": "token"}
    assert keystone.logins == ["/elsewhere"]
