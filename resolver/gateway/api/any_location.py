"""Glance's paths that are about no image: what any location can answer is redirected to the best
one, and what must be sent to a certain one is refused with what to do instead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from aiohttp import web

from resolver.callers import Caller
from resolver.errors import ImageUnknown, MethodNotAllowed, NotFound
from resolver.gateway.api.image_listing import LISTING_PATH
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.image_path import REGION_LABEL, check_target, region_of, split_region
from resolver.gateway.limits import LIMITS
from resolver.gateway.methods import READ_METHODS, WRITE_METHODS, check_method
from resolver.gateway.negotiation import VARY_PREFERENCES, preferences_from_headers
from resolver.gateway.read_auth import admit
from resolver.gateway.reply import NO_STORE, Reply, to_response
from resolver.models import Health
from resolver.registry import LocationView, Table
from resolver.resolution import RETRY_AFTER_SECONDS, Preferences
from resolver.resolution.ranking import best_view
from resolver.services import Services

ANY_LOCATION_NAMES = ("schemas", "info", "tasks", "metadefs", "cache")
"""What is below ``/v2/`` and about no image."""

_PATH = re.compile(
    rf"(/region/[^/]+)?/v2/({'|'.join(ANY_LOCATION_NAMES)})(?:/.*)?", re.ASCII | re.DOTALL
)

_IMAGES_WITHOUT_ID = ("/v1/images/", "/v2/images/")


def any_location_label(path: str) -> str:
    """What metrics call the route of a path that any location can answer; empty for others."""
    match = _PATH.fullmatch(path)
    return f"{REGION_LABEL if match[1] else ''}/v2/{match[2]}{{rest}}" if match else ""


def is_schema_path(path: str) -> bool:
    """Whether a path is that of a schema, which every client may read."""
    match = _PATH.fullmatch(path)
    return match is not None and match[2] == "schemas"


async def redirect_to_any(request: web.Request) -> web.StreamResponse:
    """See `redirect_reply`."""
    services = request.app[SERVICES]
    path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
    check_target(path, query)
    caller = None if is_schema_path(path) else await admit(request, region_of(path))
    table = await services.resolver.reader.usable_table()
    preferences = client_preferences(request, region_of(path))
    return to_response(redirect_reply(services, table, preferences, path, query, caller))


def redirect_reply(
    services: Services,
    table: Table,
    preferences: Preferences,
    path: str,
    query: str,
    caller: Caller | None = None,
) -> Reply:
    """307 to the best location that serves v2 and is not down. What it answers may differ from one
    location to another: stores, tasks and metadata definitions belong to a region.

    Raises:
        ImageUnknown: there is none.
    """
    _, path = split_region(path)
    domain = domain_of(services, caller)
    best = best_location(table, preferences, services.settings.region, "v2", domain)
    if best is None:
        raise ImageUnknown(
            "No location that serves v2 is registered and in service.",
            code="no-location",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    url = f"{best.base}{path}{f'?{query}' if query else ''}"
    return Reply(307, {**NO_STORE, "Location": url})


async def answer_other_path(request: web.Request) -> web.StreamResponse:
    """What no other route below ``/v1`` and ``/v2`` has: a write, or a path that Glance lacks."""
    check_target(request.rel_url.raw_path, "")
    _, path = split_region(request.rel_url.raw_path)
    is_listing = path == LISTING_PATH
    reads = ("GET",) if is_listing else READ_METHODS
    if path.startswith(_IMAGES_WITHOUT_ID) or (request.method in READ_METHODS and not is_listing):
        raise NotFound("nothing is here: /openapi.json lists the paths")
    preferences = client_preferences(request, region_of(request.rel_url.raw_path))
    caller = await admit(request, preferences.region)
    services = request.app[SERVICES]
    redirects = is_listing and services.settings.redirect_writes
    allowed = (*reads, "POST") if redirects else reads
    check_method(request.method, ("POST",) if is_listing else WRITE_METHODS, allowed)
    table = await services.resolver.reader.usable_table()
    domain = domain_of(services, caller)
    api = request.match_info["api"]
    best = best_location(table, preferences, services.settings.region, api, domain)
    url = f"{best.base}{path}" if best else ""
    if best and redirects:
        return to_response(Reply(307, {**NO_STORE, "Location": url, "Vary": VARY_PREFERENCES}))
    region = best.location.region if best else ""
    raise write_refused_error(request.method, url, region, allowed)


def write_refused_error(
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


def client_preferences(request: web.Request, region: str) -> Preferences:
    """What the client of a request asks for in header fields, with what is known of the client.
    ``region``: the one that the path prefers.

    Raises:
        InvalidRequest: a header field is wrong.
    """
    preferences = preferences_from_headers(request.headers, region)
    return request.app[LIMITS].clients.preferences_for(request, preferences)


def domain_of(services: Services, caller: Caller | None) -> str | None:
    """The domain of the locations that a client may be sent to; None for any."""
    return caller.domain if caller is not None and services.caller_images is not None else None


def best_location(
    table: Table, preferences: Preferences, home_region: str, api: str, domain: str | None
) -> LocationView | None:
    """The location that a client is sent to for what any can answer: one that is down only if all
    are; None where none is in service. ``domain``: see `domain_of`."""
    in_domain = [view for view in table.in_service() if domain in (None, view.location.domain)]
    views = [
        view for view in in_domain if view.serves is None or view.serves[0 if api == "v1" else 1]
    ]
    working = [view for view in views if view.health is not Health.DOWN] or views
    return best_view(working, preferences.for_table(table), home_region)
