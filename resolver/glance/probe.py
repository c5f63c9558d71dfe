"""Asking a Glance server about one image."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp

from resolver.errors import InvalidImageId, LocationUnavailable
from resolver.glance.cloud_config import cloud_of
from resolver.glance.cloud_credentials import CloudCredentials
from resolver.glance.credential_scope import CredentialScope
from resolver.glance.glance_reply import Reply
from resolver.glance.glance_server import (
    GLANCE_HEADER,
    MAX_RECORD_BYTES,
    GlanceServer,
)
from resolver.glance.kept_connections import KeptConnections
from resolver.glance.listed_rows import ids_of
from resolver.glance.rate_limits import PROBE_WAIT_SECONDS, RateLimits
from resolver.glance.scope_cache import ScopeCache
from resolver.image_facts import NOTHING_KNOWN, ImageFacts
from resolver.models import Location, format_id, parse_id


async def has_image(server: GlanceServer, versions: tuple[str, ...], text: str) -> bool:
    """Whether the server shows the image whose id is spelled ``text``. Raises as `read_image`."""
    return await read_image(server, versions, text) is not None


async def read_image(
    server: GlanceServer, versions: tuple[str, ...], text: str, *, token: str | None = None
) -> ImageFacts | None:
    """What the server shows of the image whose id is spelled ``text``, to the location's credential
    or to the holder of ``token``.

    v2 answers ``GET`` with the record. v1 answers ``HEAD`` with headers, which also show an admin
    deleted images. None means 404: the image is not there, or not visible to this credential.

    Raises:
        LocationUnavailable: the answer was neither, such as a 300 from a server without that API,
            or a 404 that is not Glance's own.
    """
    use_v2 = server.uses_v2(versions)
    facts = None
    if use_v2:
        reply = await server.request(f"/v2/images/{text}", token=token, max_bytes=MAX_RECORD_BYTES)
        if reply.status == 200 and _is_same_id((record := await reply.record()).get("id"), text):
            facts = ImageFacts.of(record)
        # Without known versions, 300 means that the server has no v2.
        use_v2 = bool(versions) or reply.status != 300
    if not use_v2:
        reply = await server.request(f"/v1/images/{text}", method="HEAD", token=token)
        headers = reply.headers
        if reply.status == 200 and _is_same_id(headers.get("X-Image-Meta-Id"), text):
            if headers.get("X-Image-Meta-Deleted", "").lower() == "true":
                return None
            facts = ImageFacts.of_headers(headers)
    if reply.status == 404 and not _names_image(reply, text):
        # A proxy whose Glance is gone answers 404 to everything, one whose rules are wrong to some
        # paths, and a balancer may lead to another service of OpenStack. This raises then.
        await _ensure_shows_images(server, use_v2=use_v2, token=token)
    if reply.status == 404 and reply.headers.get("Age", "0") != "0":
        raise LocationUnavailable(
            f"asked for image {text}, a cache in front of it answered 404 (`Age`): let it store no "
            "errors",
            code="no-clear-answer",
        )
    if token is not None and reply.status == 403 and GLANCE_HEADER in reply.headers:
        return None  # its policy hides this image, or every image, from this client
    if facts is not None or reply.status == 404:
        return facts
    raise LocationUnavailable(
        f"asked for image {text}, it answered {reply.status}"
        + (" with something else" if reply.status == 200 else ""),
        code="no-clear-answer",
    )


def _names_image(reply: Reply, text: str) -> bool:
    """Whether a 404 is about this image: all services of OpenStack send Glance's header, but only
    Glance has the id in the body ("No image found with ID …"), and not as part of the path that was
    asked for. That of a ``HEAD`` in v1 has no body."""
    body, image = reply.body.lower(), text.lower().encode()
    return GLANCE_HEADER in reply.headers and image in body and b"/images/" + image not in body


async def _ensure_shows_images(server: GlanceServer, *, use_v2: bool, token: str | None) -> None:
    """Raises LocationUnavailable where the server has no listing of images, or does not show the
    first image of it when it is asked about that one."""
    path = "/v2/images" if use_v2 else "/v1/images"
    reply = await server.request(path, {"limit": "1"}, token=token)
    if reply.status != 200:
        raise LocationUnavailable(
            f"its 404 names no image, and it lists none ({reply.status}): is Glance there?",
            code="not-glance",
        )
    for text in ids_of(await reply.page(1)):
        method = "GET" if use_v2 else "HEAD"
        target = f"{path}/{quote(text, safe='')}"
        shown = await server.request(target, method=method, token=token, max_bytes=MAX_RECORD_BYTES)
        if shown.status != 200:
            raise LocationUnavailable(
                f"its 404 names no image, and it answers {shown.status} about an image that it "
                "lists: is there a proxy in front with rules for some paths only?",
                code="not-glance",
            )


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
    credential: str = ""
    """The credential that was sent with the question; empty for none."""
    at: float = 0.0
    """When it answered, on `time.monotonic`."""
    facts: ImageFacts = NOTHING_KNOWN
    """What it shows of the image."""


class ImageProbe:
    """Asks locations about single images. It bounds neither time nor number: its caller does."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        cloud_credentials: CloudCredentials,
        rate_limits: RateLimits,
        scopes: ScopeCache,
        kept: KeptConnections | None = None,
    ) -> None:
        self._kept = kept
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._rate_limits = rate_limits
        self._scopes = scopes

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
        credential = await server.credential()
        for letter_case in dict.fromkeys(spellings):
            facts = await read_image(server, versions, format_id(image_id, letter_case))
            if facts is not None:
                return ProbeAnswer(letter_case, credential, time.monotonic(), facts)
        return ProbeAnswer(None, credential, time.monotonic())

    async def ask_as(
        self,
        location: Location,
        versions: tuple[str, ...],
        image_id: bytes,
        letter_case: int,
        token: str,
    ) -> ImageFacts | None:
        """What the location shows the holder of ``token`` of the image under this spelling; None
        where it answered that there is no such image, or that its policy forbids it.

        Raises:
            LocationUnavailable: the location gave no clear answer. Not to accept the token is none:
                Keystone does.
        """
        text = format_id(image_id, letter_case)
        return await read_image(self._server(location), versions, text, token=token)

    async def scope(
        self,
        location: Location,
        versions: tuple[str, ...],
        answer: ProbeAnswer,
        *,
        was_proven: bool = False,
    ) -> CredentialScope:
        """Which images the credential of an answer sees: whether its 404 proves absence.

        It is checked here and not read from the location's sweep, which another process may have
        run with another credential. ``was_proven``: as for `sees_all`.

        Raises:
            LocationUnavailable: the location failed while asked, the credential has been replaced
                since, or it sees less than before.
        """
        return await self._scopes.check_since(
            self._server(location), versions, answer.credential, answer.at, was_proven=was_proven
        )

    def is_logging_in(self, location: Location) -> bool:
        """Whether a question to this location waits for a login at its Keystone."""
        cloud = cloud_of(location)
        return cloud is not None and self._cloud_credentials.is_logging_in(cloud)

    def _server(self, location: Location) -> GlanceServer:
        return GlanceServer(
            self._session,
            location,
            self._cloud_credentials,
            self._rate_limits,
            max_wait=PROBE_WAIT_SECONDS,
            kept=self._kept,
        )
