"""``GET /v2/images``: the images of all locations, as one Glance listing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from aiohttp import web

from resolver.errors import NotFound
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.image_path import region_of
from resolver.gateway.limits import LIMITS, RequestCharge
from resolver.gateway.negotiation import (
    AUTH_TOKEN,
    REGION,
    VARY_PREFERENCES,
    preferences_from_headers,
)
from resolver.gateway.read_auth import admit
from resolver.gateway.reply import NO_STORE, Reply, to_response
from resolver.listing import Advice, ListedPage, ListingQuery
from resolver.resolution import Preferences
from resolver.turns import in_turns

PARTIAL = "X-Resolver-Partial"
MISSING = "X-Resolver-Missing"

MAX_NAMES = 30
"""Locations that `MISSING` names. Each takes at most 65 bytes, and nginx accepts 4 KiB of header
fields."""

MAX_WHOLE_CHARACTERS = 512 * 1024
"""Of a page that is sent at once: copying a larger one holds up other requests."""

LISTING_PATH = "/v2/images"

PARTIAL_ADVICE = f"`{PARTIAL}: allow`"
ADVICE = Advice(f"{REGION} or the URL /region/NAME{LISTING_PATH}", PARTIAL_ADVICE)


async def list_images(request: web.Request) -> web.StreamResponse:
    """GET /v2/images."""
    query = ListingQuery.parse(request.rel_url.raw_query_string)
    region = region_of(request.rel_url.raw_path)
    preferences = preferences_from_headers(request.headers, region)
    page = await list_page(request, query, preferences, ADVICE)
    return await _respond(request, query, page)


async def list_page(
    request: web.Request,
    query: ListingQuery,
    preferences: Preferences,
    advice: Advice,
    *,
    allow_partial: bool = False,
) -> ListedPage:
    """A page of the merged listing for the client of a request, as its token sees it.

    ``allow_partial``: the images of the locations that answer will do, whatever the request says.

    Raises:
        ResolverError: what the client is answered instead.
    """
    services = request.app[SERVICES]
    if not services.settings.listing:
        raise _listing_off_error()
    limits = request.app[LIMITS]
    charge = RequestCharge.for_request(limits, request)
    caller = await admit(request, preferences.region, charge)
    charge(1)
    return await services.lister.page(
        query,
        request.headers.get(AUTH_TOKEN, ""),
        limits.clients.preferences_for(request, preferences),
        advice,
        allow_partial=allow_partial or allows_partial(request),
        domain=caller.domain if caller else None,
    )


def allows_partial(request: web.Request) -> bool:
    """Whether the client, or every client here, is content with the images of some locations."""
    allowed = request.headers.get(PARTIAL, "").strip().lower() == "allow"
    return allowed or request.app[SERVICES].settings.listing_partial


def missing_header(names: Sequence[str]) -> dict[str, str]:
    """The header field that names the locations whose images are left out, or perhaps not all
    listed, if there are some."""
    return {MISSING: ", ".join(names[:MAX_NAMES])} if names else {}


async def _respond(
    request: web.Request, query: ListingQuery, page: ListedPage
) -> web.StreamResponse:
    """Sends a page as Glance writes it, a large one in parts. Links are relative and without a
    prefix, as Glance's are: clients put them behind the URL of their endpoint."""
    tail = {"first": _link(query.params), "schema": "/v2/schemas/images"}
    if page.next_marker:
        tail["next"] = _link((*query.params, ("marker", page.next_marker)))
    headers = {
        **NO_STORE,
        "Content-Type": "application/json",
        "Vary": f"{AUTH_TOKEN}, {PARTIAL}, {VARY_PREFERENCES}",
        **missing_header(page.missing),
    }
    end = f"], {json.dumps(tail)[1:]}"
    parts = _parts(page)
    if sum(len(row.text) for row, _ in page.rows) <= MAX_WHOLE_CHARACTERS:
        body = f"{''.join(parts)}{end}".encode()
        return to_response(Reply(200, headers, body))
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    async for part in in_turns(parts):
        for start in range(0, len(part), MAX_WHOLE_CHARACTERS):
            await response.write(part[start : start + MAX_WHOLE_CHARACTERS].encode())
    await response.write(end.encode())
    await response.write_eof()
    return response


def _parts(page: ListedPage) -> Iterator[str]:
    """The text of a page up to the end of its rows, row by row."""
    before = '{"images": ['
    for row, names in page.rows:
        yield f"{before}{row.with_locations(names)}"
        before = ", "
    if not page.rows:
        yield before


def _link(params: tuple[tuple[str, str], ...]) -> str:
    return LISTING_PATH + (f"?{urlencode(params)}" if params else "")


def _listing_off_error() -> NotFound:
    return NotFound(
        "images are not listed here (RESOLVER_LISTING is off): ask one location "
        "(`glance-resolver locations list` names them)",
        code="no-listing",
    )


async def no_listing(request: web.Request) -> web.StreamResponse:
    """The listings of v1."""
    if not request.app[SERVICES].settings.listing:
        raise _listing_off_error()
    raise NotFound(
        "v1 has no merged listing: GET /v2/images has the images of all locations",
        code="no-listing",
    )
