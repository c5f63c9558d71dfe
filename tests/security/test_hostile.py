"""Hostile requests: no answer is 500, and the log has no error."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.conftest import TOKEN, Gateway, Start
from tests.security.test_smuggling import port_of, statuses
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
LOGGED_IN = f"Authorization: Bearer {TOKEN}\r\n"
AS_JSON = "Content-Type: application/json\r\n"
ANSWER_TIMEOUT_SECONDS = 30.0

ITEMS = [
    *(ID.replace("-", "%2d"), f"{ID}%00", "%00", "%ff", "%c0%ae%c0%ae", "%ED%A0%80", "%zz", "%"),
    *("%EF%BC%90" * 32, f"{ID}%2f..%2f..", f"{ID}/%2e%2e/x", f"{ID}/../../x", f"{ID}//x", f"/{ID}"),
    *(f"{ID}%0d%0aX:%20y", f"{ID}%0aX", f"{ID};a=b", f"{ID}\\..\\x", f"{ID}?x=%0d%0a", f"{ID}#f"),
    *("a" * 7000, "a" * 9000, f"{ID}/{'a/' * 3000}", f"../{ID}", "\xc0\xae", f"{ID}/\xff", "NaN"),
    *(f"{{{ID}}}", f"urn:uuid:urn:uuid:{ID}", f"%20{ID}", "1e400", "%u0041", f"{ID}%E2%80%AE"),
]

PATHS = [
    *(f"//v2/images/{ID}", f"/v2//images/{ID}", f"/./v2/images/{ID}", f"/v2/../v2/images/{ID}"),
    *(f"http://evil/v2/images/{ID}", f"https://user:pw@evil:99/v2/images/{ID}", "*", "evil:443"),
    *(
        f"http://[::1/v2/images/{ID}",
        f"http://evil:99999/v2/images/{ID}",
        f"ftp://x/v2/images/{ID}",
    ),
    *(f"http:///v2/images/{ID}", f"//evil/v2/images/{ID}", f"/\\evil/v2/images/{ID}", "?", "x"),
    *(f"/v2%2fimages%2f{ID}", f"/%76%32/images/{ID}", f"/V2/images/{ID}", "/locations/%2e%2e"),
    *("/locations/one%00", f"/locations/{'a' * 300}", f"/locations/one/images/{ID}%00"),
    *("/audit?limit=1e3", "/audit?limit=%00&location=%ff", "/audit?limit=-1", "/audit?%ff=%ff"),
    *(f"/resolve/{ID}?region=%ff%00&exclude=%ff", f"/resolve/{ID}?fresh=%00"),
    *(f"/resolve/{ID}/explain?region=%ed%a0%80", "/v2/schemas/../x", "/v2/schemas/%2e%2e/x"),
    *("/v2/schemas/image%0d%0aX", "/index/export?x=%ff"),
]
METHODS = ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"]

FIELDS = [
    *("Host: evil", "X-Forwarded-Host: evil", f"Cookie: {'a' * 7000}", f"X: {'a' * 9000}"),
    *("X-A: b\r\n" * 200 + "X: y", "X-A: b\r\n" * 40_000 + "X: y", "\xff: x", "X\xff: x", ": x"),
    *("X-Openstack-Request-Id: req-\xff", "X-Resolver-Region: \xff\xfe", "X-Resolver-Fresh: \xff"),
    *(f"X-Resolver-Exclude: {',' * 6000}", "Accept: \xff;q=nan", f"Accept: {',;q=1e999' * 500}"),
    *("Accept: text/uri-list;q=inf", "Accept: application/json;q=\xb2", "Accept-Encoding: br;q=x"),
    *("Authorization: Bearer \xff\xfe", "Authorization: Basic ///", "Authorization:"),
    *("User-Agent: \xff", "User-Agent: python-glanceclient\xff", "Range: bytes=0-1"),
    *(
        "If-None-Match: *",
        "X-Resolver-Hop: ",
        "Expect: \xff",
        "Expect: x",
        "Cookie: \xff=\xff; ;=;",
    ),
    *("Upgrade: h2c", "X-Forwarded-For: \xff", "Forwarded: for=\xff;host=\xff", "Via: \xff"),
]
FIELD_PATHS = [f"/v2/images/{ID}", f"/resolve/{ID}", "/locations", "/metrics", "/versions", "/none"]

BODIES = {
    **{
        name: text.encode() for name, text in {"null": "null", "text": '"x"', "number": "1"}.items()
    },
    "nothing": b"",
    "deep": b"[" * 100_000,
    "deep and whole": b"[" * 960 + b"]" * 960,
    "deep objects": b'{"a":' * 5000,
    "a number of 10 MB": b"[" + b"1" * 10_000_000 + b"]",
    "a number of 60 KB": b"[" + b"1" * 60_000 + b"]",
    "a huge exponent": b"[1e" + b"9" * 1000 + b"]",
    "no numbers": b"[NaN, Infinity, -Infinity, 1e999]",
    "wrong types": b"[1.5, true, null, {}, [], -0]",
    "surrogates": b'["\\ud800", "\\udc00\\ud800"]',
    "surrogates as bytes": b'["\xed\xa0\x80"]',
    "UTF-16": json.dumps([ID]).encode("utf-16"),
    "UTF-16 without mark": json.dumps([ID]).encode("utf-16-le"),
    "UTF-32": json.dumps([ID]).encode("utf-32"),
    "Latin-1": b'["\xff"]',
    "null byte": b'["\x00"]',
    "null escaped": b'["\\u0000"]',
    "names twice": f'{{"ids":[1],"ids":["{ID}"]}}'.encode(),
    "more behind": b"[] x",
    "no list": b'{"ids":{}}',
    "more names": b'{"ids":[],"x":1}',
    "a text of 1 MB": b'["' + b"a" * 1_000_000 + b'"]',
    "too many": b"[" + b"1," * 200_000 + b"1]",
    "names that objects have": b'{"__proto__":{},"constructor":1}',
    "blanks": b" \t\n" * 1000,
}
BODY_ROUTES = [
    *(("POST", "/resolve"), ("PUT", "/locations/two"), ("PATCH", "/locations/one")),
    *(("POST", "/index/rebuild"), ("POST", "/locations/one/sweep"), ("POST", "/index/import")),
]

VALUES: dict[str, list[Any]] = {
    "url": [1, None, [], {}, f"http://x{'a' * 2000}", "http://a\0b", "http://\ud800", "http://["],
    "region": [1, "\ud800", "\0", "a" * 300, "\u202e", []],
    "priority": ["1", 1.0, 1e400, float("nan"), True, -1, 10**30, 10**300],
    "auth": [{"token_env": "A\0"}, {"token_file": "/\0"}, {"token_file": "/\ud800"}, {"cloud": 1}],
    "notifications": [{"url_env": []}, {"url_file": 1}, {"url_env": "A", "exchange": []}, []],
    "state": [[], {}, "\ud800"],
    "sees_all": [0, "x"],
    "\ud800": [1],
    "name": ["x", []],
}


def request(method: str, path: str, fields: str = "", body: bytes = b"") -> bytes:
    if body:
        fields += f"Content-Length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n"
    return head.encode("latin-1") + body


async def answer(port: int, *parts: bytes) -> str:
    """The response to a request whose parts are sent one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        for n, part in enumerate(parts):
            if n:
                await asyncio.sleep(
                    0.05
                )  # read separately on an idle machine; the answer is the same
            writer.write(part)
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while data := await reader.read(65536):
                received += data
    except ConnectionError:
        pass  # the gateway closed early; its answer may be lost
    finally:
        writer.transport.abort()
    return received.decode("latin-1")


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    gateway = await start(allowed_hosts="*.example,192.0.2.0/24")
    await gateway.location("one")
    await gateway.claim("one", ID)
    return gateway


@pytest.fixture
def faults(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Errors in the log; there must be none at the end."""
    found: list[str] = []
    yield found
    found += [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert found == []


def check_usable(text: str, what: str) -> None:
    """Fails if a client could not parse a response."""
    assert statuses(text), f"no answer to {what}"
    status = statuses(text)[-1]
    assert status in {"503", "501", "508"} or status < "500", f"{what}: {text[:300]}"
    head, _, body = text.partition("\r\n\r\n")
    assert "x-openstack-request-id: req-" in head.lower(), what
    assert not re.search('Traceback|File "|site-packages|/resolver/|aiohttp\\.', body), what
    if status >= "400" and body and "text/html" in head:  # as Glance writes errors
        assert f"<title>{status} " in body
        assert "<" not in re.sub(r"</?(html|head|title|body|h1|br) ?/?>", "", body)
    elif status >= "400" and body:
        assert "/problem+json" in head or "application/json" in head, f"{what}: {text[:300]}"
        assert json.loads(body)["status"] == int(status)


@pytest.mark.parametrize("path", ["/v2/images/", "/v1/images/", "/resolve/"])
async def test_malformed_ids_cause_no_internal_error(
    gateway: Gateway, faults: list[str], path: str
) -> None:
    for item in ITEMS:
        text = await answer(port_of(gateway), request("GET", path + item))
        check_usable(text, item)
        for line in re.findall(r"^(?:Location|Link): .*", text, re.MULTILINE | re.IGNORECASE):
            assert re.match(r"(?i)(Location: |Link: <)https://one\.example:9292/v[12]/", line)


async def test_unusual_paths_and_methods_cause_no_internal_error(
    gateway: Gateway, faults: list[str]
) -> None:
    for path in PATHS:
        for method in METHODS:
            what = f"{method} {path}"
            check_usable(await answer(port_of(gateway), request(method, path, LOGGED_IN)), what)


async def test_unusual_header_fields_cause_no_internal_error(
    gateway: Gateway, faults: list[str]
) -> None:
    for field in FIELDS:
        for path in FIELD_PATHS:
            if (field, path) == ("Expect: x", "/none"):
                continue  # aiohttp's own 417, where there is no route that could say otherwise
            text = await answer(port_of(gateway), request("GET", path, f"{field}\r\n"))
            if text:  # else it was too much, and closed before it was read whole
                check_usable(text, f"{field[:60]} {path}")


@pytest.mark.parametrize("name", BODIES)
async def test_unusual_bodies_cause_no_internal_error(
    gateway: Gateway, faults: list[str], name: str
) -> None:
    for method, path in BODY_ROUTES:
        for fields in (LOGGED_IN, LOGGED_IN + AS_JSON):
            text = await answer(port_of(gateway), request(method, path, fields, BODIES[name]))
            if text or len(BODIES[name]) < 10_000:
                check_usable(text, f"{method} {path} {name}")
            if name.startswith("UTF"):
                assert statuses(text)[-1] in ("400", "415"), "JSON is UTF-8"


@pytest.mark.parametrize("field", VALUES)
async def test_values_of_wrong_types_are_refused(
    gateway: Gateway, faults: list[str], field: str
) -> None:
    for value in VALUES[field]:
        body = json.dumps({"url": "http://192.0.2.1:1", field: value}).encode()
        text = await answer(
            port_of(gateway), request("PATCH", "/locations/one", LOGGED_IN + AS_JSON, body)
        )
        check_usable(text, f"{field} {value!r}"[:80])
        assert statuses(text) == ["400"], f"{field} {value!r}"[:80]


BROKEN = {
    "chunk": (b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"),
    "second chunk": (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"0\nX"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_body_that_is_malformed_in_the_middle(
    gateway: Gateway, faults: list[str], name: str
) -> None:
    head, rest = BROKEN[name]
    for line in (b"POST /resolve", b"PUT /locations/two"):
        first = line + b" HTTP/1.1\r\nHost: a\r\n" + LOGGED_IN.encode() + head
        text = await answer(port_of(gateway), first, rest)
        assert statuses(text) == ["400"], text
        assert "malformed-request" in text


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "\xff"])
async def test_only_an_import_may_be_compressed(
    gateway: Gateway, faults: list[str], coding: str
) -> None:
    """A megabyte would unpack to a gigabyte, for which one process needs two seconds."""
    body = gzip.compress(f'["{ID}"]'.encode())
    fields = f"{LOGGED_IN}{AS_JSON}Content-Encoding: {coding}\r\n"
    for method, path in BODY_ROUTES:
        text = await answer(port_of(gateway), request(method, path, fields, body))
        check_usable(text, f"{method} {path} {coding}")
        imports = coding == "gzip" and path == "/index/import"
        assert statuses(text) == ["400" if imports else "415"]
        assert f"Accept-Encoding: {'gzip' if 'import' in path else 'identity'}" in text or imports


async def test_a_compressed_gigabyte_is_not_read_to_its_end(
    gateway: Gateway, faults: list[str]
) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(10_000_000)) for _ in range(100)) + packer.flush()
    fields = f"{LOGGED_IN}Content-Encoding: gzip\r\n"
    begun = time.process_time()
    text = await answer(port_of(gateway), request("POST", "/index/import", fields, packed))
    assert statuses(text) in ([], ["400"])
    assert time.process_time() - begun < 0.5


async def test_a_client_that_disconnects_is_no_error(gateway: Gateway, faults: list[str]) -> None:
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        writer.write(b"POST /resolve HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab")
        await writer.drain()
        await writer.drain()
        writer.transport.abort()

    async def left() -> bool:
        reply, _ = await gateway.get("/metrics")
        return 'route="/resolve",status="499"} 20.0' in await reply.text()

    await wait_until(left)


async def test_other_origins_get_no_cors_fields(gateway: Gateway) -> None:
    fields = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
    for method in ("GET", "OPTIONS", "PUT"):
        for path in (*FIELD_PATHS, "/", "/healthcheck", "/index", "/openapi.json"):
            reply, _ = await gateway.call(method, path, headers=fields)
            assert not [n for n in reply.headers if n.lower().startswith("access-control")]


async def test_no_answer_names_versions_of_what_it_is_made_with(gateway: Gateway) -> None:
    for method in ("GET", "OPTIONS", "PUT", "POST"):
        for path in (*FIELD_PATHS, "/", "/healthcheck", "/index", "/nowhere", "/v2/images"):
            reply, _ = await gateway.call(method, path)
            assert reply.headers.get("Server", "glance-resolver") == "glance-resolver"
            assert "aiohttp" not in str(reply.headers)
