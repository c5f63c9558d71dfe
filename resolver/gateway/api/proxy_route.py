"""``/route/{path}``: where a proxy that carries requests is to send one.

The proxy (``config/nginx.conf``, ``config/haproxy.cfg``) asks this before it passes a request on,
so that the bytes of an upload or a download go through the proxy, and never through this gateway.
"""

from __future__ import annotations

import re
from dataclasses import replace

from aiohttp import web

from resolver.errors import ImageUnknown, NoRoute, ResolverError
from resolver.gateway.api.any_location import (
    ANY_LOCATION_NAMES,
    best_location,
    client_preferences,
    domain_of,
    is_schema_path,
)
from resolver.gateway.api.image_reads import asks_for_bytes, owner_headers, redirect_targets
from resolver.gateway.api.images import answer_image
from resolver.gateway.app_keys import OUTCOME, SERVICES, SOURCE
from resolver.gateway.image_path import (
    ImagePath,
    check_target,
    is_image_path,
    parse_image_path,
    region_of,
    split_region,
)
from resolver.gateway.limits import LIMITS, RequestCharge
from resolver.gateway.methods import READ_METHODS
from resolver.gateway.negotiation import VARY_PREFERENCES, client_token
from resolver.gateway.problem import raise_unless_found
from resolver.gateway.read_auth import admit
from resolver.gateway.reply import NO_STORE, Reply, to_response
from resolver.image_facts import ImageStatus
from resolver.models import Outcome, format_id
from resolver.registry import LocationView
from resolver.resolution import Answer, Preferences

PREFIX = "/route"

METHOD = "X-Forwarded-Method"
"""The method of the request that is asked about; GET without it."""

URL = "X-Resolver-Url"
"""Where the request is to be sent."""

_METHODS = frozenset({*READ_METHODS, "POST", "PUT", "PATCH", "DELETE"})

_GLANCE_PATH = re.compile(r"/(v[12])/([^/]+)(?:/.*)?", re.ASCII)

_UPLOADS = {
    ("v1", "PUT"): ("",),
    ("v2", "PUT"): ("/file", "/stage"),
    ("v2", "POST"): ("/import",),
}
"""Writes that bring an image its bytes, by API and method: the paths behind the id."""


async def route_request(request: web.Request) -> web.StreamResponse:
    """204 with the URL that the request goes to; 403 where this gateway answers it itself. A proxy
    then sends it here, and gets the whole answer: an image's absence, a listing, a refusal.

    Raises:
        NoRoute: this gateway answers the request itself.
    """
    method = request.headers.get(METHOD, "GET")
    path = request.rel_url.raw_path.removeprefix(PREFIX)
    query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
    try:
        if method not in _METHODS:
            raise NoRoute(f"no server receives {method[:20]} through a proxy.")
        if is_image_path(path):
            view, url = await _image_target(request, method, parse_image_path(path, query))
        else:
            view, url = await _other_target(request, method, path, query)
    except ResolverError as error:
        raise NoRoute(f"This gateway answers the request itself: {error.detail}") from error
    return to_response(Reply(204, {**NO_STORE, **owner_headers(view), URL: url}))


async def _image_target(
    request: web.Request, method: str, path: ImagePath
) -> tuple[LocationView, str]:
    """The location that a request about an image goes to, and the URL there.

    Raises:
        ResolverError: it goes nowhere.
    """
    preferences = client_preferences(request, path.region)
    is_write, is_head = method not in READ_METHODS, method == "HEAD"
    needs_bytes = not is_write and asks_for_bytes(path, is_head=is_head)
    answer = await _resolve(request, path, preferences, needs_bytes=needs_bytes, is_write=is_write)
    request[OUTCOME], request[SOURCE] = str(answer.outcome), answer.source
    raise_unless_found(answer, VARY_PREFERENCES)
    if path.rest in _UPLOADS.get((path.api, method), ()):
        # Where it waits for its bytes comes before where it has them.
        pending_first = sorted(answer.owners, key=lambda o: o.status is not ImageStatus.PENDING)
        answer = replace(answer, owners=tuple(pending_first))
    targets = redirect_targets(
        answer,
        path,
        format_id(path.image_id),
        is_write=is_write,
        is_head=is_head,
        https=preferences.https,
    )
    owner, url = targets[0]
    return owner.view, url


async def _resolve(
    request: web.Request,
    path: ImagePath,
    preferences: Preferences,
    *,
    needs_bytes: bool,
    is_write: bool,
) -> Answer:
    """The answer about an image. Before a write to one that seems to be absent the locations are
    asked again: clients create an image and write to it at once, and what is remembered from
    before does not count."""
    services, token = request.app[SERVICES], client_token(request.headers)
    image = path.image_id, path.letter_case
    charge = RequestCharge.for_request(request.app[LIMITS], request)
    _, answer = await answer_image(
        services, image, preferences, token, charge, needs_bytes=needs_bytes
    )
    if not is_write or answer.outcome is not Outcome.ABSENT or preferences.fresh:
        return answer
    fresh = replace(preferences, fresh=True)
    return (await answer_image(services, image, fresh, token, charge))[1]


async def _other_target(
    request: web.Request, method: str, target: str, query: str
) -> tuple[LocationView, str]:
    """The same for a request that is about no image: a location that can answer a read, or the best
    one for a write.

    Raises:
        ResolverError: it goes nowhere.
    """
    check_target(target, query)
    _, path = split_region(target)
    match = _GLANCE_PATH.fullmatch(path)
    if match is None:
        raise NoRoute("the path is the gateway's own.")
    api, name = match.groups()
    if method in READ_METHODS and (api == "v1" or name not in ANY_LOCATION_NAMES):
        raise NoRoute("the path is the gateway's own.")
    services = request.app[SERVICES]
    preferences = client_preferences(request, region_of(target))
    caller = None if is_schema_path(path) else await admit(request, preferences.region)
    table = await services.resolver.reader.usable_table()
    domain = domain_of(services, caller)
    best = best_location(table, preferences, services.settings.region, api, domain)
    if best is None:
        raise ImageUnknown("No location that serves it is registered and in service.")
    return best, f"{best.base}{path}{query}"
