"""How errors look outside the program: problem documents (RFC 9457), and Glance's own form below
``/v1`` and ``/v2``."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from resolver.errors import ImageAbsent, ImageUnknown, IndexUnavailable, ResolverError
from resolver.gateway.error_form import ErrorForm
from resolver.gateway.negotiation import JSON
from resolver.gateway.reply import NO_STORE, Reply, reason_phrase, to_response
from resolver.models import Outcome
from resolver.resolution import RETRY_AFTER_SECONDS, Answer

GLANCE_PAGE = """<html>
 <head>
  <title>{status}</title>
 </head>
 <body>
  <h1>{status}</h1>
  {text}<br /><br />



 </body>
</html>"""
"""An error as Glance (WebOb) writes it. Its clients print the lines without their tags."""


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
    form: ErrorForm | None = None,
    glance_text: str = "",
) -> Reply:
    """The reply to a request that failed.

    Args:
        extra: members of the problem document besides its own, which come after them.
        form: what `error_form` gives for the request.
        glance_text: the text in Glance's form, if it is not ``detail``.
    """
    fields = {**NO_STORE, **(headers or {})}
    if form is not None and "Accept" not in fields.get("Vary", ""):
        fields["Vary"] = f"{fields['Vary']}, Accept" if "Vary" in fields else "Accept"
    if form is ErrorForm.HTML:
        # Clients do not decode entities, so that only what HTML itself needs is escaped.
        text = html.escape(glance_text or detail, quote=False)
        page = GLANCE_PAGE.format(status=f"{status} {reason_phrase(status)}", text=text)
        return Reply(status, {**fields, "Content-Type": "text/html; charset=UTF-8"}, page.encode())
    body = {**(extra or {}), **problem_members(status, code, title, detail)}
    if form is ErrorForm.JSON:
        body["message"] = glance_text or detail
    media_type = (form or ErrorForm.PROBLEM).value
    return Reply(status, {**fields, "Content-Type": media_type}, json.dumps(body).encode())


def malformed(status: int, reason: str, form: ErrorForm | None = None) -> Reply:
    """The reply to what is not an HTTP request, or to one that is too large or too slow."""
    code, title = {
        408: ("request-timeout", "The request came too slowly"),
        414: ("uri-too-long", "URI too long"),
        417: ("expectation-failed", "Expectation failed"),
        431: ("header-too-large", "Header fields too large"),
    }.get(status, ("malformed-request", "Malformed request"))
    return problem(status, code, title, reason, form=form)


def error_reply(error: ResolverError, form: ErrorForm | None = None) -> Reply:
    """The reply to a request that failed with an error."""
    # A failure of the index is not an answer, although it has an answer's members.
    extra = {} if isinstance(error, IndexUnavailable) else error.extra
    outcome, source = str(extra.get("outcome", "")), str(extra.get("source", ""))
    reply = problem(
        error.status,
        error.problem_code,
        error.title,
        error.detail,
        extra=error.extra,
        headers=error.headers,
        form=form,
        glance_text=error.glance_text,
    )
    return replace(reply, outcome=outcome, source=source)


def json_reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON document."""
    fields = {**NO_STORE, **(headers or {}), "Content-Type": JSON}
    return Reply(status, fields, json.dumps(value).encode())


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON document as a response of aiohttp."""
    return to_response(json_reply(value, status=status, headers=headers))


def error_of(answer: Answer, vary: str) -> ResolverError | None:
    """The error that an answer without owners is; None for one with owners. ``vary`` names the
    request header fields that the answer depends on."""
    if answer.outcome is Outcome.ABSENT:
        return ImageAbsent(
            answer.detail,
            extra=answer.as_json(),
            headers={"Vary": vary},
            glance_text=f"No image found with ID {answer.id}",
        )
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
