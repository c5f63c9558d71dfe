"""Requests and responses of httpx."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from glance_resolver_client.exchange import ExchangeError, Reply, Request, Write

TIMEOUT_SECONDS = 30.0
"""How long a connection may take, or stay silent."""
ANSWER_TIMEOUTS = 4
"""As many times may a response take whose body is kept in memory, and the head of any: a server
can send a little, or interim responses (RFC 9110, 15.2), again and again."""
DIRECT: dict[str, None] = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
"""URLs that are asked for without a proxy, as ``mounts`` of httpx: its loopback is not ours."""
DEFAULT_HEADERS = {"User-Agent": "glance-resolver-client", "Accept-Encoding": "identity"}


def outgoing(request: Request, timeout: float, **extensions: Any) -> httpx.Request:
    """With the given headers only: none, and no cookies, that a client would add by itself.

    Raises:
        ExchangeError: the URL or a header cannot be sent.
    """
    try:
        return httpx.Request(
            request.method,
            request.url,
            headers={**DEFAULT_HEADERS, **request.headers},
            content=request.content,
            extensions={"timeout": httpx.Timeout(timeout).as_dict(), **extensions},
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise ExchangeError(f"the request cannot be sent: {error}") from error


@contextmanager
def exchange_errors() -> Iterator[None]:
    """Turns errors of httpx into ExchangeError."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ExchangeError(str(error) or type(error).__name__) from error


def too_slow_error() -> ExchangeError:
    """The error for a response that takes more than `ANSWER_TIMEOUTS`."""
    return ExchangeError("the response is not complete in time")


class HeadDeadline:
    """Bounds the time until the head of a response is there, for the client for threads. httpx
    bounds only the time between two parts of it."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What this thread reads meanwhile raises ExchangeError after this time."""
        self._thread.until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._thread.until = math.inf

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """For the extension ``trace`` of httpx: learns of each new connection."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info["return_value"]
            read = stream.read

            def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
                if time.monotonic() > getattr(self._thread, "until", math.inf):
                    raise too_slow_error()
                part: bytes = read(max_bytes, timeout)
                return part

            stream.read = read_in_time


class Incoming:
    """One response while it arrives."""

    def __init__(self, request: Request, response: httpx.Response, until: float) -> None:
        """``until``: when a body that is kept must be complete, by `time.monotonic`."""
        self._until = until
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._head = Reply(response.status_code, headers)
        self._max_bytes = request.max_bytes
        self._body = bytearray()
        self.write: Write = self._keep
        """Takes a part of the body; may block on a disk. Raises ExchangeError or OSError."""
        if request.receive is not None:
            self.write = request.receive(self._head) or self._keep

    def _keep(self, part: bytes) -> None:
        if time.monotonic() > self._until:
            raise too_slow_error()
        self._body += part
        if len(self._body) > self._max_bytes:
            raise ExchangeError(f"the response has more than {self._max_bytes} bytes")

    def reply(self) -> Reply:
        """The whole."""
        return Reply(self._head.status, self._head.headers, bytes(self._body))
