"""Glance's paths that are about no image: what any location can answer is redirected to the best
one, and what must be sent to a certain one is refused with what to do instead."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from aiohttp import web

from resolver.errors import ImageUnknown, MethodNotAllowed, NotFound
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.image_path import check_target, region_of, split_region
from resolver.gateway.limits import LIMITS
from resolver.gateway.methods import READ_METHODS
from resolver.gateway.negotiation import preferences_from_headers
from resolver.gateway.reply import NO_STORE, Reply, to_response
from resolver.models import Health
from resolver.registry import LocationView
from resolver.resolution import RETRY_AFTER_SECONDS
from resolver.resolution.ranking import best_view


async def redirect_to_any(request: web.Request) -> web.StreamResponse:
    """307 to the best location that serves v2 and is not down. What it answers may differ from one
    location to another: stores, tasks and metadata definitions belong to a region."""
    query = request.rel_url.raw_query_string
    check_target(request.rel_url.raw_path, query)
    _, path = split_region(request.rel_url.raw_path)
    best = await _best_location(request, "v2")
    if best is None:
        raise ImageUnknown(
            "No location that serves v2 is registered and in service.",
            code="no-location",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    url = f"{best.base}{path}{f'?{query}' if query else ''}"
    return to_response(Reply(307, {**NO_STORE, "Location": url}))


async def refuse_head(request: web.Request) -> web.StreamResponse:
    """HEAD of a path that has GET only, as at Glance."""
    raise MethodNotAllowed("HEAD is not one of GET", headers={"Allow": "GET"})


async def answer_other_path(request: web.Request) -> web.StreamResponse:
    """What no other route below ``/v1`` and ``/v2`` has: a write, or a path that Glance lacks."""
    check_target(request.rel_url.raw_path, "")
    _, path = split_region(request.rel_url.raw_path)
    if request.method in READ_METHODS:
        raise NotFound("nothing is here: /openapi.json lists the paths")
    best = await _best_location(request, request.match_info["api"])
    url = f"{best.base}{path}" if best else ""
    region = best.location.region if best else ""
    raise refused_write(request.method, url, region, READ_METHODS)


def refused_write(
    method: str,
    url: str,
    region: str,
    allowed: Sequence[str],
    *,
    passes_on: str = "reads",
    outcome: str = "",
) -> MethodNotAllowed:
    """The error for a write that is not passed on.

    Args:
        url: where to send it; empty if that is not known.
        region: of the location at ``url``.
        passes_on: what this gateway redirects at this path.
        outcome: of the answer about the image, if it is about one.
    """
    target = f"to {url}" if url else "to a Glance server itself"
    choice = f", or choose its region (--os-region-name {shlex.quote(region)})" if region else ""
    return MethodNotAllowed(
        f"This gateway redirects {passes_on} only: send {method} {target}{choice}.",
        headers={
            "Allow": ", ".join(allowed),
            **({"Link": f'<{url}>; rel="alternate"'} if url else {}),
        },
        extra={**({"outcome": outcome} if outcome else {}), "url": url or None},
    )


async def _best_location(request: web.Request, api: str) -> LocationView | None:
    """The location that a client is sent to for what any can answer: one that is down only if all
    are; None where none is in service."""
    services = request.app[SERVICES]
    region = region_of(request.rel_url.raw_path)
    preferences = preferences_from_headers(request.headers, region)
    preferences = request.app[LIMITS].clients.preferences_for(request, preferences)
    table = await services.resolver.reader.usable_table()
    views = [
        view
        for view in table.in_service()
        if view.serves is None or view.serves[0 if api == "v1" else 1]
    ]
    working = [view for view in views if view.health is not Health.DOWN] or views
    return best_view(working, preferences.for_table(table), services.settings.region)
