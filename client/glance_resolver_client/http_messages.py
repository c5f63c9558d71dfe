"""Requests and responses of httpx."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from glance_resolver_client.exchange import ExchangeError, Reply, Request, Write

TIMEOUT_SECONDS = 30.0
"""How long a connection may take, or stay silent."""
DIRECT: dict[str, None] = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
"""URLs that are asked for without a proxy, as ``mounts`` of httpx: its loopback is not ours."""
DEFAULT_HEADERS = {"User-Agent": "glance-resolver-client", "Accept-Encoding": "identity"}


def outgoing(request: Request, timeout: float) -> httpx.Request:
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
            extensions={"timeout": httpx.Timeout(timeout).as_dict()},
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


class Incoming:
    """One response while it arrives."""

    def __init__(self, request: Request, response: httpx.Response) -> None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._head = Reply(response.status_code, headers)
        self._max_bytes = request.max_bytes
        self._body = bytearray()
        self.write: Write = self._keep
        """Takes a part of the body; may block on a disk. Raises ExchangeError or OSError."""
        if request.receive is not None:
            self.write = request.receive(self._head) or self._keep

    def _keep(self, part: bytes) -> None:
        self._body += part
        if len(self._body) > self._max_bytes:
            raise ExchangeError(f"the response has more than {self._max_bytes} bytes")

    def reply(self) -> Reply:
        """The whole."""
        return Reply(self._head.status, self._head.headers, bytes(self._body))
