"""Problem documents (RFC 9457): how errors look outside the program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from resolver.errors import ImageAbsent, ImageUnknown, IndexUnavailable, ResolverError
from resolver.gateway.reply import NO_STORE, Reply, reason_phrase, to_response
from resolver.models import Outcome
from resolver.resolution import RETRY_AFTER_SECONDS, Answer

PROBLEM = "application/problem+json"

GLANCECLIENT = "python-glanceclient"
"""How the User-Agent of python-glanceclient begins."""


def problem_members(status: int, code: str, title: str, detail: str) -> dict[str, Any]:
    """The members that every problem document has."""
    return {
        "type": f"urn:glance-resolver:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
    }


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """A problem document with ``extra`` members before its own."""
    body = {**(extra or {}), **problem_members(status, code, title, detail)}
    return Reply(
        status,
        {**NO_STORE, **(headers or {}), "Content-Type": PROBLEM},
        json.dumps(body).encode(),
    )


def malformed(status: int, reason: str) -> Reply:
    """The problem for what is no HTTP request, or too large or slow a one."""
    code, title = {
        408: ("request-timeout", "The request came too slowly"),
        414: ("uri-too-long", "URI too long"),
        417: ("expectation-failed", "Expectation failed"),
        431: ("header-too-large", "Header fields too large"),
    }.get(status, ("malformed-request", "Malformed request"))
    return problem(status, code, title, reason)


def error_reply(error: ResolverError, user_agent: str = "") -> Reply:
    """What a client gets for an error.

    python-glanceclient gets the same as text: it takes every JSON error for an object of objects
    (``exc.from_response``) and fails on a problem document with an AttributeError. Its ``Accept``
    is ``*/*`` like curl's, so that only its name tells it apart.
    """
    # A failure of the index is no answer, although it has an answer's members.
    extra = {} if isinstance(error, IndexUnavailable) else error.extra
    outcome, source = str(extra.get("outcome", "")), str(extra.get("source", ""))
    if user_agent.startswith(GLANCECLIENT):
        headers = {**NO_STORE, **error.headers, "Vary": "User-Agent"}
        headers["Content-Type"] = "text/plain; charset=utf-8"
        text = f"{error.status} {reason_phrase(error.status)}: {error.detail}"
        return Reply(error.status, headers, text.encode(), outcome, source)
    reply = problem(
        error.status,
        error.problem_code,
        error.title,
        error.detail,
        extra=error.extra,
        headers=error.headers,
    )
    return replace(reply, outcome=outcome, source=source)


def json_reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON document."""
    return Reply(
        status,
        {**NO_STORE, **(headers or {}), "Content-Type": "application/json"},
        json.dumps(value).encode(),
    )


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON document as a response of aiohttp."""
    return to_response(json_reply(value, status=status, headers=headers))


def error_of(answer: Answer, vary: str) -> ResolverError | None:
    """The error that an answer without owners is; None for one with owners. ``vary`` names the
    request header fields that the answer depends on."""
    if answer.outcome is Outcome.ABSENT:
        return ImageAbsent(answer.detail, extra=answer.as_json(), headers={"Vary": vary})
    if answer.outcome is Outcome.UNKNOWN:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Vary": vary}
        return ImageUnknown(answer.detail, extra=answer.as_json(), headers=headers)
    return None


def raise_unless_found(answer: Answer, vary: str) -> None:
    """Raises `error_of` an answer.

    Raises:
        ImageAbsent: every location has proved that it lacks the image.
        ImageUnknown: some location could not be asked, or did not answer.
    """
    if (error := error_of(answer, vary)) is not None:
        raise error
