"""``/v1/images/…`` and ``/v2/images/…``: redirects to the best owner."""

from __future__ import annotations

import re

from aiohttp import web

from resolver.callers import Caller
from resolver.errors import IndexUnavailable, TokenUnchecked
from resolver.gateway.api.any_location import client_preferences, write_refused_error
from resolver.gateway.api.image_reads import (
    METALINK,
    ImageRead,
    ReadRequest,
    parse_image_read,
    redirect,
    redirect_targets,
    render_image_read,
)
from resolver.gateway.api.metalink import metalink_reply
from resolver.gateway.app_keys import OUTCOME, SERVICES, SOURCE
from resolver.gateway.image_path import parse_image_path
from resolver.gateway.limits import LIMITS, RequestCharge
from resolver.gateway.methods import READ_METHODS, WRITE_METHODS, check_method
from resolver.gateway.negotiation import VARY_PREFERENCES, client_token
from resolver.gateway.problem import raise_unless_found
from resolver.gateway.read_auth import identify
from resolver.gateway.reply import Reply, to_response
from resolver.models import Outcome, format_id
from resolver.resolution import Answer, LookupResult, Preferences
from resolver.resolution.negative_cache import ProbedImage
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
    image = read.image_id, read.letter_case
    caller, answer = await answer_image(
        services,
        image,
        read.preferences,
        read.token,
        charge,
        needs_bytes=read.needs_bytes,
        prefetched=prefetched,
    )
    if read.media_type == METALINK:
        table = services.tables.table
        domain = caller.domain if caller else table.domain_of_token(read.preferences.region)
        records = services.image_records if services.settings.probe else None
        return await metalink_reply(read, answer, records, charge, domain)
    return render_image_read(read, answer)


async def answer_image(
    services: Services,
    image: ProbedImage,
    preferences: Preferences,
    token: str,
    charge: ChargeCallback,
    *,
    needs_bytes: bool = False,
    prefetched: LookupResult | BaseException | None = None,
) -> tuple[Caller | None, Answer]:
    """The client, where it is asked who it is, and the answer about one image for it.

    Raises:
        TokenRequired, TokenUnchecked: the client may not ask, or that cannot be found out.
        IndexUnavailable: nothing is known of the image.
        TooManyRequests: from ``charge``.
    """
    image_id, letter_case = image
    try:
        caller = await identify(services, token, preferences.region, charge)
        if caller is not None and services.caller_images is not None:
            resolution = await services.caller_images.resolve(
                caller,
                token,
                image,
                preferences,
                needs_bytes=needs_bytes,
                prefetched=prefetched,
                charge=charge,
            )
            return caller, resolution.answer
        return caller, await services.resolver.resolve(
            image_id,
            preferences,
            letter_case,
            needs_bytes=needs_bytes,
            prefetched=prefetched,
            charge=charge,
        )
    except IndexUnavailable as error:
        raise image_index_error(image_id, error) from error
    except TokenUnchecked as error:
        extra = Answer(image_id, Outcome.UNKNOWN).as_json()
        raise TokenUnchecked(error.detail, headers=error.headers, extra=extra) from error


def image_index_error(image_id: bytes, error: IndexUnavailable) -> IndexUnavailable:
    """The same error about one image: other requests may share the error itself."""
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
    charge = RequestCharge.for_request(limits, request)
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
    charge = RequestCharge.for_request(request.app[LIMITS], request)
    preferences = client_preferences(request, path.region)
    image = path.image_id, path.letter_case
    token = client_token(request.headers)
    _, answer = await answer_image(services, image, preferences, token, charge)
    raise_unless_found(answer, VARY_PREFERENCES)
    is_record = (path.api, path.rest) == ("v2", "")
    check_method(request.method, ("PATCH", "DELETE") if is_record else WRITE_METHODS, allowed)
    text = format_id(path.image_id)
    if request.method in allowed:
        reply = redirect(answer, path, text, is_write=True, https=preferences.https)
        request[OUTCOME], request[SOURCE] = reply.outcome, reply.source
        return to_response(reply)
    best, url = redirect_targets(answer, path, text, is_write=True, https=preferences.https)[0]
    raise write_refused_error(
        request.method,
        url,
        best.view.location.region,
        allowed,
        passes_on="reads and small writes" if services.settings.redirect_writes else "reads",
        outcome=str(answer.outcome),
    )
