"""Reading request bodies: bounded in size and in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from resolver.errors import RequestTimeout, TooLarge, UnsupportedMediaType
from resolver.gateway.app_keys import SERVICES


async def read_body(
    request: web.Request, limit: int, reserve: Callable[[int], None] = lambda _: None
) -> bytes:
    """The body of a request. Reading stops shortly after ``limit`` bytes.

    ``reserve`` is called with the size of each part before it is stored; what it raises ends the
    reading.

    Raises:
        RequestTimeout: the client did not send all of it within RESOLVER_CLIENT_TIMEOUT.
        TooLarge: the body is longer than ``limit`` bytes.
        UnsupportedMediaType: the body is compressed.
    """
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise UnsupportedMediaType(
            f"send the body as it is, without `Content-Encoding: {coding[:40]}`",
            headers={"Accept-Encoding": "identity"},  # RFC 9110, 12.5.3
        )
    seconds = request.app[SERVICES].settings.client_timeout
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                reserve(len(chunk))
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"the body is longer than {limit} bytes")
    except TimeoutError as error:
        raise body_timeout_error(seconds) from error
    return bytes(body)


def read_json(body: bytes, **options: Any) -> Any:
    """The JSON value of a body; ``options`` go to `json.loads`.

    Only UTF-8 is accepted, with or without a byte order mark (RFC 8259, 8.1). `json.loads` on bytes
    would also guess UTF-16 and UTF-32, and accept lone surrogates.

    Raises:
        ValueError, RecursionError: the body is not JSON, or it is nested too deeply.
    """
    return json.loads(body.decode("utf-8-sig"), **options)


def body_timeout_error(seconds: float) -> RequestTimeout:
    """The error for a body that did not arrive within ``seconds``."""
    return RequestTimeout(f"the body took longer than {seconds:g} s (RESOLVER_CLIENT_TIMEOUT)")
