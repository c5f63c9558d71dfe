"""Requests to a Glance server, bounded in time and size, with every failure told apart."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from resolver import __version__
from resolver.errors import LocationUnavailable
from resolver.glance.credentials import token_of
from resolver.models import Location

_VERSION = re.compile(r"v[0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one answer: a page of 1,000 images takes 0.5 MB, with many properties some MB."""

CONNECT_TIMEOUT = 5.0
"""Seconds to open a connection to a Glance server."""

MAX_CONNECTIONS = 8
"""Connections to one Glance server."""


@asynccontextmanager
async def connect(timeout: float) -> AsyncIterator[aiohttp.ClientSession]:  # noqa: ASYNC109 - of each request, not of this call
    """The HTTP session that all locations share; ``timeout`` seconds for a request in all."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=MAX_CONNECTIONS),
        timeout=aiohttp.ClientTimeout(total=timeout, connect=CONNECT_TIMEOUT),
        headers={"User-Agent": f"glance-resolver/{__version__}"},
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of a Glance server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            LocationUnavailable: it is something else.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise LocationUnavailable(
                f"its answer is not JSON (it begins {self.body[:40]!r})", code="junk"
            ) from error


class Server:
    """The Glance server of one location."""

    def __init__(self, session: aiohttp.ClientSession, location: Location) -> None:
        self._session = session
        self.location = location

    async def ask(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        login: bool = True,
    ) -> Reply:
        """The answer to one request, whatever its status below 500 other than 401.

        Redirects are not followed: a redirected listing is another server's listing. ``login``:
        with the location's credential.

        Raises:
            LocationUnavailable: nothing usable came; its code says in which way.
        """
        token = token_of(self.location.auth) if login else None
        headers = {"X-Auth-Token": token} if token else {}
        try:
            async with self._session.request(
                method,
                self.location.url + path,
                params=params,
                headers=headers,
                allow_redirects=False,
            ) as response:
                body = await _read(response)
                status = response.status
        except TimeoutError as error:
            raise LocationUnavailable("it did not answer in time", code="timeout") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise LocationUnavailable(
                f"its TLS certificate is not valid: {error.certificate_error}", code="bad-tls"
            ) from error
        except aiohttp.ClientConnectorError as error:
            why = error.os_error.strerror or error.os_error
            raise LocationUnavailable(f"cannot connect: {why}", code="unreachable") from error
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, ValueError) as error:
            raise LocationUnavailable(
                f"the answer broke off or was not HTTP: {error or type(error).__name__}",
                code="cut",
            ) from error
        if status == 401:
            raise LocationUnavailable(
                "it does not accept the credential (401): check the location's `auth`"
                if token
                else "it wants a credential (401): set the location's `auth`",
                code="unauthorized",
            )
        if status >= 500:
            raise LocationUnavailable(f"it answered {status}", code="server-error")
        return Reply(status, response.headers, body)

    async def healthy(self) -> bool:
        """Whether ``/healthcheck`` says so; False where there is none to ask.

        Raises:
            LocationUnavailable: it says that the server is not well, or nothing.
        """
        try:
            reply = await self.ask("/healthcheck", login=False)
        except LocationUnavailable as error:
            if error.problem_code == "unauthorized":
                return False  # somebody in front of it wants a token for every path
            raise LocationUnavailable(
                f"/healthcheck: {error.detail}", code=error.problem_code
            ) from error
        return reply.status == 200 and reply.body.strip() == b"OK"

    async def versions(self) -> tuple[str, ...]:
        """Glance's version ids, highest first as it lists them: ``("v2.15", "v2.13", …)``.

        Raises:
            LocationUnavailable: it gave no such document.
        """
        try:
            reply = await self.ask("/versions", login=False)
        except LocationUnavailable as error:
            if error.problem_code != "unauthorized" or not self.location.auth:
                raise
            reply = await self.ask("/versions")
        if reply.status not in (200, 300):
            raise LocationUnavailable(
                f"/versions answered {reply.status}: is {self.location.url} the base URL of a "
                "Glance server?",
                code="not-glance",
            )
        document = reply.json()
        listed = document.get("versions") if isinstance(document, dict) else None
        ids = tuple(
            v["id"]
            for v in (listed if isinstance(listed, list) else ())
            if isinstance(v, dict) and isinstance(v.get("id"), str) and _VERSION.fullmatch(v["id"])
        )
        if not ids:
            raise LocationUnavailable("/versions lists no versions", code="not-glance")
        return ids[:64]


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts = bytearray()
    async for chunk in response.content.iter_any():
        parts += chunk
        if len(parts) > MAX_BODY:
            raise LocationUnavailable(
                f"its answer is longer than {MAX_BODY // 1024 // 1024} MB", code="too-long"
            )
    return bytes(parts)
