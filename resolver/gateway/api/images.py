"""``/v1/images/…`` and ``/v2/images/…``: redirects to the best owner."""

from __future__ import annotations

import re

from aiohttp import web

from resolver.errors import IndexUnavailable
from resolver.gateway.api.any_location import refused_write
from resolver.gateway.api.image_reads import (
    METALINK,
    ImageRead,
    ReadRequest,
    parse_image_read,
    redirect,
    render_image_read,
    target,
)
from resolver.gateway.api.metalink import metalink_reply
from resolver.gateway.app_keys import OUTCOME, SERVICES, SOURCE
from resolver.gateway.image_path import parse_image_path
from resolver.gateway.limits import LIMITS, ChargeOnce
from resolver.gateway.methods import READ_METHODS
from resolver.gateway.negotiation import VARY_PREFERENCES, preferences_from_headers
from resolver.gateway.problem import raise_unless_found
from resolver.gateway.reply import Reply, to_response
from resolver.models import Outcome, format_id
from resolver.resolution import Answer, LookupResult
from resolver.resolution.prober import ChargeCallback
from resolver.services import Services

_SMALL_WRITES = {
    "v1": (
        ("DELETE", re.compile(r"")),
        ("PUT", re.compile(r"/members(/[^/]+)?")),
        ("DELETE", re.compile(r"/members/[^/]+")),
    ),
    "v2": (
        ("PATCH", re.compile(r"")),
        ("DELETE", re.compile(r"")),
        ("PUT", re.compile(r"/tags/[^/]+")),
        ("DELETE", re.compile(r"/tags/[^/]+")),
        ("POST", re.compile(r"/members")),
        ("PUT", re.compile(r"/members/[^/]+")),
        ("DELETE", re.compile(r"/members/[^/]+")),
        ("POST", re.compile(r"/actions/[^/]+")),
    ),
}
"""Writes whose body is small, so that clients send it again to the target. Uploads are not among
them: through any redirect they arrive empty, and old Glance then keeps an image of 0 bytes."""


def read_request(request: web.Request) -> ReadRequest:
    """A request of aiohttp as the read functions take it."""
    url = request.rel_url
    return ReadRequest(request.method, url.raw_path, url.raw_query_string, request.headers)


async def answer_image_read(
    services: Services,
    read: ImageRead,
    charge: ChargeCallback,
    prefetched: LookupResult | BaseException | None = None,
) -> Reply:
    """The reply to a read about one image.

    Raises:
        ResolverError: what the reply is, when it is an error.
    """
    try:
        answer = await services.resolver.resolve(
            read.image_id,
            read.preferences,
            read.letter_case,
            needs_bytes=read.needs_bytes,
            prefetched=prefetched,
            charge=charge,
        )
    except IndexUnavailable as error:
        raise without_index(read.image_id, error) from error
    if read.media_type == METALINK:
        records = services.image_records if services.settings.probe else None
        return await metalink_reply(read, answer, records, charge, services.tables.table)
    return render_image_read(read, answer)


def without_index(image_id: bytes, error: IndexUnavailable) -> IndexUnavailable:
    """The error for one image: a failure of Redis may be that of other requests too."""
    return IndexUnavailable(
        error.detail,
        headers=error.headers,
        extra=Answer(image_id, Outcome.UNKNOWN).as_json(),
        log_detail=error.log_detail,
    )


async def read_image(request: web.Request) -> web.StreamResponse:
    """GET and HEAD: a redirect, or an answer as data."""
    read = parse_image_read(read_request(request))
    limits = request.app[LIMITS]
    read = read._replace(preferences=limits.clients.preferences_for(request, read.preferences))
    charge = ChargeOnce.for_request(limits, request)
    reply = await answer_image_read(request.app[SERVICES], read, charge)
    request[OUTCOME], request[SOURCE] = reply.outcome, reply.source
    return to_response(reply)


async def write_image(request: web.Request) -> web.StreamResponse:
    """Other methods: 405 with the direct URL, or 307 for small writes where those are allowed. To
    write to an image that is absent or unknown fails as to read it does."""
    services = request.app[SERVICES]
    sent = read_request(request)
    path = parse_image_path(sent.path, f"?{sent.query}" if sent.query else "")
    allowed = list(READ_METHODS)
    if services.settings.redirect_writes:
        allowed += sorted({m for m, rest in _SMALL_WRITES[path.api] if rest.fullmatch(path.rest)})
    limits = request.app[LIMITS]
    charge = ChargeOnce.for_request(limits, request)
    preferences = preferences_from_headers(request.headers, path.region)
    preferences = limits.clients.preferences_for(request, preferences)
    try:
        answer = await services.resolver.resolve(
            path.image_id, preferences, path.letter_case, charge=charge
        )
    except IndexUnavailable as error:
        raise without_index(path.image_id, error) from error
    raise_unless_found(answer, VARY_PREFERENCES)
    text = format_id(path.image_id)
    if request.method in allowed:
        reply = redirect(answer, path, text, write=True, https=preferences.https)
        request[OUTCOME], request[SOURCE] = reply.outcome, reply.source
        return to_response(reply)
    best = answer.owners[0]
    spelled = best.spell(answer.image_id, text)
    url = target(best, path, spelled, write=True) or best.view.images_url + spelled
    raise refused_write(
        request.method,
        url,
        best.view.location.region,
        allowed,
        passes_on="reads and small writes" if services.settings.redirect_writes else "reads",
        outcome=str(answer.outcome),
    )
