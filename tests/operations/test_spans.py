"""`RESOLVER_OTEL`: spans as a collector of OpenTelemetry receives them, by OTLP over HTTP."""

from __future__ import annotations

import gzip
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import format_id
from resolver.standin import StandIn
from tests.cli.test_serve import found, run, serve
from tests.operations.conftest import ROOT
from tests.support.ids import make_ids
from tests.support.process import free_port
from tests.support.wait import wait_until

pytest.importorskip("opentelemetry.sdk")

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CLIENT}-01"
(UNKNOWN,) = map(format_id, make_ids(1))


class Collector:
    """Receives spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/traces", self._receive)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
            ExportTraceServiceRequest,
        )

        body = await request.read()
        message = ExportTraceServiceRequest()
        message.ParseFromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        for resource_spans in message.resource_spans:
            attributes = resource_spans.resource.attributes
            self.resource = {each.key: each.value.string_value for each in attributes}
            for scope_spans in resource_spans.scope_spans:
                self.spans += scope_spans.spans
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str, trace: str = "") -> list[Any]:
        return [
            span for span in self.spans if span.name == name and trace in ("", span.trace_id.hex())
        ]


class Seen:
    """The `traceparent` of each question about an image to a location."""

    def __init__(self) -> None:
        self.traceparents: list[str] = []

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.endswith(UNKNOWN):
            self.traceparents.append(request.headers.get("traceparent", ""))
        return await handler(request)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        yield collector


def environ(collector_url: str) -> dict[str, str]:
    return {
        "RESOLVER_OTEL": "true",
        "RESOLVER_POLL_INTERVAL": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector_url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


async def test_sweeps_polls_and_requests_that_ask_locations_are_spans(collector: Collector) -> None:
    seen = Seen()
    async with (
        StandIn(middlewares=[seen.middleware]) as one,
        serve("--location", f"one={one.url}", **environ(collector.url)) as server,
    ):
        image = one.add(name="a").id
        await wait_until(lambda: found(server, image))
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=x"}
        async with aiohttp.ClientSession(server.url, headers=headers) as http:
            for path in (f"/resolve/{image}", "/healthcheck"):  # nobody is asked
                assert (await http.get(path)).status == 200
            assert (await http.get(f"/resolve/{UNKNOWN}")).status == 404
        await wait_until(lambda: collector.named("GET", TRACE))
        await wait_until(lambda: collector.named("sweep") and collector.named("poll"))

    (asked,) = collector.named("ask locations", TRACE)
    assert asked.parent_span_id.hex() == CLIENT
    questions = collector.named("GET", TRACE)
    assert {span.parent_span_id for span in questions} == {asked.span_id}
    # The location's own spans belong to the question, not to what the client sent.
    assert set(seen.traceparents) <= {f"00-{TRACE}-{span.span_id.hex()}-01" for span in questions}
    assert seen.traceparents
    attributes = {each.key: each.value for each in questions[0].attributes}
    assert attributes["server.port"].int_value == one.port
    assert attributes["http.response.status_code"].int_value in (200, 404)
    assert all("?" not in each.value.string_value for each in questions[0].attributes)
    assert collector.resource["service.name"] == "glance-resolver"
    (sweep, *_) = collector.named("sweep")
    assert sweep.parent_span_id == b""
    children = [span for span in collector.spans if span.parent_span_id == sweep.span_id]
    assert len(children) > 1
    # Health checks belong to nothing, and are no spans.
    roots = {span.name for span in collector.spans if not span.parent_span_id}
    assert roots <= {"sweep", "poll", "ask locations"}


async def test_a_listing_is_a_span(collector: Collector) -> None:
    async with (
        StandIn() as one,
        serve("--location", f"one={one.url}", **environ(collector.url)) as server,
        aiohttp.ClientSession(server.url, headers={"traceparent": TRACEPARENT}) as http,
    ):
        await wait_until(lambda: collector.named("sweep"))
        assert (await http.get("/v2/images?name=secret")).status == 200
        await wait_until(lambda: collector.named("list images", TRACE))
    (listing,) = collector.named("list images", TRACE)
    (question,) = collector.named("GET", TRACE)
    assert question.parent_span_id == listing.span_id
    assert b"secret" not in question.SerializeToString()


async def test_a_collector_that_is_away_holds_nothing_up() -> None:
    async with (
        StandIn() as one,
        serve(
            "--location", f"one={one.url}", **environ(f"http://127.0.0.1:{free_port()}")
        ) as server,
    ):
        image = one.add(name="a").id
        await wait_until(lambda: found(server, image))
        server.process.terminate()
        await wait_until(lambda: server.process.returncode is not None)
        assert server.process.returncode == 0


async def test_a_collector_that_is_away_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: PLC0415
        InMemorySpanExporter,
    )

    from resolver.otel_spans import open_spans  # noqa: PLC0415

    async with open_spans(SimpleSpanProcessor(InMemorySpanExporter())):
        for attempt in range(3):
            logging.getLogger(OTLPSpanExporter.__module__).warning("attempt %d", attempt)
    assert [record.getMessage() for record in caplog.records] == ["attempt 0"]


async def test_without_the_package_the_start_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").touch()  # stands before the installed package
    status, _, err = await run(
        "serve", "--port", "0", RESOLVER_OTEL="true", PYTHONPATH=f"{tmp_path}:{ROOT}"
    )
    assert status == 1
    assert "pip install '.[otel]'" in err
