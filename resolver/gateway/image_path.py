"""The one grammar of public paths that name an image or a preferred region."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from resolver.errors import InvalidImageId, InvalidRequest, NotFound
from resolver.models import letter_case_of, parse_id

ROUTE = "/{api:v[12]}/images/{id:[^/]+}{rest:(?:/[\\s\\S]*)?}"
"""The route of image paths, as aiohttp takes it."""

ROUTE_LABEL = "/{api}/images/{id}{rest}"
"""What metrics call that route; equal to the canonical form that aiohttp gives it."""

V1_LISTING = "/v1/images/detail"
"""The one path below ``/v1/images/`` that is about no single image."""

REGION_ROUTE = "/region/{region:[^/]+}"
"""What the routes of Glance's paths may be preceded by, as aiohttp takes it."""

REGION_LABEL = "/region/{region}"

_REGION = re.compile(r"/region/([^/]+)(/.*)?", re.ASCII | re.DOTALL)
_IMAGE_PATH = re.compile(
    r"(?:/region/([^/]+))?/(?!v1/images/detail\Z)(v[12])/images/([^/]+)((?:/.*)?)", re.ASCII
)
_URL_TEXT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*", re.ASCII)
"""What a path and a query may consist of (RFC 3986, 3.3 and 3.4). Others have a meaning where a URL
stands: angle brackets and quotes in a ``Link``, backslashes in some clients."""


class ImagePath(NamedTuple):
    """A request's path below ``/v1/images/`` or ``/v2/images/``."""

    api: str
    """``v1`` or ``v2``."""
    image_id: bytes
    letter_case: int
    """How the client spelled the id."""
    rest: str
    """The path behind the id, as sent."""
    query: str
    """With its ``?``, as sent; empty for none."""
    region: str = ""
    """The region that is preferred by the path; empty for none."""


def split_region(path: str) -> tuple[str, str]:
    """What is before a path of Glance, as sent, and the path itself.

    ``/region/NAME`` before it means that this region is preferred, so that a client is pinned to a
    region by the URL of its endpoint.
    """
    match = _REGION.fullmatch(path)
    if match is None:
        return "", path
    return path[: match.end(1)], match[2] or ""


def region_of(path: str) -> str:
    """The region that a path prefers; empty for none."""
    match = _REGION.fullmatch(path)
    return unquote(match[1]) if match else ""


def check_target(path: str, query: str) -> None:
    """Checks that a path and query have one meaning only.

    Raises:
        InvalidRequest: they have characters that a URL cannot have, or dot segments.
    """
    decoded = unquote(path)
    if not (_URL_TEXT.fullmatch(path) and _URL_TEXT.fullmatch(query) and decoded.isprintable()):
        raise InvalidRequest(
            "the path or query has characters that a URL cannot have (RFC 3986): encode them"
        )
    if "." in decoded and any(part in (".", "..") for part in re.split(r"[/\\]", decoded)):
        raise InvalidRequest("the path has '.' or '..' in it")


def parse_image_path(path: str, query: str) -> ImagePath:
    """The image that a path is about, and what of it. ``query`` comes with its ``?``.

    Raises:
        NotFound: what stands in place of the id is not a UUID. Glance answers so, and clients then
            look for an image of that name.
        InvalidRequest: the path could be read in two ways.
    """
    check_target(path, query)
    match = _IMAGE_PATH.fullmatch(path)
    if match is None:
        raise InvalidRequest("the path could be read in two ways")
    region, api, text, rest = match.groups()
    text = unquote(text)
    try:
        image_id = parse_id(text)
    except InvalidImageId as error:
        raise NotFound(
            error.detail, code=error.problem_code, glance_text=f"No image found with ID {text}"
        ) from None
    return ImagePath(
        api, image_id, letter_case_of(text), rest, query, unquote(region) if region else ""
    )


def is_image_path(path: str) -> bool:
    """Whether a path is routed to the image handlers."""
    return _IMAGE_PATH.fullmatch(path) is not None
