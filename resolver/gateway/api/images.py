"""``/v1/images/…`` and ``/v2/images/…``: the redirect to the best owner."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from resolver.errors import (
    IndexUnavailable,
    InvalidRequest,
    MethodNotAllowed,
    NoCounterpart,
    NotFound,
)
from resolver.gateway.app_keys import METRICS, OUTCOME, SERVICES
from resolver.gateway.limits import LIMITS, ChargeOnce
from resolver.gateway.methods import READ_METHODS
from resolver.gateway.problem import NO_STORE, require_found
from resolver.models import Outcome, format_id, letter_case_of, parse_id
from resolver.resolution import Answer, Offer, Preferences

VARY = "X-Resolver-Region, X-Resolver-Exclude, X-Resolver-Fresh"

_PRINTABLE = re.compile(r"[!-~]*", re.ASCII)
_HEAD = re.compile(r"/(v[12])/images/([^/]*)(.*)", re.ASCII)
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


class Asked(NamedTuple):
    """The image a request is about, and what of it."""

    api: str
    """``v1`` or ``v2``."""
    image_id: bytes
    letter_case: int
    """How the id was spelt."""
    rest: str
    """The path behind the id, as sent."""
    query: str
    """With its ``?``, as sent; empty for none."""


def clean_target(request: web.Request) -> tuple[str, str]:
    """The request's path, and its query with the ``?``, byte for byte as they were sent.

    Raises:
        InvalidRequest: the path could be read in two ways, and so lead out of where it points.
    """
    path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
    decoded = unquote(path)
    if not (_PRINTABLE.fullmatch(path) and _PRINTABLE.fullmatch(query) and decoded.isprintable()):
        raise InvalidRequest("the path or query has characters that a URL cannot have")
    if any(part in (".", "..") for part in re.split(r"[/\\]", decoded)):
        raise InvalidRequest("the path has '.' or '..' in it")
    return path, f"?{query}" if query else ""


def asked(request: web.Request) -> Asked:
    """What image a request is about.

    Raises:
        InvalidImageId: no UUID stands where one must.
        InvalidRequest: the rest could be read in two ways.
    """
    path, query = clean_target(request)
    match = _HEAD.fullmatch(path)
    if match is None:
        raise InvalidRequest("the path could be read in two ways")
    api, text, rest = match.groups()
    text = unquote(text)
    return Asked(api, parse_id(text), letter_case_of(text), rest, query)


def target(offer: Offer, asked: Asked, *, write: bool = False, head: bool = False) -> str | None:
    """Where the owner has what was asked for; None where its API has no counterpart."""
    view = offer.view
    text = format_id(asked.image_id, offer.letter_case)  # the spelling that this owner finds it by
    serves = view.serves
    same = f"{view.location.url}/{asked.api}/images/{text}{asked.rest}{asked.query}"
    if serves is None or serves[0 if asked.api == "v1" else 1]:
        return same
    if write or head:
        return None
    if asked.api == "v1" and serves[1] and asked.rest == "":
        return f"{view.images_v2}{text}/file{asked.query}"
    if asked.api == "v2" and serves[0] and asked.rest == "/file":
        return f"{view.images_v1}{text}{asked.query}"
    return None


def preferences_of(request: web.Request) -> Preferences:
    """Region, exclusions and freshness, from headers."""
    headers = request.headers
    return make_preferences(
        headers.get("X-Resolver-Region", ""),
        headers.getall("X-Resolver-Exclude", ()),
        headers.get("X-Resolver-Fresh", ""),
    )


def make_preferences(region: str, exclude: Iterable[str], fresh: str) -> Preferences:
    names = (name.strip() for item in exclude for name in item.split(","))
    if fresh.lower() not in ("", "0", "1", "true", "false"):
        raise InvalidRequest("fresh is 1 or 0")
    return Preferences(region, frozenset(n for n in names if n), fresh.lower() in ("1", "true"))


async def answer_one(
    request: web.Request, image_id: bytes, letter_case: int, preferences: Preferences
) -> Answer:
    """Resolves one id and notes the outcome for the log and the figures."""
    protocol: Any = request.protocol
    told, protocol.told = protocol.told, None
    try:
        answer = await request.app[SERVICES].resolver.resolve(
            image_id,
            preferences,
            letter_case,
            told=told[1] if told is not None and told[0] == image_id else None,
            pay=ChargeOnce(request.app[LIMITS], request),
        )
    except IndexUnavailable as error:  # which may be that of other requests too
        raise IndexUnavailable(
            error.detail,
            headers=error.headers,
            extra=Answer(image_id, Outcome.UNKNOWN).as_json(),
            log_detail=error.log_detail,
        ) from error
    request[OUTCOME] = str(answer.outcome)
    request.app[METRICS].answers.counts[str(answer.outcome),] += 1
    return answer


async def read_image(request: web.Request) -> web.StreamResponse:
    """GET and HEAD: 307 to the best owner that can serve the path."""
    what = asked(request)
    answer = await answer_one(request, what.image_id, what.letter_case, preferences_of(request))
    require_found(answer, VARY)
    return redirect(answer, what, head=request.method == "HEAD")


async def write_image(request: web.Request) -> web.StreamResponse:
    """Other methods: 405 with the direct URL, or 307 for small writes where those are allowed."""
    what = asked(request)
    allowed = list(READ_METHODS)
    if request.app[SERVICES].settings.redirect_writes:
        allowed += sorted({m for m, rest in _SMALL_WRITES[what.api] if rest.fullmatch(what.rest)})
    answer = await answer_one(request, what.image_id, what.letter_case, preferences_of(request))
    if request.method in allowed:
        require_found(answer, VARY)
        return redirect(answer, what, write=True)
    offers = answer.offers
    url = (target(offers[0], what, write=True) or offers[0].url) if offers else None
    extra = {"outcome": str(answer.outcome), "url": url}
    raise MethodNotAllowed(
        "this gateway redirects reads: send "
        f"{request.method} to {url or 'the server that has the image'} itself",
        headers={
            "Allow": ", ".join(allowed),
            **({"Link": f'<{url}>; rel="alternate"'} if url else {}),
        },
        extra=extra,
    )


def redirect(
    answer: Answer, what: Asked, *, write: bool = False, head: bool = False
) -> web.Response:
    """307 to the first owner that has a counterpart, the others as duplicates (RFC 6249).

    307 and nothing else: 301, 302 and 303 make clients lose the method. ``Location`` is absolute
    and holds the query, since keystoneauth resends neither host nor parameters by itself.

    Raises:
        NoCounterpart: no owner has one.
    """
    # A HEAD of a path that v1 has and v2 has not differs from its GET: metadata, not data.
    head_v1 = head and what.api == "v1"
    targets = [target(offer, what, write=write, head=head_v1) for offer in answer.offers]
    urls = [url for url in targets if url is not None]
    if not urls:
        best = answer.offers[0]
        raise NoCounterpart(
            f"{best.view.name} does not serve {what.api} and the request has no counterpart "
            f"there: use {best.url}",
            extra=answer.as_json(),
            headers={"Link": f'<{best.url}>; rel="alternate"'},
        )
    headers = {**NO_STORE, "Location": urls[0], "Vary": VARY}
    if len(urls) > 1:
        headers["Link"] = ", ".join(
            f"<{url}>; rel=duplicate; pri={n}" for n, url in enumerate(urls[1:], 2)
        )
    return web.Response(status=307, headers=headers)


async def no_listing(request: web.Request) -> web.StreamResponse:
    """``/v2/images`` and its like, which clients ask for a name when an id is absent: after a 404
    they say that there is no such image."""
    raise NotFound(
        "this gateway resolves single images by id and does not list them: ask one location "
        "(`glance-resolver locations list` names them)",
        code="no-listing",
    )
