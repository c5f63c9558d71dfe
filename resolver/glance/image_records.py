"""What a Glance server shows one client of an image's bytes: size and hashes in full."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp

from resolver.errors import LocationUnavailable
from resolver.glance.cloud_credentials import CloudCredentials
from resolver.glance.glance_server import MAX_RECORD_BYTES, GlanceServer
from resolver.glance.rate_limits import PROBE_WAIT_SECONDS, RateLimits
from resolver.image_facts import ImageStatus, record_of_headers, status_of
from resolver.models import Location

HASH_NAMES = {"sha512": "sha-512", "sha384": "sha-384", "sha256": "sha-256"}
"""Glance's names of hash algorithms (``os_hash_algo``), and IANA's hash function textual names."""

_HEX = re.compile(r"[0-9a-fA-F]{32,128}", re.ASCII)


class ImageRecord(NamedTuple):
    """What is known of an image's bytes."""

    size: int | None
    """In bytes."""
    hashes: Mapping[str, str]
    """Hexadecimal, in lower case, by IANA's name; the strongest first."""
    status: ImageStatus | None = None
    """Of the image; None where it is not known."""

    def same_bytes(self, other: ImageRecord) -> bool | None:
        """Whether both are of the same bytes; None where they have no hash in common."""
        common = self.hashes.keys() & other.hashes.keys()
        if not common:
            return None
        return self.size == other.size and all(
            self.hashes[name] == other.hashes[name] for name in common
        )


class ImageRecords:
    """Reads images' records on behalf of clients: with their tokens, never with our credentials, so
    that nobody is shown anything that Glance would not show them."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        cloud_credentials: CloudCredentials,
        rate_limits: RateLimits,
    ) -> None:
        """``cloud_credentials`` have the settings for TLS. Requests end with the session's
        timeout."""
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._rate_limits = rate_limits

    async def read(self, location: Location, *, use_v1: bool, text: str, token: str) -> ImageRecord:
        """The record of the image whose id is spelled ``text``, as the holder of ``token`` sees it;
        empty: a client without one.

        Raises:
            LocationUnavailable: the server did not answer. Its code is ``refused`` where it did,
                and does not show the image to this client.
        """
        server = GlanceServer(
            self._session,
            location,
            self._cloud_credentials,
            self._rate_limits,
            max_wait=PROBE_WAIT_SECONDS,
        )
        method, path = ("HEAD", "v1") if use_v1 else ("GET", "v2")
        try:
            reply = await server.request(
                f"/{path}/images/{text}", method=method, token=token, max_bytes=MAX_RECORD_BYTES
            )
        except LocationUnavailable as error:
            if error.problem_code == "unauthorized":
                raise LocationUnavailable("it refuses this client", code="refused") from error
            raise
        if reply.status != 200:
            code = "refused" if reply.status in (403, 404) else "no-clear-answer"
            raise LocationUnavailable(f"it answered {reply.status}", code=code)
        if use_v1:
            return _record(record_of_headers(reply.headers))
        return _record(await reply.record())


def _record(members: Mapping[str, Any]) -> ImageRecord:
    size = members.get("size")
    hashes = {}
    name = HASH_NAMES.get(str(members.get("os_hash_algo")))
    if name and (value := _hash(members.get("os_hash_value"))):
        hashes[name] = value
    if value := _hash(members.get("checksum")):
        hashes["md5"] = value
    known_size = size if type(size) is int and size >= 0 else None
    return ImageRecord(known_size, hashes, status_of(members))


def _hash(value: object) -> str:
    return value.lower() if isinstance(value, str) and _HEX.fullmatch(value) else ""
