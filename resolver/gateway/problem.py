"""Problem documents (RFC 9457) and the few other ways in which answers are rendered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from resolver.errors import ImageAbsent, ImageUnknown, NotAcceptable, RequestTimeout, ResolverError
from resolver.models import Outcome
from resolver.resolution import Answer
from resolver.resolution.image_resolver import RETRY_AFTER

NO_STORE = {"Cache-Control": "no-store"}
"""Answers are true now and nobody may keep them."""


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    body = {
        **(extra or {}),
        "type": f"urn:glance-resolver:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return web.Response(
        status=status,
        body=json.dumps(body).encode(),
        content_type="application/problem+json",
        headers={**NO_STORE, **(headers or {})},
    )


def render_error(error: ResolverError) -> web.Response:
    response = problem(
        error.status,
        error.problem_code,
        error.title,
        error.detail,
        extra=error.extra,
        headers=error.headers,
    )
    if isinstance(error, RequestTimeout):  # the rest of its body would be taken for a request
        response.force_close()
    return response


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(value).encode(),
        content_type="application/json",
        headers={**NO_STORE, **(headers or {})},
    )


def require_found(answer: Answer, vary: str) -> None:
    """Raises the error that an answer without owners is. ``vary`` names the request headers that
    it depends on.

    Raises:
        ImageAbsent: every location was covered.
        ImageUnknown: some could not vouch.
    """
    if answer.outcome is Outcome.ABSENT:
        raise ImageAbsent(answer.detail, extra=answer.as_json(), headers={"Vary": vary})
    if answer.outcome is Outcome.UNKNOWN:
        raise ImageUnknown(
            answer.detail,
            extra=answer.as_json(),
            headers={"Retry-After": str(RETRY_AFTER), "Vary": vary},
        )


def accepted(request: web.Request, *offers: str) -> str:
    """The media type of ``offers`` (the first is the default) that the client likes best.

    Per RFC 9110, 12.5.1: the most specific range that matches gives a type's quality.

    Raises:
        NotAcceptable: it takes none of them.
    """
    values = request.headers.getall("Accept", [])
    ranges = [part for value in values for part in value.split(",") if part.strip()]
    if not ranges:
        return offers[0]
    parsed = []
    for part in ranges:
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        parsed.append((media, quality))

    def quality_of(offer: str) -> float:
        kinds = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        for kind in kinds:
            for media, quality in parsed:
                if media == kind:
                    return quality
        return 0.0

    best = max(offers, key=quality_of)
    if quality_of(best) <= 0:
        raise NotAcceptable(f"this can be had as {' or '.join(offers)}", headers={"Vary": "Accept"})
    return best
