"""The front: which requests it answers, in which order, and which it passes to aiohttp."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from aiohttp.http_parser import SINGLETON_HEADERS

from resolver.gateway.net.front_connection import FrontConnection
from resolver.gateway.net.known_reads import MAX_BYTES, KnownReads
from resolver.gateway.net.request_head import MAX_HEAD_BYTES, SINGLE_FIELDS
from tests.gateway.bridged_requests import BridgedRequests, bridged
from tests.gateway.conftest import Gateway, Start
from tests.gateway.random_locations import register_random_locations
from tests.support.http_connection import HttpConnection, connected
from tests.support.objects import all_instances
from tests.support.wait import wait_until

__all__ = ["bridged"]

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REQUEST_ID = "req-9e6a2f0e-54b5-4b05-ae8e-8a4c9a3c1f11"
PATH = f"/v2/images/{ID}"
PATHS = [f"/{api}/images/%s{rest}" for api in ("v1", "v2") for rest in ("", "/file")]


class HeldLookups(NamedTuple):
    """Lookups that wait from `begun`, which is set with the first, until `release` is set."""

    begun: asyncio.Event
    release: asyncio.Event


HoldLookups = Callable[[], HeldLookups]


@pytest.fixture
def hold_lookups(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> HoldLookups:
    """Returns a function that makes lookups wait."""

    def begin() -> HeldLookups:
        lookups = HeldLookups(asyncio.Event(), asyncio.Event())
        lookup = gateway.services.index.claims.lookup

        async def held(*arguments: Any, **options: Any) -> Any:
            lookups.begun.set()
            await lookups.release.wait()
            return await lookup(*arguments, **options)

        monkeypatch.setattr(gateway.services.index.claims, "lookup", held)
        gateway.services.resolver.reader.deadline = 30.0  # a busy machine holds them for longer
        return lookups

    return begin


def without_variable_fields(response: str) -> str:
    """A response without its date, request id and age."""
    response = re.sub(r'"age": [0-9.]+', '"age": …', response)
    response = re.sub(r"^Content-Length: .*$", "", response, flags=re.MULTILINE)
    return re.sub(r"^(Date|X-Openstack-Request-Id): .*$", r"\1: …", response, flags=re.MULTILINE)


@pytest.mark.parametrize("seed", range(8))
async def test_templates_give_the_same_redirects_as_the_handlers(start: Start, seed: int) -> None:
    """``X-Resolver-Fresh: 0`` changes no answer, but such requests do not use the templates."""
    rng = random.Random(seed)
    gateway = await start(
        region=rng.choice(["", "north"]), trusted_proxies="127.0.0.1", index_timeout=5
    )
    client = rng.choice([[], ["X-Forwarded-For: 10.1.2.3"], ["X-Forwarded-Proto: https"]])
    ids = await register_random_locations(gateway, rng, 12)
    async with connected(gateway.url) as connection:
        for text in ids:
            for path in [*PATHS, "/resolve/%s"]:
                for method in ("GET", "HEAD"):
                    no_template = "X-Resolver-Fresh: 0" if path in PATHS else "Accept: */*"
                    response = await connection.ask(method, path % text, no_template, *client)
                    expected = without_variable_fields(response.text)
                    for _ in range(3):  # rendered, from the template, and with cached header fields
                        response = await connection.ask(method, path % text, *client)
                        assert without_variable_fields(response.text) == expected


async def test_the_front_answers_reads_about_images(
    gateway: Gateway, bridged: BridgedRequests
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        for method in ("GET", "HEAD"):
            for path in ("/v2/images/%s", "/v2/images/%s/file", "/v1/images/%s"):
                response = await connection.ask(method, path % ID, "X-Auth-Token: t", "Accept: */*")
                status = 501 if (method, path[:3]) == ("HEAD", "/v1") else 307
                assert response.status == status
            response = await connection.ask(method, f"/resolve/{ID}")
            assert response.status == 200
        request_id = f"X-OpenStack-Request-ID: {REQUEST_ID}"
        response = await connection.ask("GET", PATH, request_id)
        assert f"X-Openstack-Request-Id: {REQUEST_ID}\r\n" in response.head
        response = await connection.ask("GET", PATH, "X-OpenStack-Request-ID: req-x")
        assert re.search(r"^X-Openstack-Request-Id: req-.{36}\r$", response.head, re.MULTILINE)
        for path in ("/", "/versions", "/v1", "/v2/", "/livez", "/healthcheck"):
            response = await connection.ask("GET", path)
            assert response.status == (300 if path == "/" else 200)
    assert bridged.count == 0


async def test_the_front_refuses_requests_of_a_resolver(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        answer = await connection.ask("GET", PATH, "X-Resolver-Hop: 1")
        assert answer.status == 508


@pytest.mark.parametrize(
    ("method", "path", "header", "bridged_count"),
    [
        ("GET", f"/v2/images/{ID.upper()}", "A: b", 0),
        ("GET", f"/v2/images/{ID.replace('-', '')}", "A: b", 0),
        ("GET", f"/v2/images/{ID}?x=1", "A: b", 0),
        ("GET", f"/v2/images/{ID}/members", "A: b", 0),
        ("DELETE", f"/v2/images/{ID}", "A: b", 1),
        ("GET", PATH, "x-resolver-region: north", 0),
        ("GET", PATH, "X-Resolver-Exclude: two", 0),
        ("GET", PATH, "X-Resolver-Fresh: 1", 0),
        ("GET", PATH, "Connection: close", 0),
    ],
)
async def test_unusual_requests_are_answered_by_the_front_except_writes(
    gateway: Gateway,
    bridged: BridgedRequests,
    method: str,
    path: str,
    header: str,
    bridged_count: int,
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        response = await connection.ask(method, path, header)
        assert response.status == (405 if method == "DELETE" else 307)
        assert bridged.count == bridged_count
        if "close" in header:
            assert "Connection: close" in response.head
            assert await connection.is_closed()
        else:
            assert (await connection.ask("GET", PATH)).status == 307


async def test_an_http_1_0_connection_is_kept_open_only_on_request(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        response = await connection.ask("GET", PATH, "Connection: keep-alive", version="1.0")
        assert response.head.startswith("HTTP/1.0 307 ")
        assert "Connection: keep-alive" in response.head
        response = await connection.ask("GET", PATH, version="1.0")
        assert response.head.startswith("HTTP/1.0 307 ")
        assert await connection.is_closed()


async def test_front_and_application_requests_mix_on_one_connection(
    gateway: Gateway, bridged: BridgedRequests
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        for _ in range(3):
            assert (await connection.ask("GET", PATH)).status == 307
            assert (await connection.ask("GET", "/openapi.json")).status == 200
            connection.send_request("POST", "/resolve", f"Content-Length: {len(ID)}")
            connection.writer.write(ID.encode())
            assert '"found"' in await connection.chunked_response()
            connection.send_request("POST", "/resolve", "Transfer-Encoding: chunked")
            for piece in (b"5\r\n0a1b2", b"\r\n1f\r\n", ID[5:].encode(), b"\r\n0\r", b"\n\r\n"):
                connection.writer.write(piece)
                await asyncio.sleep(0.005)
            assert '"found"' in await connection.chunked_response()
    assert bridged.count == 9


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    paths = []
    async with connected(gateway.url) as connection:
        for number in range(200):
            path = (f"/v2/images/{ID}", f"/v2/images/{ID}?n={number}", "/livez")[number % 3]
            connection.send_request("GET", path)
            paths.append(path)
            if number % 10 == 0:
                await asyncio.sleep(0)
        for path in paths:
            answer = await connection.response()
            if path == "/livez":
                assert answer.json()["live"] is True
            else:
                assert f"Location: https://one.example:9292{path}\r\n" in answer.head


async def test_a_request_may_arrive_in_pieces(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        for _ in range(2):
            for piece in (
                b"GET /v2/im",
                f"ages/{ID} HT".encode(),
                b"TP/1.1\r\nHost: g\r\n\r",
                b"\n",
            ):
                connection.writer.write(piece)
                await asyncio.sleep(0.01)
            assert (await connection.response()).status == 307


def following_bytes() -> list[bytes]:
    """Bytes that may follow a plain request; some of them are nearly one."""
    line, fields = f"GET /v2/images/{ID} HTTP/1.1\r\n", "Host: gateway\r\n\r\n"
    same = line + fields
    other = {
        *(f"{line}Host: gateway\r\n{field}\r\n\r\n" for field in ("A: b", "Connection: close")),
        f"{line}Host: gateway\r\nContent-Length: 3\r\n\r\nabc",
        f"{line}Host: gateway\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"{line}host: gateway\r\n\r\n",
        f"{line}Host: gateway\r\nX-Resolver-Region: north\r\n\r\n",
        f"{line}Host: gateway\r\nX-Openstack-Request-Id: {REQUEST_ID}\r\n\r\n",
        f"{line}\r\n",
        same + same,
        same + same[:30],
        same + "\0\r\n\r\n",
        *(same.replace("1.1", version) for version in ("1.0", "1.2", "2.0", "1.1 ")),
        *(same.replace("GET", method) for method in ("HEAD", "get", "POST", "GETT", " GET")),
        same.replace(ID, ID.upper()),
        same.replace(ID, ID[:-1]),
        same.replace(ID, ID + "?x"),
        same.replace(ID, ID + "/file"),
        same.replace(ID, ID + "/file/"),
        same.replace(ID, ID[::-1]),
        same.replace("v2", "v1"),
        same.replace("v2", "v3"),
        same.replace("\r\n", "\n"),
        "\r\n" + same,
    }
    return [text.encode() for text in (same, *sorted(other))]


async def all_responses(gateway: Gateway, *pieces: bytes) -> list[str]:
    """The responses to bytes sent in pieces, without variable fields."""
    async with connected(gateway.url) as connection:
        for piece in pieces:
            connection.writer.write(piece)
            await asyncio.sleep(0.01)
        return await remaining_responses(connection, b"".join(pieces))


async def remaining_responses(connection: HttpConnection, sent: bytes = b"") -> list[str]:
    """Sends a last request, unless the request before (``sent``) closes the connection: what comes
    behind that may reset it. Returns all responses until the connection ends, without variable
    fields."""
    if b"Connection: close" not in sent and b"HTTP/1.0\r\n" not in sent:
        connection.send_request("GET", "/livez", "Connection: close")
    async with asyncio.timeout(10):
        heads = re.split(r"HTTP/(?=\d\.\d \d)", (await connection.read_to_end()).decode())
    return [re.sub(r"(Date|Id|seconds\"): [^\r]*|req-[-0-9a-f]{36}", r"\1", head) for head in heads]


@pytest.mark.parametrize("following", following_bytes())
async def test_bytes_after_a_plain_request_are_read_as_if_sent_alone(
    gateway: Gateway, following: bytes
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    plain_request = following_bytes()[0]
    first = (await all_responses(gateway, plain_request))[1]
    (alone, after) = [
        await all_responses(gateway, *before, following)
        for before in ((), (plain_request, plain_request))
    ]
    assert after == ["", first, first, *alone[1:]]


@pytest.mark.parametrize("extra", [-1, 0, 1])
async def test_long_header_fields_are_answered_too(gateway: Gateway, extra: int) -> None:
    """Short blocks of fields are cached, longer ones parsed each time."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    fields = f"Host: g\r\nA: {'a' * (MAX_BYTES - 16 + extra)}\r\n\r\n"
    async with connected(gateway.url) as connection:
        for _ in range(3):
            connection.writer.write(f"GET /v2/images/{ID} HTTP/1.1\r\n{fields}".encode())
            assert (await connection.response()).status == 307


@pytest.mark.parametrize("cut", range(1, 72, 5))
async def test_a_repeated_request_may_arrive_in_pieces(gateway: Gateway, cut: int) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    plain_request = following_bytes()[0]
    answers = await all_responses(
        gateway,
        plain_request,
        plain_request,
        plain_request[:cut],
        plain_request[cut:],
        plain_request,
    )
    assert [answer[:6] for answer in answers] == ["", *["1.1 30"] * 4, "1.1 20"]


async def hold_after(
    gateway: Gateway, hold_lookups: HoldLookups, connection: HttpConnection, request: bytes
) -> HeldLookups:
    """Sends a request, so that its fields are cached, and then delays lookups."""
    connection.writer.write(request)
    assert (await connection.response()).status == 307
    gateway.services.index.clear_cache()
    return hold_lookups()


def unread_bytes() -> int:
    """Of the connection that has most."""
    return max(connection.unread_bytes for connection in all_instances(FrontConnection))


@pytest.mark.parametrize("following", following_bytes())
async def test_bytes_that_arrive_during_a_lookup_are_answered_after_it(
    gateway: Gateway, hold_lookups: HoldLookups, following: bytes
) -> None:
    """The second request, with the fields of the first, waits for its lookup."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    plain_request = following_bytes()[0]
    (alone, first) = (
        await all_responses(gateway, following),
        (await all_responses(gateway, plain_request))[1],
    )
    async with connected(gateway.url) as connection:
        lookups = await hold_after(gateway, hold_lookups, connection, plain_request)
        connection.writer.write(plain_request)
        await lookups.begun.wait()
        connection.writer.write(following)
        await wait_until(lambda: unread_bytes() > 0)
        lookups.release.set()
        answers = await remaining_responses(connection, following)
    assert answers == ["", first, *alone[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 1_500_000])
async def test_pipelined_requests_are_buffered_up_to_a_bound(
    gateway: Gateway, hold_lookups: HoldLookups, size: int
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    plain_request = following_bytes()[0]
    async with connected(gateway.url) as connection:
        lookups = await hold_after(gateway, hold_lookups, connection, plain_request)
        connection.writer.write(plain_request)
        await lookups.begun.wait()
        connection.writer.write(plain_request * (size // len(plain_request)))
        await wait_until(lambda: unread_bytes() > 0)
        for _ in range(100):  # turns of the loop in which more could be read
            await asyncio.sleep(0)
        assert unread_bytes() < MAX_HEAD_BYTES + 300_000  # at most one more read of the socket
        lookups.release.set()
        connection.send_request("GET", "/livez", "Connection: close")
        responses = await connection.read_to_end()
    assert responses.count(b"HTTP/1.1 307 ") == 1 + size // len(plain_request)
    assert responses.count(b"HTTP/1.1 200 ") == 1


async def test_an_incomplete_head_is_not_cached(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    request = f"GET /v2/images/{ID} HTTP/1.1\r\n"
    async with connected(gateway.url) as connection:
        connection.writer.write(f"{request}Host: g\r\nX: ".encode())
        await asyncio.sleep(0.02)
        connection.writer.write(f"{request}Y: 1\r\n\r\n".encode())
        assert (await connection.response()).status == 307
        connection.writer.write(f"{request}Y: 1\r\n\r\n".encode())
        assert (await connection.response()).status == 400  # no Host


async def test_a_token_is_cached_for_its_own_connection_only(gateway: Gateway) -> None:
    """Other connections do not share cached fields that hold a credential."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as first, connected(gateway.url) as second:
        for connection in (first, second, first, second):
            response = await connection.ask("GET", PATH, "X-Auth-Token: secret")
            assert response.status == 307
        assert "secret" not in repr([known.remembered for known in all_instances(KnownReads)])


async def test_malformed_bytes_after_a_request_are_answered_after_it(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        connection.send_request("GET", PATH)
        await connection.writer.drain()
        await asyncio.sleep(0.01)
        connection.writer.write(b"\0\0\0\r\n\r\n")
        assert (await connection.response()).status == 307
        assert (await connection.response()).problem_code == "malformed-request"
        assert await connection.is_closed()


async def test_a_disconnected_client_leaves_no_task_and_no_request_in_flight(
    gateway: Gateway, hold_lookups: HoldLookups
) -> None:
    lookups = hold_lookups()
    before = len(asyncio.all_tasks())
    async with connected(gateway.url) as connection:
        connection.send_request("GET", PATH)
        await lookups.begun.wait()
    lookups.release.set()
    await wait_until(lambda: len(asyncio.all_tasks()) <= before)
    response, _ = await gateway.get("/metrics")
    assert "glance_resolver_requests_in_flight 1.0" in await response.text()


async def test_a_failing_index_is_answered_503(start: Start) -> None:
    gateway = await start(redis_url="redis://127.0.0.1:1")
    async with connected(gateway.url) as connection:
        for _ in range(2):  # the connection stays open
            answer = await connection.ask("GET", PATH, "Accept: application/problem+json")
            assert answer.status == 503
            assert answer.problem_code == "index-unavailable"


async def test_the_front_applies_changes_at_once(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with connected(gateway.url) as connection:
        assert "Location: https://one." in (await connection.ask("GET", PATH)).head
        await gateway.location("two", priority=1)
        await gateway.claim("two", ID)
        assert "Location: https://two." in (await connection.ask("GET", PATH)).head
        await gateway.location("two", state="maintenance")
        assert "Location: https://one." in (await connection.ask("GET", PATH)).head


async def test_front_and_application_count_and_log_alike(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    lines = []
    async with connected(gateway.url) as connection:
        for header in ("A: b", "X-Resolver-Fresh: 0"):
            caplog.clear()
            with caplog.at_level(logging.INFO, "access"):
                await connection.ask("GET", PATH, header)
            (record,) = [r for r in caplog.records if r.name == "access"]
            lines.append(record.msg)
    for logged in lines:
        assert isinstance(logged, dict)
        assert re.fullmatch(r"req-.{36}", logged.pop("request_id"))
        logged.pop("ms")
    assert lines[0] == lines[1]
    response, _ = await gateway.get("/metrics")
    text = await response.text()
    route = "/{api}/images/{id}{rest}"
    assert (
        f'glance_resolver_requests_total{{method="GET",route="{route}",status="307"}} 2.0' in text
    )
    assert f'glance_resolver_request_seconds_count{{route="{route}"}} 2.0' in text
    assert 'glance_resolver_answers_total{outcome="found"} 2.0' in text
    for source in ("index", "cache"):  # the second request finds it in the cache
        assert f'glance_resolver_reads_total{{source="{source}"}} 1.0' in text


async def test_a_repeated_singleton_header_field_is_refused(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever parser would read the request."""
    assert {name.lower() for name in SINGLETON_HEADERS} <= SINGLE_FIELDS
    for method, path in (("GET", PATH), ("GET", "/openapi.json"), ("POST", "/resolve")):
        async with connected(gateway.url) as connection:
            fields = ("User-Agent: a", "User-Agent: b", "Accept: application/problem+json")
            response = await connection.ask(method, path, *fields)
            assert (response.status, response.problem_code) == (400, "malformed-request")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
