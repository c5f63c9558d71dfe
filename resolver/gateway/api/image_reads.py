"""Reads about one image: parse the request, render the answer.

``GET`` and ``HEAD`` of ``/v1/images/…`` and ``/v2/images/…`` are redirects, those of
``/resolve/{id}`` are data. Both the front and the aiohttp application use these functions, so that
there is one definition of each redirect, document and error.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import unquote

from resolver.errors import ImageDead, ImagePending, ImageUnknown, NoCounterpart
from resolver.gateway.image_path import (
    REGION_LABEL,
    ROUTE_LABEL,
    ImagePath,
    is_image_path,
    parse_image_path,
)
from resolver.gateway.negotiation import (
    JSON,
    VARY_PREFERENCES,
    HeaderFields,
    accepted_type,
    client_token,
    preferences_from_headers,
    preferences_from_query,
)
from resolver.gateway.problem import json_reply, raise_unless_found
from resolver.gateway.reply import NO_STORE, Reply
from resolver.image_facts import STATUS_ORDER, ImageStatus
from resolver.models import format_id, letter_case_of, parse_id
from resolver.registry import LocationView
from resolver.resolution import RETRY_AFTER_SECONDS, Answer, ImageOwner, Preferences
from resolver.resolution.answer import join_briefly

URI_LIST = "text/uri-list"
METALINK = "application/metalink4+xml"

RESOLVE_LABEL = "/resolve/{id}"
"""What metrics call the route of ``/resolve/{id}``."""

_RESOLVE_PATH = re.compile(r"/resolve/([^/]+)", re.ASCII)

MAX_DUPLICATES = 8
"""Owners that a ``Link`` names. nginx answers 502 where an upstream's header exceeds 4 KiB
(``proxy_buffer_size``), which some 35 owners do."""

TEMPLATE_RESTS = ("", "/file")
"""Paths behind an image id whose redirects are worth a template."""


class ReadRequest(NamedTuple):
    """A ``GET`` or ``HEAD`` without a body, as it was sent."""

    method: str
    path: str
    query: str
    """Without its ``?``."""
    headers: HeaderFields


class ImageRead(NamedTuple):
    """What such a request asks."""

    image_id: bytes
    letter_case: int
    preferences: Preferences
    is_head: bool
    """Whether it is a HEAD."""
    path: ImagePath | None
    """For a redirect; None for data."""
    media_type: str = JSON
    """Of data."""
    token: str = ""
    """The client's own."""

    @property
    def needs_bytes(self) -> bool:
        """Whether it asks for the image's bytes, or where they are."""
        if self.path is None:
            return self.media_type == METALINK
        return asks_for_bytes(self.path, is_head=self.is_head)

    @property
    def route(self) -> str:
        if self.path is None:
            return RESOLVE_LABEL
        return REGION_LABEL + ROUTE_LABEL if self.path.region else ROUTE_LABEL

    @property
    def vary(self) -> str:
        return "Accept" if self.path is None else VARY_PREFERENCES

    @property
    def template_variant(self) -> Hashable:
        """What its rendered answer depends on but for the answer; None where templates do not
        pay, because few requests would share one."""
        if self.path is None:
            return None if self.media_type == METALINK else self.media_type
        if self.path.rest in TEMPLATE_RESTS and not self.path.query:
            return self.path.api, self.path.rest, self.is_head
        return None


def asks_for_bytes(path: ImagePath, *, is_head: bool) -> bool:
    """Whether a read of this path asks for the image's bytes. In v1 its ``HEAD`` does not."""
    return path.rest == "/file" if path.api == "v2" else path.rest == "" and not is_head


def is_image_read(path: str) -> bool:
    """Whether `parse_image_read` takes this path."""
    return path.startswith(("/v", "/re")) and (
        is_image_path(path) or _RESOLVE_PATH.fullmatch(path) is not None
    )


def parse_image_read(request: ReadRequest) -> ImageRead:
    """What a request for which `is_image_read` holds asks.

    Raises:
        InvalidImageId, NotFound: what stands in place of the id is not a UUID.
        InvalidRequest: the path could be read in two ways, or a parameter is wrong.
        NotAcceptable: the client accepts none of the forms that data has.
    """
    is_head = request.method == "HEAD"
    match = _RESOLVE_PATH.fullmatch(request.path)
    if match is None:
        query = f"?{request.query}" if request.query else ""
        path = parse_image_path(request.path, query)
        preferences = preferences_from_headers(request.headers, path.region)
        token = client_token(request.headers)
        return ImageRead(path.image_id, path.letter_case, preferences, is_head, path, token=token)
    media_type = accepted_type(request.headers, JSON, URI_LIST, METALINK)
    text = unquote(match[1])
    image_id = parse_id(text)
    preferences = preferences_from_query(request.query)
    token = client_token(request.headers)
    return ImageRead(image_id, letter_case_of(text), preferences, is_head, None, media_type, token)


def render_image_read(read: ImageRead, answer: Answer, text: str = "") -> Reply:
    """The reply to a read. ``text`` stands for the image's id in lower case; empty: the id.

    Raises:
        ImageAbsent, ImageUnknown: there is no owner to name.
        NoCounterpart: no owner serves an API in which the request has a counterpart.
        ImagePending, ImageDead, ImageUnknown: the image's bytes are asked for, and no owner has
            them.
    """
    text = text or format_id(answer.image_id)
    raise_unless_found(answer, read.vary)
    if read.path is not None:
        return redirect(answer, read.path, text, is_head=read.is_head, https=read.preferences.https)
    headers = {"Vary": "Accept", **owner_headers(answer.owners[0].view)}
    outcome = str(answer.outcome)
    if read.media_type == URI_LIST:  # RFC 2483: every line ends in CRLF
        lines = [
            owner.view.images_v1 + owner.spell(answer.image_id, text) for owner in answer.owners
        ]
        body = "".join(f"{line}\r\n" for line in lines).encode()
        headers = {**NO_STORE, **headers, "Content-Type": URI_LIST}
        return Reply(200, headers, body, outcome, answer.source)
    reply = json_reply(answer.as_json(), headers=headers)
    return replace(reply, outcome=outcome, source=answer.source)


def owner_headers(best: LocationView) -> dict[str, str]:
    """The fields by which a proxy that asks before it passes a request on knows where to."""
    return {"X-Resolver-Location": best.name, "X-Resolver-Base": best.base}


def redirect(
    answer: Answer,
    path: ImagePath,
    text: str,
    *,
    is_write: bool = False,
    is_head: bool = False,
    https: bool = False,
) -> Reply:
    """307 to the first owner that has a counterpart; others as duplicates (RFC 6249).

    It is always 307: 301, 302 and 303 make clients change the method. ``Location`` is absolute and
    has the query, because keystoneauth resends neither host nor parameters by itself. ``https``:
    whether the client uses it; see `_without_downgrades`.

    Raises:
        NoCounterpart: no owner has one.
        ImagePending, ImageDead, ImageUnknown: the image's bytes are asked for, and no owner has
            them.
    """
    targets = redirect_targets(answer, path, text, is_write=is_write, is_head=is_head, https=https)
    chosen, url = targets[0]
    headers = {**NO_STORE, "Location": url, "Vary": VARY_PREFERENCES}
    if duplicates := _duplicates(chosen, targets[1:]):
        headers["Link"] = ", ".join(
            f"<{url}>; rel=duplicate; pri={priority}" for priority, url in enumerate(duplicates, 2)
        )
    return Reply(307, headers, outcome=str(answer.outcome), source=answer.source)


def redirect_targets(
    answer: Answer,
    path: ImagePath,
    text: str,
    *,
    is_write: bool = False,
    is_head: bool = False,
    https: bool = False,
) -> list[tuple[ImageOwner, str]]:
    """The owners that have a counterpart, best first, each with its URL; at least one. Arguments
    and errors are those of `redirect`."""
    # A HEAD in v1 has the metadata that its GET does not have, so it has no counterpart in v2.
    same_api = is_write or (is_head and path.api == "v1")
    targets = _targets(answer, path, text, same_api=same_api, https=https)
    if not targets:
        best = answer.owners[0]
        url = best.view.images_url + best.spell(answer.image_id, text)
        raise NoCounterpart(
            f"{best.name} does not serve {path.api}, and the request has no counterpart "
            f"there: use {url}",
            extra=answer.as_json(),
            headers={"Link": f'<{url}>; rel="alternate"'},
        )
    if not is_write and asks_for_bytes(path, is_head=is_head):
        _raise_if_without_bytes(answer)
        # The client reads the checksum at an owner that serves this API itself.
        shown = next((owner for owner, _ in targets if _serves(owner, path.api)), None)
        if shown and not targets[0][0].has_bytes_of(shown):
            targets.sort(key=lambda t: (STATUS_ORDER[t[0].status], not _serves(t[0], path.api)))
    return targets


def _duplicates(chosen: ImageOwner, others: list[tuple[ImageOwner, str]]) -> list[str]:
    """The URLs of at most `MAX_DUPLICATES` owners that serve as well as the chosen one."""
    offered = [url for owner, url in others if owner.is_duplicate_of(chosen)]
    return offered[:MAX_DUPLICATES]


def byte_targets(answer: Answer, text: str, *, https: bool = False) -> list[tuple[ImageOwner, str]]:
    """The owners that have the image's bytes, best first, each with the URL of the bytes there.
    ``https``: whether the client uses it.

    Raises:
        ImagePending, ImageDead, ImageUnknown: no owner has them.
    """
    _raise_if_without_bytes(answer)
    path = ImagePath("v2", answer.image_id, 0, "/file", "")
    targets = _targets(answer, path, text, https=https)
    best = STATUS_ORDER[answer.best_status]
    return [target for target in targets if STATUS_ORDER[target[0].status] == best]


def _targets(
    answer: Answer, path: ImagePath, text: str, *, same_api: bool = False, https: bool = False
) -> list[tuple[ImageOwner, str]]:
    """The owners that have a counterpart, best first, each with its URL. ``same_api``: only those
    that serve the API of the path."""
    urls = (
        _target_url(owner, path, owner.spell(answer.image_id, text), same_api=same_api)
        for owner in answer.owners
    )
    targets = [(owner, url) for owner, url in zip(answer.owners, urls, strict=True) if url]
    return _without_downgrades(targets) if https else targets


def _without_downgrades(targets: list[tuple[ImageOwner, str]]) -> list[tuple[ImageOwner, str]]:
    """The targets for a client that uses https: those with http only if no usable one has https. A
    redirect would send the client's token in the clear."""
    if any(owner.is_usable and owner.view.has_https for owner, _ in targets):
        return [target for target in targets if target[0].view.has_https]
    return targets


def _raise_if_without_bytes(answer: Answer) -> None:
    """Raises where every owner would answer with an empty file: Glance does so, with 204, while an
    image has no bytes. Where an image is deactivated at every owner, and no other location has it,
    an owner decides who gets its bytes.

    Raises:
        ImagePending: no owner has them yet.
        ImageDead: no owner will ever have them, nor does another location.
        ImageUnknown: no owner has them, and a location that could not be asked may have them.
    """
    if not answer.lacks_bytes:
        return
    where = join_briefly(f"{owner.status} at {owner.name}" for owner in answer.owners)
    others = f" Other locations may have it. {answer.detail}." if answer.detail else ""
    headers, extra = {"Vary": VARY_PREFERENCES}, answer.as_json()
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS), **headers}
    if answer.best_status is ImageStatus.PENDING:
        text = f"The image has no data yet. Its status: {where}.{others} Retry later."
        raise ImagePending(text, extra=extra, headers=retry)
    if others:
        text = f"No known owner hands out the image's data. Its status: {where}.{others}"
        raise ImageUnknown(text, extra=extra, headers=retry)
    if answer.best_status is ImageStatus.DEAD:
        raise ImageDead(
            f"The image has no data and will get none. Its status: {where}. Delete it and create "
            "it again.",
            extra=extra,
            headers=headers,
        )


def _serves(owner: ImageOwner, api: str) -> bool:
    """Whether the owner serves ``v1`` or ``v2``, as far as is known."""
    serves = owner.view.serves
    return serves is None or serves[0 if api == "v1" else 1]


def _target_url(owner: ImageOwner, path: ImagePath, text: str, *, same_api: bool) -> str | None:
    """Where an owner has what was asked for; None where its API has no counterpart.

    ``text`` is the image's id as this owner spells it. ``same_api``: what the other API has is not
    a counterpart.
    """
    view, serves = owner.view, owner.view.serves
    if serves is None or _serves(owner, path.api):
        return f"{view.base}/{path.api}/images/{text}{path.rest}{path.query}"
    if same_api:
        return None
    if path.api == "v1" and serves[1] and path.rest == "":
        return f"{view.images_v2}{text}/file{path.query}"
    if path.api == "v2" and serves[0] and path.rest == "/file":
        return f"{view.images_v1}{text}{path.query}"
    return None
