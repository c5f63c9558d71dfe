"""``GET /v2/images``: the images of all locations, as one Glance listing."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from aiohttp import web

from resolver.errors import NotFound
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.limits import LIMITS, ChargeOnce
from resolver.gateway.negotiation import (
    VARY_PREFERENCES,
    HeaderFields,
    preferences_from_headers,
)
from resolver.gateway.reply import NO_STORE, Reply, to_response
from resolver.listing import ListedPage, ListingQuery

AUTH_TOKEN = "X-Auth-Token"
PARTIAL = "X-Resolver-Partial"
MISSING = "X-Resolver-Missing"

LISTING_PATH = "/v2/images"


async def list_images(request: web.Request) -> web.StreamResponse:
    """GET /v2/images."""
    services = request.app[SERVICES]
    if not services.settings.listing:
        return await no_listing(request)
    query = ListingQuery.parse(request.rel_url.raw_query_string)
    preferences = preferences_from_headers(request.headers)
    ChargeOnce.for_request(request.app[LIMITS], request)()
    page = await services.lister.page(
        query,
        request.headers.get(AUTH_TOKEN, ""),
        preferences,
        allow_partial=services.settings.listing_partial or allows_partial(request.headers),
    )
    return to_response(listing_reply(query, page))


def allows_partial(headers: HeaderFields) -> bool:
    """Whether the client is content without the locations that do not answer."""
    return headers.get(PARTIAL, "").strip().lower() == "allow"


def listing_reply(query: ListingQuery, page: ListedPage) -> Reply:
    """A page as Glance writes it. Links are relative, as Glance's are."""
    tail = {"first": _link(query.params), "schema": "/v2/schemas/images"}
    if page.next_marker:
        tail["next"] = _link((*query.params, ("marker", page.next_marker)))
    rows = ", ".join([row.with_locations(names) for row, names in page.rows])
    headers = {
        **NO_STORE,
        "Content-Type": "application/json",
        "Vary": f"{AUTH_TOKEN}, {PARTIAL}, {VARY_PREFERENCES}",
    }
    if page.missing:
        headers[MISSING] = ", ".join(page.missing)
    return Reply(200, headers, f'{{"images": [{rows}], {json.dumps(tail)[1:]}'.encode())


def _link(params: tuple[tuple[str, str], ...]) -> str:
    return LISTING_PATH + (f"?{urlencode(params)}" if params else "")


async def no_listing(request: web.Request) -> web.StreamResponse:
    """The listings of v1, and that of v2 where it is turned off."""
    raise NotFound(
        "this gateway lists no images here"
        + (
            ": v1 has no merged listing, GET /v2/images has one"
            if request.path != LISTING_PATH
            else " (RESOLVER_LISTING is off): ask one location "
            "(`glance-resolver locations list` names them)"
        ),
        code="no-listing",
    )
