"""A response as plain data, and the two ways in which it leaves: through aiohttp, or as bytes.

Handlers of public reads return a `Reply`. The front writes it by itself (`head_text`), the aiohttp
application turns it into a response (`to_response`). Both give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web

NO_STORE = {"Cache-Control": "no-store"}
"""Answers are true now, and no cache may keep them."""

SERVER_NAME = "glance-resolver"
"""Of the field ``Server`` (RFC 9110, 10.2.4). aiohttp would name its version and Python's."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, header fields in the order in which they are sent, and the body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    outcome: str = ""
    """The answer's outcome, for the log line and the metrics; empty for what is not an answer."""
    source: str = ""
    """Where the answer about one image came from, for the metrics; empty for what is none."""

    def header(self, name: str, value: str) -> Reply:
        """The same with one more header field."""
        return replace(self, headers={**self.headers, name: value})


@lru_cache(maxsize=64)
def reason_phrase(status: int) -> str:
    """The text behind a status code (RFC 9110, 15); empty for an unknown code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def head_text(reply: Reply) -> str:
    """The status line and the header fields that depend on the reply alone, each with its CRLF."""
    lines = [f"HTTP/1.1 {reply.status} {reason_phrase(reply.status)}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    return "\r\n".join([*lines, ""])


def to_response(reply: Reply) -> web.Response:
    """The same as a response of aiohttp."""
    return web.Response(
        status=reply.status,
        reason=reason_phrase(reply.status),
        headers=reply.headers,
        body=reply.body or None,
    )
