"""A request's trace is in its log lines, and in the questions to locations that it causes."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.gateway.net.known_reads import FrontRequest, KnownReads
from resolver.gateway.net.request_head import parse_head
from resolver.models import format_id
from resolver.standin import StandIn
from tests.cli.test_serve import Server, found, serve
from tests.support.ids import make_ids
from tests.support.wait import wait_until

IDS = [format_id(image_id) for image_id in make_ids(40)]


def trace(number: int) -> str:
    return f"{number:032x}"


def traceparent(number: int) -> str:
    return f"00-{trace(number)}-00f067aa0ba902b7-01"


class TraceRecorder:
    """The traces of the questions to a location."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fields = request.headers
        self.headers.append((fields.get("traceparent", ""), fields.get("tracestate", "")))
        return await handler(request)


async def log_line(server: Server, trace_id: str) -> dict[str, Any]:
    def lines() -> list[dict[str, Any]]:
        logged = [json.loads(line) for line in server.lines if line.startswith("{")]
        return [row for row in logged if row.get("trace_id") == trace_id]

    found_lines = await wait_until(lines)
    return dict(found_lines[-1])


async def test_traces_reach_the_log_and_the_locations() -> None:
    recorder = TraceRecorder()
    async with (
        StandIn(middlewares=[recorder.middleware]) as one,
        serve("--location", f"one={one.url}") as server,
    ):
        image = one.add(name="a").id
        await wait_until(lambda: found(server, image))
        assert {parent for parent, _ in recorder.headers} == {""}, "sweeps belong to no trace"
        async with aiohttp.ClientSession(server.url) as http:
            # Known images; the second request is recognized without being parsed.
            for number in (1, 2, 3):
                headers = {"traceparent": traceparent(number)}
                async with http.get(
                    f"/v2/images/{image}", headers=headers, allow_redirects=False
                ) as reply:
                    assert reply.status == 307
                line = await log_line(server, trace(number))
                assert (line["path"], line["status"]) == (f"/v2/images/{image}", 307)
            # An unknown one: the location is asked.
            headers = {"traceparent": traceparent(4), "tracestate": "a=1"}
            async with http.get(f"/resolve/{IDS[0]}", headers=headers) as reply:
                assert reply.status == 404
            assert (traceparent(4), "a=1") in recorder.headers
            assert (await log_line(server, trace(4)))["outcome"] == "absent"
            # What aiohttp answers.
            headers = {"traceparent": traceparent(5)}
            async with http.post("/resolve", json=[IDS[1]], headers=headers) as reply:
                assert reply.status == 200
            assert (traceparent(5), "") in recorder.headers
            assert (await log_line(server, trace(5)))["path"] == "/resolve"
            # None.
            async with http.get(f"/resolve/{IDS[2]}", headers={"traceparent": "x"}) as reply:
                assert reply.status == 404
        assert {parent for parent, _ in recorder.headers} == {"", traceparent(4), traceparent(5)}


@pytest.mark.parametrize("more", ["", "tracestate: a=1\r\n"])
def test_requests_that_differ_in_their_trace_only_are_one_kind(more: str) -> None:
    """Otherwise each would be parsed, and push another kind out of the memory."""
    known = KnownReads()

    def request(number: int) -> bytes:
        return (
            f"GET /v2/images/{IDS[number]} HTTP/1.1\r\nHost: a\r\n"
            f"Traceparent: {traceparent(number)}\r\n{more}\r\n"
        ).encode()

    head = parse_head(request(1), 0)
    assert head is not None
    assert known.learn(request(1), FrontRequest.from_head(head, "192.0.2.1", "http")) is not None
    for number in range(2, 40):
        read = known.recognize(request(number), None, "192.0.2.1", "http")
        assert read is not None
        assert read.trace.trace_id == trace(number)
        assert read.request().trace == read.trace
    assert len(known.remembered) == 1
    assert b"raceparent" not in known.remembered[0]


@pytest.mark.parametrize("name", ["X-Openstack-Request-Id", "x-openstack-request-ID"])
@pytest.mark.parametrize(
    "before", ["", "Traceparent: {}\r\n", "X-Trace: no\r\ntraceparent: {}\r\n"]
)
def test_requests_that_differ_in_their_own_fields_only_are_one_kind(name: str, before: str) -> None:
    known = KnownReads()

    def request(number: int, request_id: str) -> bytes:
        fields = before.format(traceparent(number)) + f"{name}: {request_id}\r\nAccept: */*\r\n"
        return f"GET /v2/images/{IDS[number]} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()

    first = request(1, f"req-{IDS[0]}")
    head = parse_head(first, 0)
    assert head is not None
    assert known.learn(first, FrontRequest.from_head(head, "192.0.2.1", "http")) is not None
    for number in range(2, 10):
        request_id = f"req-{IDS[number].upper()}"
        read = known.recognize(request(number, request_id), None, "192.0.2.1", "http")
        assert read is not None
        assert read.request_id == request_id
        assert read.trace.trace_id == (trace(number) if "{}" in before else "")
    assert len(known.remembered) == 1
    assert known.recognize(request(1, "req-1"), None, "192.0.2.1", "http") is None
