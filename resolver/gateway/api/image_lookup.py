"""``GET /resolve?name=…``: the images that match, each with its answer."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from resolver.errors import InvalidRequest, ListingIncomplete
from resolver.gateway.api.image_listing import (
    PARTIAL,
    PARTIAL_ADVICE,
    allows_partial,
    list_page,
    missing_header,
)
from resolver.gateway.api.resolve import respond_to_many
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.negotiation import (
    AUTH_TOKEN,
    JSON,
    NDJSON,
    QUERY_PARAMETERS,
    accepted_type,
    preferences_from_pairs,
)
from resolver.listing import Advice, ListedPage, ListingQuery
from resolver.listing.query import MAX_PARAMETERS
from resolver.resolution import RETRY_AFTER_SECONDS
from resolver.resolution.answer import join_briefly
from resolver.resolution.ranking import DEFAULT_PREFERENCES, exclusion_reason

WANTED = ("name", "os_hash_value", "checksum", "tag")
"""What images can be looked up by. At least one is needed."""

NARROWED_BY = ("visibility", "os_hidden", "limit", "marker")
"""What else of a listing may be given."""

ADVICE = Advice("`region`", PARTIAL_ADVICE)


async def look_up_images(request: web.Request) -> web.StreamResponse:
    """GET /resolve."""
    media_type = accepted_type(request.headers, JSON, NDJSON)
    try:
        pairs = parse_qsl(
            request.rel_url.raw_query_string,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise InvalidRequest("the query cannot be read") from error
    names = {name for name, _ in pairs}
    unknown = sorted(names - {*WANTED, *NARROWED_BY, *QUERY_PARAMETERS})
    if unknown:
        raise InvalidRequest(f"unknown parameter {unknown[0][:40]!r}")
    if not names & set(WANTED):
        raise InvalidRequest(f"say which images: give one or more of {', '.join(WANTED)}")
    preferences = preferences_from_pairs(pairs)
    query = ListingQuery.of([pair for pair in pairs if pair[0] not in QUERY_PARAMETERS])
    page = await list_page(request, query, preferences, ADVICE)
    if not page.rows and query.marker is None and not allows_partial(request):
        await _require_all(request, page)
    headers = {"Vary": f"Accept, {AUTH_TOKEN}, {PARTIAL}", **missing_header(page.missing)}
    if page.next_marker:
        kept = [pair for pair in pairs if pair[0] != "marker"]
        target = urlencode([*kept, ("marker", page.next_marker)])
        headers["Link"] = f'</resolve?{target}>; rel="next"'
    ids = [row.id for row, _ in page.rows]
    return await respond_to_many(request, ids, preferences, media_type, headers)


async def _require_all(request: web.Request, page: ListedPage) -> None:
    """Nothing matches. That proves nothing while a location that must vouch is left out, of which
    only the listing itself knows the names of images.

    Raises:
        ListingIncomplete: one is.
        IndexUnavailable: one may have been registered since the locations were read.
    """
    reader = request.app[SERVICES].resolver.reader
    by_name = (await reader.current_table(reader.deadline)).by_name
    views = [by_name[name] for name in page.missing if name in by_name]
    doubts = {
        view.name: view.guard_problem or exclusion_reason(view, DEFAULT_PREFERENCES) or "not asked"
        for view in views
        if view.location.vouches
    }
    if doubts:
        reasons = join_briefly(f"{name}: {doubt}" for name, doubt in doubts.items())
        raise ListingIncomplete(
            f"no image matches, and others may have some that do. {reasons}. With "
            f"{PARTIAL_ADVICE} that is accepted",
            extra={"missing": list(doubts)},
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
