"""The gateway over TLS: invalid files, protocol versions, and renewed certificates."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from resolver.errors import SettingsError
from resolver.gateway.net import connection_limiter, listener
from resolver.gateway.net.tls import load
from resolver.settings import load_settings
from tests.cli.test_serve import run, serve
from tests.cli.test_workers import workers
from tests.gateway.bridged_requests import BridgedRequests
from tests.gateway.conftest import ADMIN, TOKEN, Start
from tests.support.certificates import Authority, Files
from tests.support.wait import wait_until

PEM = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    """A certificate that the test may replace."""
    issued = authority.issue()
    mine = Files(tmp_path / "cert.pem", tmp_path / "key.pem")
    replace(mine, issued)
    return mine


def replace(files: Files, by: Files) -> None:
    """Replaces each file atomically, one after the other, as certbot and Kubernetes do."""
    for old, new in ((files.cert, by.cert), (files.key, by.key)):
        shutil.copy(new, old.with_suffix(".new"))
        old.with_suffix(".new").replace(old)


async def presented_certificate(url: str, authority: Authority) -> bytes | None:
    """The certificate that the server presents to a new connection."""
    host, port = url.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=authority.client())
    try:
        found: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found
    finally:
        writer.close()
        await writer.wait_closed()


def der(files: Files) -> bytes:
    return ssl.PEM_cert_to_DER_cert(PEM.findall(files.cert.read_text())[0])


def missing(files: Files, _: Authority) -> Files:
    return Files(files.cert, files.key.with_name("none.pem"))


def other_key(files: Files, authority: Authority) -> Files:
    return Files(files.cert, authority.issue().key)


def encrypted(files: Files, _: Authority) -> Files:
    key = load_pem_private_key(files.key.read_bytes(), None)
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files.key.write_bytes(key.private_bytes(*form))
    return files


def swapped(files: Files, _: Authority) -> Files:
    return Files(files.key, files.cert)


def broken(files: Files, _: Authority) -> Files:
    files.cert.write_text(files.cert.read_text()[:200] + "\n")
    return files


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "RESOLVER_TLS_KEY: cannot read .*none.pem: No such file"),
        (other_key, "RESOLVER_TLS_KEY: .* is not the key of .*cert.pem"),
        (encrypted, "RESOLVER_TLS_KEY: .*key.pem needs a passphrase.*openssl pkey"),
        (swapped, "RESOLVER_TLS_CERT: .*key.pem holds no certificate in PEM form"),
        (broken, "RESOLVER_TLS_CERT, RESOLVER_TLS_KEY: .* cannot be used: "),
    ],
)
async def test_an_unusable_certificate_is_one_line_at_start(
    files: Files, authority: Authority, damage: Callable[[Files, Authority], Files], message: str
) -> None:
    status, _, err = await run("serve", "--port", "0", **damage(files, authority).environ)
    assert status == 1
    assert re.search(message, err)
    assert err.count("\n") == 1, err


def test_a_key_without_a_certificate_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_TLS_KEY", "/key.pem")
    with pytest.raises(SettingsError, match="set RESOLVER_TLS_CERT"):
        load_settings()


def test_tls_before_1_2_is_refused(files: Files) -> None:
    context = load(files.cert, files.key)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    # Debian's Python lists PSK and SRP too, which a server without such keys cannot negotiate.
    weak = re.compile("NULL|EXP|RC4|DES|MD5|ADH|AECDH")
    assert not [c["name"] for c in context.get_ciphers() if weak.search(c["name"])]


async def test_the_fast_path_answers_over_tls_and_links_say_https(
    start: Start, files: Files, authority: Authority, bridged: BridgedRequests
) -> None:
    gateway = await start(tls_cert=str(files.cert), tls_key=str(files.key))
    assert gateway.url.startswith("https://127.0.0.1:")
    await gateway.location("one")
    await gateway.claim("one", ID)
    connector = aiohttp.TCPConnector(ssl=authority.client())
    async with aiohttp.ClientSession(gateway.url, connector=connector) as http:
        for _ in range(5):
            async with http.get(f"/v2/images/{ID}", allow_redirects=False) as reply:
                assert reply.status == 307
                assert reply.headers["Location"] == f"https://one.example:9292/v2/images/{ID}"
        # The first may come with the end of the handshake, before aiohttp's task has begun.
        assert bridged.count <= 1
        async with http.get("/versions") as reply:
            for version in (await reply.json())["versions"]:
                assert version["links"][0]["href"].startswith(f"{gateway.url}/v")


async def test_plain_http_to_a_tls_port_gets_no_response(start: Start, files: Files) -> None:
    gateway = await start(tls_cert=str(files.cert), tls_key=str(files.key))
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(gateway.url.replace("https", "http") + "/livez")


async def test_the_next_connection_gets_a_new_certificate(
    start: Start, files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(tls_cert=str(files.cert), tls_key=str(files.key))
    old, new = der(files), authority.issue()
    assert await presented_certificate(gateway.url, authority) == old
    shutil.copy(new.cert, files.cert)  # the key is replaced later
    assert await presented_certificate(gateway.url, authority) == old
    assert "is not the key of" in caplog.text
    files.cert.unlink()
    assert await presented_certificate(gateway.url, authority) == old
    os.mkfifo(files.cert)  # to read it would take until somebody writes
    assert await presented_certificate(gateway.url, authority) == old
    replace(files, new)
    assert await presented_certificate(gateway.url, authority) == der(new)
    assert [r for r in caplog.records if r.levelno == logging.ERROR]


@pytest.mark.parametrize(
    ("days", "text"), [(13, "valid until "), (-1, "not valid now"), (15, ""), (None, "")]
)
async def test_a_certificate_that_ends_soon_is_a_problem(
    start: Start, authority: Authority, days: int | None, text: str
) -> None:
    end = None if days is None else datetime.now(UTC) + timedelta(days=days)
    files = authority.issue(not_after=end)
    gateway = await start(tls_cert=str(files.cert), tls_key=str(files.key))
    found = [p.text for p in gateway.services.problems.current() if p.code == "certificate"]
    assert len(found) == bool(text)
    assert all(text in each for each in found)


async def test_a_refused_certificate_is_a_problem(
    start: Start, files: Files, authority: Authority
) -> None:
    gateway = await start(tls_cert=str(files.cert), tls_key=str(files.key))

    async def codes() -> set[str]:
        await presented_certificate(gateway.url, authority)
        return {problem.code for problem in gateway.services.problems.current()}

    assert "certificate" not in await codes()
    kept = files.cert.read_text()
    files.cert.write_text("garbage")
    assert "certificate" in await codes()
    files.cert.write_text(kept)
    assert "certificate" not in await codes()


async def test_the_certificate_file_may_contain_the_key(
    start: Start, files: Files, authority: Authority
) -> None:
    files.cert.write_text(files.key.read_text() + files.cert.read_text())
    gateway = await start(tls_cert=str(files.cert))
    assert await presented_certificate(gateway.url, authority) == der(files)


async def test_an_endless_handshake_delays_no_client_and_no_exit(
    files: Files, authority: Authority
) -> None:
    async with serve(**files.environ) as server:
        assert server.url.startswith("https://")
        host, port = server.url.removeprefix("https://").split(":")
        _, silent = await asyncio.open_connection(host, int(port))
        try:
            assert await presented_certificate(server.url, authority) == der(files)
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await server.process.wait() == 0
        finally:
            silent.close()
        assert "Traceback" not in server.output


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "a part"])
async def test_handshakes_that_never_end_make_room_at_the_connection_limit(
    start: Start, files: Files, authority: Authority, sent: bytes
) -> None:
    gateway = await start(
        tls_cert=str(files.cert), tls_key=str(files.key), max_connections=8, client_timeout=300
    )
    host, port = gateway.url.removeprefix("https://").split(":")
    async with AsyncExitStack() as stack:
        for _ in range(16):
            _, silent = await asyncio.open_connection(host, int(port))
            stack.callback(silent.close)
            silent.write(sent)
        connector = aiohttp.TCPConnector(ssl=authority.client())
        async with (
            aiohttp.ClientSession(gateway.url, connector=connector) as http,
            http.get("/metrics") as reply,
        ):
            assert 'connections_cut_total{reason="room"}' in await reply.text()


@pytest.mark.parametrize("patience", [60.0, 0.1])
async def test_a_handshake_is_closed_first_only_where_it_takes_long(
    start: Start,
    files: Files,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    patience: float,
) -> None:
    monkeypatch.setattr(connection_limiter, "EVICT_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(listener, "HANDSHAKE_PATIENCE_SECONDS", patience)
    gateway = await start(
        tls_cert=str(files.cert), tls_key=str(files.key), max_connections=2, client_timeout=300
    )
    host, port = gateway.url.removeprefix("https://").split(":")

    async with AsyncExitStack() as stack:

        async def connected(tls: ssl.SSLContext | None) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
            stack.push_async_callback(ended, writer)
            if tls is not None:
                writer.write(b"HEAD /livez HTTP/1.1\r\nHost: g\r\n\r\n")
                assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
            return reader

        used = await connected(authority.client())
        slow = await connected(None)  # idle for less time
        await asyncio.sleep(0.3)
        await connected(authority.client())
        closed, kept = (used, slow) if patience > 1 else (slow, used)
        assert await closed.read() == b""
        assert not kept.at_eof()


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.mark.redis
async def test_workers_use_tls_and_load_a_new_certificate(
    redis_url: str, files: Files, authority: Authority
) -> None:
    environ = {"RESOLVER_REDIS_URL": redis_url, "RESOLVER_ADMIN_TOKENS": TOKEN, **files.environ}
    more = ("--workers", "2", "--role", "gateway", "--location", "one=https://one.example")
    async with serve(*more, **environ) as server:
        await wait_until(lambda: len(workers(server)) == 2)
        before = workers(server)
        connector = aiohttp.TCPConnector(ssl=authority.client(), force_close=True)
        async with aiohttp.ClientSession(server.url, connector=connector) as http:
            async with http.put(f"/locations/one/images/{ID}", headers=ADMIN) as reply:
                assert reply.status == 201
            for _ in range(8):
                async with http.get(f"/v2/images/{ID}", allow_redirects=False) as reply:
                    assert reply.status == 307
            new = authority.issue()
            replace(files, new)
            for _ in range(8):  # whichever worker it is
                assert await presented_certificate(server.url, authority) == der(new)
            for broken in (False, True):
                if broken:
                    encrypted(files, authority)
                os.kill(server.process.pid, signal.SIGHUP)
                await wait_until(
                    lambda old=before: len(workers(server)) == 2 and not workers(server) & old
                )
                before = workers(server)
                for _ in range(8):
                    assert await presented_certificate(server.url, authority) == der(new)
            os.kill(min(before), signal.SIGKILL)  # one that comes in its place has it too
            await wait_until(lambda: len(workers(server)) == 2 and workers(server) != before)
            for _ in range(8):
                assert await presented_certificate(server.url, authority) == der(new)


async def test_large_responses_and_pipelined_requests_are_complete_over_tls(
    start: Start, files: Files, authority: Authority
) -> None:
    gateway = await start(tls_cert=str(files.cert), tls_key=str(files.key), client_timeout=0.5)
    await gateway.location("one")
    await gateway.claim("one", ID)
    host, port = gateway.url.removeprefix("https://").split(":")
    one = f"GET /v2/images/{ID} HTTP/1.1\r\nHost: g\r\n\r\n".encode()
    ids = "\n".join([ID] * 5000).encode()
    many = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(ids) + ids
    last = b"GET /livez HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection(host, int(port), ssl=authority.client())
    async with asyncio.timeout(30):
        writer.write(one)
        assert b" 307 " in await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1)  # longer than a head may take: it has come
        writer.write(one * 30 + many + last)
        got = await reader.read()
    assert got.count(b"HTTP/1.1 307 ") == 30
    assert got.count(b'"outcome": "found"') == 5000
    assert got.count(b"HTTP/1.1 200 ") == 2
    writer.close()
    await writer.wait_closed()
