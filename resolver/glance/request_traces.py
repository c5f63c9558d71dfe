"""Makes a span of each request to a location."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import aiohttp

from resolver.spans import RequestSpan, Spans


def request_traces(spans: Spans) -> aiohttp.TraceConfig:
    """For the HTTP session of locations."""

    async def begin(
        _: object, context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        url = request.url
        span = spans.request(request.method, url.host or "", url.port or 0, url.path)
        context.span = span
        if span:
            request.headers.update(span.headers())

    config = aiohttp.TraceConfig()
    config.on_request_start.append(begin)
    config.on_request_end.append(_end)
    config.on_request_exception.append(_fail)
    return config


async def _end(_: object, context: SimpleNamespace, request: aiohttp.TraceRequestEndParams) -> None:
    span: RequestSpan | None = context.span
    if span is not None:
        span.end(request.response.status)


async def _fail(
    _: object, context: SimpleNamespace, request: aiohttp.TraceRequestExceptionParams
) -> None:
    span: RequestSpan | None = context.span
    if span is not None:
        is_cancelled = isinstance(request.exception, asyncio.CancelledError)
        span.end(None, "timeout" if is_cancelled else type(request.exception).__qualname__)
