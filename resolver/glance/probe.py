"""Asking a Glance server about one image."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp

from resolver.errors import InvalidImageId, LocationUnavailable
from resolver.glance.cloud_credentials import CloudCredentials
from resolver.glance.credential_scope import CredentialScope, sees_all
from resolver.glance.glance_server import GlanceServer, Reply
from resolver.models import Location, format_id, parse_id

GLANCE_HEADER = "X-Openstack-Request-Id"
"""Every answer of Glance itself has this header; an error page of a proxy does not."""

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""An image's record. One with a thousand long properties is smaller."""

SCOPE_CACHE_SECONDS = 300.0
"""How long `ImageProbe` relies on what a credential was found to see."""


async def has_image(server: GlanceServer, versions: tuple[str, ...], text: str) -> bool:
    """Whether the server shows the image whose id is spelled ``text``.

    v2 answers ``GET`` with the record. v1 answers ``HEAD`` with headers, which also show an admin
    deleted images. False means 404: the image is not there, or not visible to this credential.

    Raises:
        LocationUnavailable: the answer was neither, such as a 300 from a server without that API,
            or a 404 that is not Glance's own.
    """
    use_v2 = server.uses_v2(versions)
    if use_v2:
        reply = await server.request(f"/v2/images/{text}", max_bytes=MAX_RECORD_BYTES)
        found = reply.status == 200 and _is_same_id(_record_id(reply), text)
        # Without known versions, 300 means that the server has no v2.
        use_v2 = bool(versions) or reply.status != 300
    if not use_v2:
        reply = await server.request(f"/v1/images/{text}", method="HEAD")
        found = reply.status == 200 and _is_same_id(reply.headers.get("X-Image-Meta-Id"), text)
        if found and reply.headers.get("X-Image-Meta-Deleted", "").lower() == "true":
            return False
    if reply.status == 404 and GLANCE_HEADER not in reply.headers:
        # A proxy whose Glance is gone answers 404 to everything: this raises then.
        await server.versions()
    if found or reply.status == 404:
        return found
    raise LocationUnavailable(
        f"asked for image {text}, it answered {reply.status}"
        + (" with something else" if reply.status == 200 else ""),
        code="no-clear-answer",
    )


def _record_id(reply: Reply) -> object:
    record = reply.json()
    return record.get("id") if isinstance(record, dict) else None


def _is_same_id(answered: object, text: str) -> bool:
    try:
        return isinstance(answered, str) and parse_id(answered) == parse_id(text)
    except InvalidImageId:
        return False


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a location answered about one image."""

    letter_case: int | None
    """The spelling under which it has the image (see `resolver.models.letter_case_of`); None where
    it answered 404 to every spelling asked. Whether that proves absence, `ImageProbe.scope` says.
    """


class _CachedScope(NamedTuple):
    credential: str
    location_updated: float
    checked_at: float
    """On `time.monotonic`."""
    scope: CredentialScope


class ImageProbe:
    """Asks locations about single images. It bounds neither time nor number: its caller does."""

    def __init__(self, session: aiohttp.ClientSession, cloud_credentials: CloudCredentials) -> None:
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._scopes: dict[int, _CachedScope] = {}
        """By location number."""

    async def ask(
        self,
        location: Location,
        versions: tuple[str, ...],
        image_id: bytes,
        spellings: Iterable[int],
    ) -> ProbeAnswer:
        """Asks for the image under each of these spellings, in order, until one is found. The
        databases of some Glance servers distinguish them.

        Raises:
            LocationUnavailable: the location gave no clear answer.
        """
        server = self._server(location)
        for letter_case in dict.fromkeys(spellings):
            if await has_image(server, versions, format_id(image_id, letter_case)):
                return ProbeAnswer(letter_case)
        return ProbeAnswer(None)

    async def scope(self, location: Location, versions: tuple[str, ...]) -> CredentialScope:
        """Which images the credential that `ask` uses can see.

        It is checked here and not read from the location's sweep, which another process may have
        run with another credential, or before the credential was rotated. The result is cached for
        `SCOPE_CACHE_SECONDS`, as long as neither credential nor location changes.

        Raises:
            LocationUnavailable: the location failed while asked.
        """
        server = self._server(location)
        credential = await server.credential()
        checked_at = time.monotonic()
        cached = self._scopes.get(location.number)
        if (
            cached is None
            or (cached.credential, cached.location_updated) != (credential, location.updated)
            or checked_at - cached.checked_at > SCOPE_CACHE_SECONDS
        ):
            scope = await sees_all(server, versions)
            cached = _CachedScope(credential, location.updated, checked_at, scope)
            self._scopes[location.number] = cached
        return cached.scope

    def _server(self, location: Location) -> GlanceServer:
        return GlanceServer(self._session, location, self._cloud_credentials)
