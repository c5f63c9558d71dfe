"""Glance servers with random answers, read by real sweeps, polls, probes and health checks."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer, ScopeCache, connect
from resolver.glance.diagnosis import diagnose
from resolver.glance.probe import has_image
from resolver.index import open_index
from resolver.models import Poll, Sweep, format_id, parse_id
from resolver.standin import StandIn
from resolver.sync.poll import poll
from tests.fuzz.conftest import PATIENT, ErrorLog, count_examples, examples
from tests.fuzz.test_ids import JSON
from tests.support.sweeping import Sweeping

END_TIMEOUT_SECONDS = 60.0
"""For the end of any sweep, poll or check. A request may take `ANSWER_TIMEOUT_SECONDS`."""

ANSWER_TIMEOUT_SECONDS = 1.0

IDS = [str(uuid.UUID(int=n << 96 | n)) for n in range(1, 0xF0000000, 0x0C000000)]
"""Images of the server. The index has them too, and `DELETED`."""
DELETED = str(uuid.UUID(int=0xF0000000 << 96))
OTHERS_IMAGE = str(uuid.UUID(int=0xF1000000 << 96))

UNUSUAL_ID = st.one_of(
    st.sampled_from([*IDS, DELETED, IDS[3].upper(), "urn:uuid:" + IDS[4], IDS[5].replace("-", "")]),
    st.uuids().map(str),
    JSON,
)
ROW = st.builds(
    lambda image_id, more: {**more, "id": image_id}, UNUSUAL_ID, st.dictionaries(st.text(), JSON)
)
NEXT = st.sampled_from(
    ["/v2/images?marker=" + IDS[0], "http://127.0.0.2:1/v2/images", "file:///etc/passwd", 7, None]
)

Change = Callable[[Any], Any]


def on_images(change: Callable[[list[Any]], Any]) -> Change:
    def changed(document: Any) -> Any:
        if isinstance(document, dict) and isinstance(document.get("images"), list):
            return {**document, "images": change(document["images"])}
        return document

    return changed


def repeating_pages() -> Change:
    """Two pages, repeated forever."""
    turn = itertools.cycle([IDS[:3], IDS[3:6]])
    return on_images(lambda _: [{"id": text} for text in next(turn)])


CHANGE: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        lambda at, row: on_images(lambda rows: [*rows[:at], row, *rows[at:]]),
        st.integers(0, 20),
        ROW,
    ),
    st.builds(lambda at: on_images(lambda rows: rows[:at] + rows[at + 1 :]), st.integers(0, 20)),
    st.builds(lambda at: on_images(lambda rows: rows[at:] + rows[:at]), st.integers(0, 20)),
    st.just(on_images(lambda rows: [row for row in rows for _ in range(2)])),
    st.just(on_images(lambda rows: rows[::-1])),
    st.builds(lambda junk: on_images(lambda _: junk), JSON),
    st.builds(
        lambda link: lambda d: {**d, "next": link} if isinstance(d, dict) else d, NEXT | JSON
    ),
    st.builds(lambda junk: lambda _: junk, JSON),
    st.builds(
        lambda key, junk: lambda d: {**d, key: junk} if isinstance(d, dict) else d,
        st.sampled_from(["versions", "images", "id", "status"]),
        JSON,
    ),
)


class Answer:
    """How a server responds to one request."""

    def __init__(
        self,
        change: Change | None = None,
        status: int = 0,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        wire_bytes: bytes | None = None,
        parameter: str = "",
    ) -> None:
        """``parameter``: requests without this query parameter get the true response."""
        self.change, self.status, self.headers = change, status, headers or {}
        self.body, self.wire_bytes, self.parameter = body, wire_bytes, parameter

    def __repr__(self) -> str:
        return f"Answer{self.status, self.headers, self.body, self.wire_bytes, self.change}"

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.parameter and self.parameter not in request.query:
            return await handler(request)
        if self.wire_bytes is not None and request.transport is not None:
            request.transport.write(self.wire_bytes)  # type: ignore[attr-defined]
            request.transport.close()
            raise asyncio.CancelledError
        response = await handler(request)
        assert isinstance(response, web.Response)
        body = self.body
        if body is None:
            body = response.body if isinstance(response.body, bytes) else b""
        if self.change is not None and body:
            body = json.dumps(self.change(json.loads(body) if body[:1] in b"{[" else None)).encode()
        headers = {k: v for k, v in response.headers.items() if k.startswith("X-")}
        status = self.status or response.status
        kind = {"Content-Type": "application/json"}
        return web.Response(status=status, body=body, headers={**kind, **headers, **self.headers})


DATE = st.sampled_from(
    [
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 23 Nov 99999999999999999999 10:00:00 GMT",
        "Mon, 23 Nov 2026 10:00:00 +99999999999",
        "yesterday",
        "0",
    ]
)
HEADERS = st.dictionaries(
    st.sampled_from(["Content-Encoding", "X-Image-Meta-Id", "X-Image-Meta-Deleted", "Location"]),
    st.sampled_from(["gzip", "br", "true", "http://127.0.0.2:1/", IDS[0], "\x80"]),
    max_size=2,
) | st.builds(lambda date: {"Date": date}, DATE)
ANSWER = st.one_of(
    st.builds(Answer, CHANGE),
    st.builds(Answer, CHANGE),
    st.builds(
        Answer,
        status=st.sampled_from(
            [200, 204, 300, 304, 307, 400, 401, 403, 404, 410, 500, 503, 508, 599]
        ),
    ),
    st.builds(Answer, headers=HEADERS),
    st.builds(Answer, body=st.binary(max_size=50) | st.sampled_from([b"[" * 100_000, b"1" * 9999])),
    st.builds(
        Answer,
        wire_bytes=st.binary(max_size=60)
        | st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
                b"HTTP/1.1 200\r\nA: \xff\r\n\r\n[]",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"\r\n" * 100,
            ]
        ),
    ),
)
SCRIPT = st.lists(st.none() | ANSWER, max_size=14)


class World:
    """An index, and a stand-in that follows a script and then responds truthfully."""

    def __init__(self, server: StandIn, sweeping: Sweeping, log: ErrorLog) -> None:
        self.server, self.sweeping, self.log = server, sweeping, log
        self.script: list[Answer | None] = []
        self.endless: Answer | None = None

    async def follow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = self.script.pop(0) if self.script else self.endless
        return await (answer(request, handler) if answer else handler(request))

    async def run_to_end(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result, or LocationUnavailable, the only error that is allowed."""
        try:
            async with asyncio.timeout(END_TIMEOUT_SECONDS):
                result = await work
        except LocationUnavailable as error:
            result = error
        if isinstance(result, LocationUnavailable):
            assert result.detail
            assert result.detail.isprintable(), result.detail
        self.log.check()
        return result


@pytest.fixture(params=["v1", "v2"])
async def world(request: pytest.FixtureRequest, loop_errors: ErrorLog) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        index = await stack.enter_async_context(open_index("memory:", bits=4, timeouts=PATIENT))
        session = await stack.enter_async_context(connect(ANSWER_TIMEOUT_SECONDS))

        @web.middleware
        async def follow(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await world.follow(request, handler)

        old = request.param == "v1"
        server = StandIn(v1=old, v2=not old, page_cap=5, middlewares=[follow])
        world = World(server, Sweeping(index, session), loop_errors)
        for text in IDS:
            server.add(id=text)
        await stack.enter_async_context(server)
        yield world


async def claimed_ids(world: World, number: int) -> set[str]:
    buckets = world.sweeping.index.claims.of_location(number)
    return {format_id(image_id) async for _, ids in buckets for image_id in ids}


@examples(80)
@example([Answer(on_images(lambda rows: [*rows, {"id": []}]), parameter="id")], True)
@given(SCRIPT, st.booleans())
async def test_a_sweep_of_any_server_ends_and_a_failed_one_releases_nothing(
    world: World, script: list[Answer | None], endless: bool
) -> None:
    count_examples("listings: sweeps")
    sweeping = world.sweeping
    world.script = []
    location = await sweeping.register(world.server, f"l{uuid.uuid4().hex[:8]}")
    other = await sweeping.register(world.server, f"o{uuid.uuid4().hex[:8]}")
    claimed = {*IDS, DELETED}
    await sweeping.index.claims.claim(location.number, map(parse_id, sorted(claimed)))
    await sweeping.index.claims.claim(other.number, map(parse_id, [OTHERS_IMAGE, *IDS]))
    world.script = list(script)
    world.endless = script[-1] if script and endless else None
    result = await world.run_to_end(sweeping.sweep(location))
    world.endless = None
    if not isinstance(result, Sweep):
        assert claimed <= await claimed_ids(world, location.number)
    assert await claimed_ids(world, other.number) == {OTHERS_IMAGE, *IDS}
    for registered in (location, other):
        await sweeping.index.records.remove(registered.name)


@examples(80)
@example([Answer(headers={"Date": "Fri, 31 Dec 9999 23:59:59 -2359"})], False)
@example([Answer(repeating_pages())], True)
@example([Answer(headers={"Date": "Mon, 23 Nov 99999999999999999999 10:00:00 GMT"})], False)
@given(SCRIPT, st.booleans())
async def test_a_poll_of_any_server_ends(
    world: World, script: list[Answer | None], endless: bool
) -> None:
    count_examples("listings: polls")
    sweeping = world.sweeping
    world.script = []
    location = await sweeping.register(world.server, f"p{uuid.uuid4().hex[:8]}")
    server = GlanceServer(sweeping.session, location)
    versions = ("v1.1", "v1.0") if world.server.v1 else ("v2.15",)
    world.script = list(script)
    world.endless = script[-1] if script and endless else None

    async def report() -> None:
        pass

    scopes = ScopeCache()

    async def poll_since(before: Poll) -> Poll:
        return await poll(sweeping.index, server, versions, scopes, before, Sweep(), report)

    result = await world.run_to_end(poll_since(Poll()))
    world.script, world.endless = [], None
    if isinstance(result, Poll):  # and the next poll
        await world.run_to_end(poll_since(result))
    await sweeping.index.records.remove(location.name)


@examples(80)
@given(SCRIPT)
async def test_checks_and_probes_of_any_server_return_or_raise_location_unavailable(
    world: World, script: list[Answer | None]
) -> None:
    count_examples("listings: checks and probes")
    sweeping = world.sweeping
    world.script = []
    location = await sweeping.register(world.server, f"q{uuid.uuid4().hex[:8]}")
    server = GlanceServer(sweeping.session, location)
    known = ("v1.1",) if world.server.v1 else ("v2.15",)
    for work in (
        server.versions,
        server.healthy,
        lambda: has_image(server, known, IDS[0]),
        lambda: has_image(server, (), DELETED),
        lambda: diagnose(server, sweeping.session),
    ):
        world.script = list(script)
        await world.run_to_end(work())
    await sweeping.index.records.remove(location.name)
