"""Spans by OpenTelemetry. Where they go is in its own variables, ``OTEL_*``.

It needs the extra ``otel``. Only public interfaces of opentelemetry-api and opentelemetry-sdk are
used. The tracer provider is this one's own, and not the process's global one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import requests
from opentelemetry.context import Context, get_current
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from resolver import __version__
from resolver.spans import Attributes
from resolver.trace_context import trace_headers

SHUTDOWN_SECONDS = 2.0
"""How long the end of a process waits until the last spans are sent."""

SERVER_ERROR = 500

LOG_INTERVAL_SECONDS = 600.0
"""Between two lines about a collector that does not answer. Its client logs each attempt."""

_propagator = TraceContextTextMapPropagator()


@asynccontextmanager
async def open_spans(processor: SpanProcessor | None = None) -> AsyncIterator[OtelSpans]:
    """Spans that are sent until the context ends. ``processor``: takes them; None: they are sent in
    batches, by OTLP over HTTP."""
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "glance-resolver"}
    resource = Resource.create({**named, SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor or BatchSpanProcessor(_exporter()))
    exporter_log, rarely = logging.getLogger(OTLPSpanExporter.__module__), _Rarely()
    exporter_log.addFilter(rarely)
    try:
        yield OtelSpans(provider)
    finally:
        await _shut_down(provider)
        exporter_log.removeFilter(rarely)


def _exporter() -> OTLPSpanExporter:
    session = requests.Session()
    session.auth = lambda request: request  # or else it adds a password of ~/.netrc
    return OTLPSpanExporter(session=session)


class _Rarely(logging.Filter):
    """Lets a line pass once in `LOG_INTERVAL_SECONDS`."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, _: logging.LogRecord) -> bool:
        """Whether the line is logged."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + LOG_INTERVAL_SECONDS
        return True


async def _shut_down(provider: TracerProvider) -> None:
    """Sends the last spans, for `SHUTDOWN_SECONDS` at most. It blocks, so a thread does it."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=shut_down, name="spans", daemon=True).start()
    try:
        async with asyncio.timeout(SHUTDOWN_SECONDS):
            await ended.wait()
    except TimeoutError:
        pass


class OtelSpans:
    """A `resolver.spans.Spans`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("glance-resolver", __version__)

    @contextmanager
    def span(self, name: str, attributes: Attributes) -> Iterator[None]:
        """See `resolver.spans.Spans.span`."""
        with self._tracer.start_as_current_span(name, _parent(), attributes=attributes):
            yield

    def request(self, method: str, host: str, port: int, path: str) -> OtelRequestSpan | None:
        """See `resolver.spans.Spans.request`. Names are those of OpenTelemetry's conventions for
        HTTP clients. The query is left out: it may have names of images."""
        parent = _parent()
        if not get_current_span(parent).get_span_context().is_valid:
            return None
        attributes: Attributes = {
            "http.request.method": method,
            "server.address": host,
            "server.port": port,
            "url.path": path,
        }
        return OtelRequestSpan(
            self._tracer.start_span(method, parent, kind=SpanKind.CLIENT, attributes=attributes)
        )


class OtelRequestSpan:
    """A `resolver.spans.RequestSpan`."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def headers(self) -> Mapping[str, str]:
        """See `resolver.spans.RequestSpan.headers`."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(self._span))
        return carrier

    def end(self, status: int | None, error: str = "") -> None:
        """See `resolver.spans.RequestSpan.end`."""
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if error or (status is not None and status >= SERVER_ERROR):
            self._span.set_attribute("error.type", error or str(status))
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _parent() -> Context:
    """The context with the current span, or else with the one that the client's request names."""
    context = get_current()
    if get_current_span(context).get_span_context().is_valid:
        return context
    return _propagator.extract(trace_headers(), context)
