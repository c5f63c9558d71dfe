"""Malformed HTTP gets the same responses in pieces as in one write."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.conftest import ErrorLog, count_examples, examples
from tests.gateway.conftest import ADMIN, Gateway, Start, start

__all__ = ["start"]

CLOSE_TIMEOUT_SECONDS = 30.0
"""For the gateway to close a connection after its client has half-closed it."""

SILENCE_SECONDS = 0.3
"""How long the gateway may be silent until the client half-closes the connection. It may wait for
the rest of a body."""

LAST_REQUEST = b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
"""Follows the random bytes, so that most connections are closed."""

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
NOWHERE = "00000000-0000-4000-8000-000000000000"

TARGET = st.sampled_from(
    [
        *(
            f"/{api}/images/{ID}{rest}"
            for api in ("v1", "v2")
            for rest in ("", "/file", "/", "//x")
        ),
        f"/v2/images/{NOWHERE}",
        f"/v2/images/{ID.upper()}/file?a=%ff&b",
        f"/v2/images/{ID}/%2e%2e/x",
        f"/v2/images/%30{ID[1:]}",
        f"/resolve/{ID}?region=%ff",
        f"/resolve/{ID}/explain?exclude=%00,%ed%b2%80",
        "/resolve",
        "/index/import",
        "/index/rebuild",
        "/locations/one",
        "/locations/%ff",
        "/locations/%ed%b2%80%00",
        "/audit?location=%ff",
        "/audit?limit=\u0663",
        "/v2/schemas/image",
        "http://elsewhere.example/versions",
        "*",
        "//",
        "/index",
        "/",
    ]
)
BROKEN = (
    b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n"
    b"Authorization: %b\r\n\r\nhello"
)
METHOD = st.sampled_from(
    ["GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]
)
HEADER = st.sampled_from(
    [
        "Accept: text/uri-list;q=nan, */*;q=\u0663",
        "Accept: application/x-ndjson",
        "Content-Type: application/json",
        "Content-Encoding: gzip",
        "Content-Encoding: deflate",
        "Content-Encoding: br",
        "Connection: close",
        "Connection: upgrade\r\nUpgrade: websocket",
        "Expect: 100-continue",
        "Expect: 200-ok",
        "Transfer-Encoding: chunked",
        "Content-Length: 5",
        "Content-Length: -1",
        "X-Resolver-Region: \x80\xff",
        "X-Resolver-Exclude: ,,one,\x80",
        "X-Resolver-Fresh: 1",
        "X-Resolver-Fresh: \x80",
        "X-Openstack-Request-Id: req-\x80",
        "Accept: application/json",
        f"Authorization: {ADMIN['Authorization']}",
        "Authorization: Bearer \x80\xff",
        " folded",
        "no colon",
        "X: \0",
    ]
)
BODY = st.sampled_from(
    [
        "",
        "",
        "hello",
        f'["{ID}"]',
        "5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhel",
        "zz\r\n",
        "{}",
        '{"a":' * 9999,
    ]
)


def request_bytes(method: str, target: str, version: str, headers: list[str], body: str) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: gateway", *headers, "", body]
    return "\r\n".join(lines).encode(
        "utf-8" if target == "/audit?limit=\u0663" else "latin-1", "replace"
    )


REQUEST = st.builds(
    request_bytes,
    METHOD,
    TARGET,
    st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0", "9"]),
    st.lists(HEADER, max_size=4),
    BODY,
)
PLAIN_REQUEST = st.builds(
    request_bytes, st.just("GET"), TARGET, st.just("1.1"), st.just([]), st.just("")
)


def overwritten(data: bytes, at: int, new: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + new + data[at + len(new) :]


SENT = st.lists(
    PLAIN_REQUEST
    | REQUEST
    | st.builds(overwritten, PLAIN_REQUEST | REQUEST, st.integers(0, 300), st.binary(max_size=4)),
    min_size=1,
    max_size=4,
).map(b"".join)
CUTS = st.lists(st.integers(1, 400), max_size=4)


class Responses(NamedTuple):
    """The responses on one connection."""

    status: list[int]
    reset: bool
    """Whether the gateway closed with unread bytes: then its last response may be lost."""


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    # However long the examples take, the one sweep of each location stays fresh.
    gateway = await start(access_log="all", sweep_interval=86_400)
    await register(gateway)
    return gateway


async def register(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.location("two", url="https://two.example/image", priority=200)
    await gateway.claim("one", ID)
    await gateway.claim("two", ID)


async def answers_and_restore(gateway: Gateway, data: bytes, cuts: list[int]) -> Responses:
    """As `answers`, and the locations are as before, although a request may have changed them."""
    responses = await answers(gateway, data, cuts)
    if b"/locations" in data:
        await register(gateway)
    return responses


async def answers(gateway: Gateway, data: bytes, cuts: list[int]) -> Responses:
    """The responses to these bytes, sent in pieces, until the connection is closed."""
    data += LAST_REQUEST
    host, port = gateway.url.removeprefix("http://").split(":")
    async with AsyncExitStack() as stack:
        reader, writer = await asyncio.open_connection(host, int(port))
        stack.callback(writer.close)
        before, text, reset = 0, b"", False
        try:
            for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
                writer.write(data[before:cut])
                await writer.drain()
                await asyncio.sleep(0.001 if cuts else 0)
                before = cut
            while True:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        received = await reader.read(65536)
                except TimeoutError:  # the gateway may wait for more
                    writer.write_eof()
                    async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                        received = await reader.read(65536)
                if not received:
                    break
                text += received
        except ConnectionError:
            reset = True
    return Responses([int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", text)], reset)


@examples(250)
@example(b"GET /v2/images/%b HTTP/1.1\r\nHost: x\r\n\r\n" % ID.encode() * 3, [20, 60])
@example(BROKEN % (b"/resolve", b""), [])
@example(BROKEN % (b"/index/import", ADMIN["Authorization"].encode()), [])
@example(BROKEN % (b"/v2/images/%b" % ID.encode(), b""), [])
@example(
    b"DELETE /locations/one HTTP/1.1\r\nHost: x\r\nAuthorization: %b\r\n\r\n"
    % ADMIN["Authorization"].encode(),
    [2],
)
@example(
    b"DELETE /locations/one HTTP/1.1\r\nHost: x\r\nAuthorization: %b\r\nX-A: \x80\r\n\r\n"
    % ADMIN["Authorization"].encode(),
    [],
)
@given(SENT, CUTS)
async def test_malformed_http_is_answered_the_same_in_pieces(
    loop_errors: ErrorLog, gateway: Gateway, data: bytes, cuts: list[int]
) -> None:
    count_examples("http: connections")
    whole = await answers_and_restore(gateway, data, [])
    pieces = await answers_and_restore(gateway, data, cuts)
    loop_errors.check()
    for responses in (whole, pieces):
        faults = [
            status for status in responses.status if status >= 500 and status not in (501, 503)
        ]
        assert not faults, (data, cuts)
    if not (whole.reset or pieces.reset) and 400 not in whole.status[-1:] + pieces.status[-1:]:
        # A parser error, even after a request that closes the connection, makes aiohttp drop
        # everything that arrived in the same piece.
        assert pieces.status == whole.status, (data, cuts)
    response, _ = await gateway.get(f"/v2/images/{ID}")  # the gateway still answers
    assert response.status == 307
