"""Calls as generators of steps, which a client performs with or without an event loop.

So the rules (retries, the order of owners, what is verified) are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

MAX_BODY_BYTES = 64 << 20
"""Of a response that is kept in memory."""

Write = Callable[[bytes], None]


class ExchangeError(Exception):
    """A connection failed, or what arrives on it cannot be used. Steps receive it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. Names of headers are in lower case; `body` is empty where it was written away."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, sent with these headers only. Redirects are not followed.

    ``receive`` is called with the head of the response. Where it returns a function, that gets
    the parts of the body as they arrive.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    max_bytes: int = MAX_BODY_BYTES
    receive: Callable[[Reply], Write | None] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Waits for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Calls a function that may block on a disk."""

    function: Callable[[], None]


def token_headers(token: str | None) -> dict[str, str]:
    """`X-Auth-Token`, or none without a token.

    Raises:
        ValueError: no header can have it. The text does not contain it, as that of the HTTP
            library would.
    """
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token has characters that no token has: a line break at its end?")
    return {"X-Auth-Token": token}


T = TypeVar("T")
Step = Request | Pause | Work
Steps = Generator[Step, Reply | None, T]
"""Yields steps; receives the Reply to a Request, or ExchangeError, and None for other steps."""


def send(request: Request) -> Steps[Reply]:
    """Raises ExchangeError."""
    reply = yield request
    assert reply is not None
    return reply
