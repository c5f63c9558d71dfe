"""Size limits: the largest request is accepted; one byte or item more is refused and counted."""

from __future__ import annotations

import json
import logging

import pytest

from resolver.gateway.api import resolve
from resolver.gateway.api.locations import MAX_BODY_BYTES
from resolver.gateway.api.resolve import MAX_ITEM_BYTES
from resolver.gateway.net.request_head import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_FIELDS_BYTES,
    MAX_TARGET_BYTES,
)
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.limits.conftest import metric
from tests.support.http_connection import connected

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
LIMIT = 10
FIELD = b"X-A: "


def head(*fields: bytes, target: bytes = b"/livez") -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: g", *fields, b"", b""])


async def ask(gateway: Gateway, request: bytes, piece: int = 1 << 20) -> tuple[int, str]:
    """Status and code of the answer to a request that is sent in pieces."""
    async with connected(gateway.url) as connection:
        for start in range(0, len(request), piece):
            await connection.send(request[start : start + piece])
        response = await connection.response()
        return response.status, response.problem_code


async def count_refused(gateway: Gateway, status: int) -> float:
    return await metric(
        gateway,
        f'glance_resolver_requests_total{{method="none",route="none",status="{status}"}}',
    )


def padded(size: int) -> bytes:
    return b"/livez?" + b"x" * (size - 7)


@pytest.mark.parametrize("piece", [1 << 20, 1000])
async def test_a_target_of_8190_bytes_is_accepted_and_one_more_is_414(
    gateway: Gateway, piece: int
) -> None:
    assert await ask(gateway, head(target=padded(MAX_TARGET_BYTES)), piece) == (200, "")
    assert await ask(gateway, head(target=padded(MAX_TARGET_BYTES + 1)), piece) == (
        414,
        "uri-too-long",
    )
    assert await count_refused(gateway, 414) == 1


@pytest.mark.parametrize("piece", [1 << 20, 1000])
async def test_a_value_of_16_kib_is_accepted_and_one_more_byte_is_431(
    gateway: Gateway, piece: int
) -> None:
    value = b"x" * MAX_FIELD_BYTES
    assert await ask(gateway, head(FIELD + value), piece) == (200, "")
    too_large = 431, "header-too-large"
    assert await ask(gateway, head(FIELD + value + b"x"), piece) == too_large
    assert await count_refused(gateway, 431) == 1


async def test_128_fields_are_accepted_and_one_more_is_431(gateway: Gateway) -> None:
    fields = [b"X-%d: y" % number for number in range(MAX_FIELDS - 1)]  # and Host
    assert await ask(gateway, head(*fields)) == (200, "")
    assert await ask(gateway, head(*fields, b"X: y")) == (431, "header-too-large")
    assert await count_refused(gateway, 431) == 1


@pytest.mark.parametrize("piece", [1 << 20, 1000])
async def test_fields_of_32_kib_in_all_are_accepted_and_one_more_byte_is_431(
    gateway: Gateway, piece: int
) -> None:
    available = MAX_FIELDS_BYTES - len(b"Host: g\r\n")
    fields = [FIELD + b"x" * (10_000 - len(FIELD) - 2) for _ in range(available // 10_000)]
    last = FIELD + b"x" * (available % 10_000 - len(FIELD) - 2)
    assert await ask(gateway, head(*fields, last), piece) == (200, "")
    assert await ask(gateway, head(*fields, last + b"x"), piece) == (431, "header-too-large")
    assert await count_refused(gateway, 431) == 1


async def test_the_limit_holds_for_the_next_request_too(gateway: Gateway) -> None:
    many = [FIELD + b"x" * 8100 for _ in range(5)]
    async with connected(gateway.url) as connection:
        await connection.send(head())
        assert (await connection.response()).status == 200
        await connection.send(head(*many))
        assert (await connection.response()).status == 431


async def test_an_endless_head_is_refused_at_the_limit(
    gateway: Gateway,
) -> None:
    async with connected(gateway.url) as connection:
        await connection.send(b"GET /livez HTTP/1.1\r\n")
        sent = 0
        while sent < MAX_FIELDS_BYTES + MAX_TARGET_BYTES:
            await connection.send(field := FIELD + b"x" * 10_000 + b"\r\n")
            sent += len(field)
        assert (await connection.response()).status == 431


async def test_the_largest_head_takes_the_fast_path_too(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    value = b"x" * (MAX_FIELD_BYTES - 3)
    target = f"/v2/images/{ID}".encode()
    async with connected(gateway.url) as connection:
        for _ in range(2):
            await connection.send(head(FIELD + value, target=target))
            assert b"HTTP/1.1 307 " in await connection.reader.readuntil(b"\r\n\r\n")


async def bulk(gateway: Gateway, body: bytes) -> tuple[int, str]:
    response, answer = await gateway.call("POST", "/resolve", data=body)
    return response.status, answer["code"] if response.status >= 400 else ""


async def test_the_most_ids_are_answered_and_one_more_is_413(start: Start) -> None:
    gateway = await start(bulk_limit=LIMIT)
    assert await bulk(gateway, json.dumps([ID] * LIMIT).encode()) == (200, "")
    assert await bulk(gateway, json.dumps([ID] * (LIMIT + 1)).encode()) == (413, "too-large")


async def test_the_largest_body_is_read_and_one_more_byte_is_413(
    start: Start,
) -> None:
    gateway = await start(bulk_limit=LIMIT)
    largest = f'["{ID}"]'.encode().ljust(LIMIT * MAX_ITEM_BYTES)
    assert await bulk(gateway, largest) == (200, "")
    assert await bulk(gateway, largest + b" ") == (413, "too-large")
    _, problem = await gateway.call("POST", "/resolve", data=largest + b" ")
    assert problem["detail"].endswith(": send fewer ids at once")


async def test_the_largest_location_is_read_and_one_more_byte_is_413(
    gateway: Gateway,
) -> None:
    body = b'{"url": "https://one.example"}'.ljust(MAX_BODY_BYTES)
    headers = {**ADMIN, "Content-Type": "application/json"}
    response, _ = await gateway.call("PUT", "/locations/one", data=body, headers=headers)
    assert response.status == 201
    response, problem = await gateway.call(
        "PUT", "/locations/one", data=body + b" ", headers=headers
    )
    assert (response.status, problem["code"]) == (413, "too-large")
    assert problem["detail"] == f"the body is longer than {MAX_BODY_BYTES} bytes"


@pytest.mark.parametrize("depth", [1, 10, 200, 500, 900, 940, 960, 980, 1000, 5000, 100_000])
async def test_json_of_any_depth_is_refused(gateway: Gateway, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    response, body = await gateway.call("POST", "/resolve", data=f'["{ID}", {nested}]')
    if response.status == 200:
        assert [row["outcome"] for row in body] == ["unknown", "invalid"]
        assert len(body[1]["id"]) <= MAX_ITEM_BYTES
    else:
        assert (response.status, body["code"]) == (400, "invalid-request")
    response, body = await gateway.call(
        "PUT",
        "/locations/one",
        data=f'{{"url": {nested}}}',
        headers={**ADMIN, "Content-Type": "application/json"},
    )
    assert response.status == (413 if 2 * depth > MAX_BODY_BYTES else 400)


async def test_the_bodies_of_all_requests_together_are_limited(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "MAX_BULK_BODIES_BYTES", 2 * LIMIT * MAX_ITEM_BYTES)
    gateway = await start(bulk_limit=LIMIT)
    largest = f'["{ID}"]'.encode().ljust(LIMIT * MAX_ITEM_BYTES)
    start_line = f"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: {len(largest)}\r\n\r\n"
    async with connected(gateway.url) as connection, connected(gateway.url) as other:
        for held in (connection, other):
            await held.send(start_line.encode() + largest[:-1])
        for _ in range(100):
            status, code = await bulk(gateway, largest)
            if status == 503:
                break
        assert (status, code) == (503, "busy")
        for held in (connection, other):
            await held.send(largest[-1:])
            assert b" 200 OK" in await held.reader.readuntil(b"\r\n\r\n")
    for _ in range(5):
        assert await bulk(gateway, largest) == (200, "")


@pytest.mark.parametrize("path", [f"/v2/images/{ID}", "/livez", "/nowhere", "/resolve"])
async def test_an_unknown_expectation_is_refused_and_counted(gateway: Gateway, path: str) -> None:
    async with connected(gateway.url) as connection:
        for _ in range(2):  # the connection stays open
            await connection.send(head(b"Expect: junk", target=path.encode()))
            response = await connection.response()
            assert response.status == 417
            assert response.problem_code == ("" if "/v2/" in path else "expectation-failed")
        await connection.send(head(target=b"/livez"))
        assert (await connection.response()).status == 200
    assert await count_refused(gateway, 417) == 2


@pytest.mark.parametrize("path", ["/resolve", "/nowhere"])
async def test_a_client_that_expects_100_continue_and_leaves_is_no_error(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    for _ in range(20):
        async with connected(gateway.url) as connection:
            connection.writer.write(
                f"POST {path} HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n"
                "Content-Length: 9\r\n\r\n".encode()
            )
            connection.writer.transport.abort()
    async with connected(gateway.url) as connection:
        assert (await connection.ask("GET", "/livez")).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_client_that_expects_100_continue_gets_it(gateway: Gateway) -> None:
    body = f'["{ID}"]'.encode()
    async with connected(gateway.url) as connection:
        await connection.send(
            b"POST /resolve HTTP/1.1\r\nHost: g\r\nExpect: 100-Continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(body)
        assert (await connection.reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
