"""The front: which requests it answers, in which order, and what it leaves to aiohttp."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from resolver.errors import IndexUnavailable
from resolver.gateway.net.front_connection import FrontConnection
from resolver.gateway.net.front_requests import MAX_PLAIN_BYTES, FrontRequests
from resolver.gateway.net.request_head import MAX_HEAD_BYTES
from resolver.resolution import Preferences
from tests.gateway.conftest import V1, V2, Gateway, Start
from tests.gateway.line import Line, every, line
from tests.support.wait import wait_until

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REQUEST_ID = "req-9e6a2f0e-54b5-4b05-ae8e-8a4c9a3c1f11"
PATHS = [f"/{api}/images/%s{rest}" for api in ("v1", "v2") for rest in ("", "/file")]


@dataclass
class HandedOver:
    """How many requests aiohttp has answered."""

    count: int = 0


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> HandedOver:
    seen, make = HandedOver(), web.Server.__call__

    def counted(server: web.Server[Any]) -> Any:
        seen.count += 1
        return make(server)

    monkeypatch.setattr(web.Server, "__call__", counted)
    return seen


Hold = Callable[[], asyncio.Event]


@pytest.fixture
def hold(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Makes lookups wait for the event that it gives."""

    def begin() -> asyncio.Event:
        free, lookup = asyncio.Event(), gateway.services.index.claims.lookup

        async def held(*arguments: Any, **options: Any) -> Any:
            await free.wait()
            return await lookup(*arguments, **options)

        monkeypatch.setattr(gateway.services.index.claims, "lookup", held)
        return free

    return begin


def without_moment(response: str) -> str:
    """A response without its date, request id and age."""
    response = re.sub(r'"age": [0-9.]+', '"age": …', response)
    response = re.sub(r"^Content-Length: .*$", "", response, flags=re.MULTILINE)
    return re.sub(r"^(Date|X-Openstack-Request-Id): .*$", r"\1: …", response, flags=re.MULTILINE)


async def world(gateway: Gateway, chance: random.Random) -> list[str]:
    """Registers some locations of all kinds; gives ids of images that they have or lack."""
    names = [f"l{n}" for n in range(chance.randint(1, 4))]
    for name in names:
        await gateway.location(
            name,
            url=f"https://{name}.example:9292{chance.choice(['', '/image', '/a/b'])}",
            versions=chance.choice([V1, V2, V1 + V2, ()]),
            state=chance.choice(["active", "active", "active", "draining", "maintenance"]),
            priority=chance.choice([100, 100, 50]),
            weight=chance.choice([1, 1, 3, 0]),
            region=chance.choice(["", "north"]),
            covered=chance.random() < 0.7,
        )
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(12)]
    for text in ids[2:]:
        for name in chance.sample(names, chance.randint(1, len(names))):
            await gateway.claim(name, text.upper() if chance.random() < 0.1 else text)
    return ids


@pytest.mark.parametrize("seed", range(8))
async def test_templates_give_the_same_redirects_as_the_handlers(start: Start, seed: int) -> None:
    """A freshness of 0 asks for nothing, but takes the request past the templates."""
    chance = random.Random(seed)
    gateway = await start(region=chance.choice(["", "north"]))
    ids = await world(gateway, chance)
    async with line(gateway) as one:
        for text in ids:
            for path in [*PATHS, "/resolve/%s"]:
                for method in ("GET", "HEAD"):
                    slow = "X-Resolver-Fresh: 0" if path in PATHS else "Accept: */*"
                    expected = await one.ask(method, path % text, slow)
                    for _ in range(3):  # rendered; from the template; with fields parsed before
                        response = await one.ask(method, path % text)
                        assert without_moment(response) == without_moment(expected)


async def test_the_front_answers_reads_about_images(
    gateway: Gateway, handed_over: HandedOver
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        for method in ("GET", "HEAD"):
            for path in ("/v2/images/%s", "/v2/images/%s/file", "/v1/images/%s"):
                response = await one.ask(method, path % ID, "X-Auth-Token: t", "Accept: */*")
                status = 501 if (method, path[:3]) == ("HEAD", "/v1") else 307
                assert response.startswith(f"HTTP/1.1 {status} ")
            response = await one.ask(method, f"/resolve/{ID}")
            assert response.startswith("HTTP/1.1 200 ")
        request_id = f"X-OpenStack-Request-ID: {REQUEST_ID}"
        response = await one.ask("GET", f"/v2/images/{ID}", request_id)
        assert f"X-Openstack-Request-Id: {REQUEST_ID}\r\n" in response
        response = await one.ask("GET", f"/v2/images/{ID}", "X-OpenStack-Request-ID: req-x")
        assert re.search(r"^X-Openstack-Request-Id: req-.{36}\r$", response, re.MULTILINE)
        for path in ("/", "/versions", "/v1", "/v2/", "/livez", "/healthcheck"):
            response = await one.ask("GET", path)
            assert response.startswith(f"HTTP/1.1 {300 if path == '/' else 200} ")
    assert handed_over.count == 0


async def test_the_front_refuses_requests_of_a_resolver(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        answer = await one.ask("GET", f"/v2/images/{ID}", "X-Resolver-Hop: 1")
        assert answer.startswith("HTTP/1.1 508 ")


@pytest.mark.parametrize(
    ("method", "path", "header", "handed"),
    [
        ("GET", f"/v2/images/{ID.upper()}", "A: b", 0),
        ("GET", f"/v2/images/{ID.replace('-', '')}", "A: b", 0),
        ("GET", f"/v2/images/{ID}?x=1", "A: b", 0),
        ("GET", f"/v2/images/{ID}/members", "A: b", 0),
        ("DELETE", f"/v2/images/{ID}", "A: b", 1),
        ("GET", f"/v2/images/{ID}", "x-resolver-region: north", 0),
        ("GET", f"/v2/images/{ID}", "X-Resolver-Exclude: two", 0),
        ("GET", f"/v2/images/{ID}", "X-Resolver-Fresh: 1", 0),
        ("GET", f"/v2/images/{ID}", "Connection: close", 0),
    ],
)
async def test_unusual_requests_are_answered_by_the_front_except_writes(
    gateway: Gateway, handed_over: HandedOver, method: str, path: str, header: str, handed: int
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        response = await one.ask(method, path, header)
        assert response.startswith(f"HTTP/1.1 {405 if method == 'DELETE' else 307} ")
        assert handed_over.count == handed
        if "close" in header:
            assert "Connection: close" in response
            assert await one.ended()
        else:
            assert (await one.ask("GET", f"/v2/images/{ID}")).startswith("HTTP/1.1 307 ")


async def test_an_http_1_0_connection_is_kept_open_only_on_request(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        response = await one.ask("GET", f"/v2/images/{ID}", "Connection: keep-alive", version="1.0")
        assert response.startswith("HTTP/1.0 307 ")
        assert "Connection: keep-alive" in response
        assert (await one.ask("GET", f"/v2/images/{ID}", version="1.0")).startswith("HTTP/1.0 307")
        assert await one.ended()


async def test_front_and_application_requests_mix_on_one_connection(
    gateway: Gateway, handed_over: HandedOver
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        for _ in range(3):
            assert (await one.ask("GET", f"/v2/images/{ID}")).startswith("HTTP/1.1 307 ")
            assert (await one.ask("GET", "/openapi.json")).startswith("HTTP/1.1 200 ")
            one.send("POST", "/resolve", f"Content-Length: {len(ID)}")
            one.writer.write(ID.encode())
            assert '"found"' in await one.chunked_answer()
            one.send("POST", "/resolve", "Transfer-Encoding: chunked")
            for piece in (b"5\r\n0a1b2", b"\r\n1f\r\n", ID[5:].encode(), b"\r\n0\r", b"\n\r\n"):
                one.writer.write(piece)
                await asyncio.sleep(0.005)
            assert '"found"' in await one.chunked_answer()
    assert handed_over.count == 9


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    wanted = []
    async with line(gateway) as one:
        for number in range(200):
            path = (f"/v2/images/{ID}", f"/v2/images/{ID}?n={number}", "/livez")[number % 3]
            one.send("GET", path)
            wanted.append(path)
            if number % 10 == 0:
                await asyncio.sleep(0)
        for path in wanted:
            answer = await one.answer()
            if path == "/livez":
                assert json.loads(answer.partition("\r\n\r\n")[2])["live"] is True
            else:
                assert f"Location: https://one.example:9292{path}\r\n" in answer


async def test_a_request_may_arrive_in_pieces(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        for _ in range(2):
            for piece in (
                b"GET /v2/im",
                f"ages/{ID} HT".encode(),
                b"TP/1.1\r\nHost: g\r\n\r",
                b"\n",
            ):
                one.writer.write(piece)
                await asyncio.sleep(0.01)
            assert (await one.answer()).startswith("HTTP/1.1 307 ")


def variants() -> list[bytes]:
    """What may come behind a usual request, some of it nearly one."""
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
    return [one.encode() for one in (same, *sorted(other))]


async def everything(gateway: Gateway, *pieces: bytes) -> list[str]:
    """The answers to what is sent in pieces, but for what the moment adds."""
    async with line(gateway) as one:
        for piece in pieces:
            one.writer.write(piece)
            await asyncio.sleep(0.01)
        return await rest_of(one)


async def rest_of(one: Line) -> list[str]:
    """The answers from now on, with one more to the end, but for what the moment adds."""
    one.send("GET", "/livez", "Connection: close")
    async with asyncio.timeout(10):
        heads = re.split(r"HTTP/(?=\d\.\d \d)", (await one.read()).decode())
    return [re.sub(r"(Date|Id|seconds\"): [^\r]*|req-[-0-9a-f]{36}", r"\1", head) for head in heads]


@pytest.mark.parametrize("behind", variants())
async def test_bytes_after_a_plain_request_are_read_as_if_sent_alone(
    gateway: Gateway, behind: bytes
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    usual = variants()[0]
    first = (await everything(gateway, usual))[1]
    (alone, after) = [await everything(gateway, *before, behind) for before in ((), (usual, usual))]
    assert after == ["", first, first, *alone[1:]]


@pytest.mark.parametrize("extra", [-1, 0, 1])
async def test_long_header_fields_are_answered_too(gateway: Gateway, extra: int) -> None:
    """Those up to a bound are remembered, longer ones parsed each time."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    fields = f"Host: g\r\nA: {'a' * (MAX_PLAIN_BYTES - 16 + extra)}\r\n\r\n"
    async with line(gateway) as one:
        for _ in range(3):
            one.writer.write(f"GET /v2/images/{ID} HTTP/1.1\r\n{fields}".encode())
            assert (await one.answer()).startswith("HTTP/1.1 307 ")


@pytest.mark.parametrize("cut", range(1, 72, 5))
async def test_a_repeated_request_may_arrive_in_pieces(gateway: Gateway, cut: int) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    usual = variants()[0]
    answers = await everything(gateway, usual, usual, usual[:cut], usual[cut:], usual)
    assert [answer[:6] for answer in answers] == ["", *["1.1 30"] * 4, "1.1 20"]


async def held_after(gateway: Gateway, hold: Hold, one: Line, request: bytes) -> asyncio.Event:
    """Sends a request, so that its fields are known, and then holds what asks the index."""
    one.writer.write(request)
    assert (await one.answer()).startswith("HTTP/1.1 307 ")
    gateway.services.index.clear_cache()
    return hold()


@pytest.mark.parametrize("behind", variants())
async def test_bytes_that_arrive_during_a_lookup_are_answered_after_it(
    gateway: Gateway, hold: Hold, behind: bytes
) -> None:
    """The index is asked about the second request, whose fields were those of the first."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    usual = variants()[0]
    (alone, first) = await everything(gateway, behind), (await everything(gateway, usual))[1]
    async with line(gateway) as one:
        free = await held_after(gateway, hold, one, usual)
        one.writer.write(usual)
        await asyncio.sleep(0.02)
        one.writer.write(behind)
        await asyncio.sleep(0.01)
        free.set()
        answers = await rest_of(one)
    assert answers == ["", first, *alone[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 5_000_000])
async def test_pipelined_requests_are_buffered_up_to_a_bound(
    gateway: Gateway, hold: Hold, size: int
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    usual = variants()[0]
    async with line(gateway) as one:
        free = await held_after(gateway, hold, one, usual)
        one.writer.write(usual)
        await asyncio.sleep(0.02)
        one.writer.write(usual * (size // len(usual)))
        await asyncio.sleep(0.05)
        unread = max(connection.unread_bytes for connection in every(FrontConnection))
        assert 0 < unread < MAX_HEAD_BYTES + 300_000  # what one more read of the socket may bring
        free.set()
        for _ in range(1 + size // len(usual)):
            assert (await one.answer()).startswith("HTTP/1.1 307 ")


async def test_an_incomplete_head_is_not_cached(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    request = f"GET /v2/images/{ID} HTTP/1.1\r\n"
    async with line(gateway) as one:
        one.writer.write(f"{request}Host: g\r\nX: ".encode())
        await asyncio.sleep(0.02)
        one.writer.write(f"{request}Y: 1\r\n\r\n".encode())
        assert (await one.answer()).startswith("HTTP/1.1 307 ")
        one.writer.write(f"{request}Y: 1\r\n\r\n".encode())
        assert " 400 " in (await one.answer()).partition("\r\n")[0]  # no Host


async def test_a_token_is_cached_for_its_own_connection_only(gateway: Gateway) -> None:
    """Header fields with credentials are remembered by their connection only."""
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one, line(gateway) as two:
        for connection in (one, two, one, two):
            response = await connection.ask("GET", f"/v2/images/{ID}", "X-Auth-Token: secret")
            assert response.startswith("HTTP/1.1 307 ")
        assert "secret" not in repr(
            [requests.remembered_blocks for requests in every(FrontRequests)]
        )


async def test_malformed_bytes_after_a_request_are_answered_after_it(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        one.send("GET", f"/v2/images/{ID}")
        await one.writer.drain()
        await asyncio.sleep(0.01)
        one.writer.write(b"\0\0\0\r\n\r\n")
        assert (await one.answer()).startswith("HTTP/1.1 307 ")
        assert "malformed-request" in await one.answer()
        assert await one.ended()


async def test_a_disconnected_client_leaves_no_task_and_no_request_in_flight(
    gateway: Gateway, hold: Hold
) -> None:
    free = hold()
    before = len(asyncio.all_tasks())
    async with line(gateway) as one:
        one.send("GET", f"/v2/images/{ID}")
        await wait_until(lambda: len(asyncio.all_tasks()) > before)
    free.set()
    await wait_until(lambda: len(asyncio.all_tasks()) <= before)
    response, _ = await gateway.get("/metrics")
    assert "glance_resolver_requests_in_flight 1.0" in await response.text()


async def test_lookups_of_one_event_loop_turn_are_batched(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.location("one")
    ids = [str(uuid.UUID(int=n)) for n in range(20)]
    await gateway.claim("one", *ids)
    asked: list[int] = []
    lookup = gateway.services.index.claims.lookup

    async def counted(some: Any, **options: Any) -> Any:
        asked.append(len(some))
        return await lookup(some, **options)

    monkeypatch.setattr(gateway.services.index.claims, "lookup", counted)
    answers = await asyncio.gather(
        *(gateway.services.resolver.resolve(uuid.UUID(text).bytes, Preferences()) for text in ids)
    )
    assert [answer.id for answer in answers] == ids
    assert asked == [20]


async def test_a_failing_index_is_answered_503(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise IndexUnavailable("Redis did not answer")

    monkeypatch.setattr(gateway.services.index.claims, "lookup", fails)
    async with line(gateway) as one:
        for _ in range(2):  # and the connection goes on
            answer = await one.ask("GET", f"/v2/images/{ID}")
            assert answer.startswith("HTTP/1.1 503 ")
            assert "index-unavailable" in answer


async def test_the_front_applies_changes_at_once(gateway: Gateway) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    async with line(gateway) as one:
        assert "Location: https://one." in await one.ask("GET", f"/v2/images/{ID}")
        await gateway.location("two", priority=1)
        await gateway.claim("two", ID)
        assert "Location: https://two." in await one.ask("GET", f"/v2/images/{ID}")
        await gateway.location("two", state="maintenance")
        assert "Location: https://one." in await one.ask("GET", f"/v2/images/{ID}")


async def test_front_and_application_count_and_log_alike(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.location("one")
    await gateway.claim("one", ID)
    lines = []
    async with line(gateway) as one:
        for header in ("A: b", "X-Resolver-Fresh: 0"):
            caplog.clear()
            with caplog.at_level(logging.INFO, "access"):
                await one.ask("GET", f"/v2/images/{ID}", header)
            (record,) = [r for r in caplog.records if r.name == "access"]
            lines.append(record.msg)
    for got in lines:
        assert isinstance(got, dict)
        assert re.fullmatch(r"req-.{36}", got.pop("request_id"))
        got.pop("ms")
    assert lines[0] == lines[1]
    response, _ = await gateway.get("/metrics")
    text = await response.text()
    route = "/{api}/images/{id}{rest}"
    assert (
        f'glance_resolver_requests_total{{method="GET",route="{route}",status="307"}} 2.0' in text
    )
    assert f'glance_resolver_request_seconds_count{{route="{route}"}} 2.0' in text
    assert 'glance_resolver_answers_total{outcome="found"} 2.0' in text
