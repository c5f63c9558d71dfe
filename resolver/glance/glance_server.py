"""Requests to a Glance server, bounded in time and size, with every failure told apart."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from resolver import __version__
from resolver.errors import LocationUnavailable, LoopDetected
from resolver.glance.credentials import token_of
from resolver.glance.host_policy import AllowedHosts, HostPolicyMiddleware, HostPolicyResolver
from resolver.glance.keystone import AuthHeaders, CloudCredentials
from resolver.models import Api, Location, api_versions

_VERSION = re.compile(r"v[0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one answer: a page of 1,000 images takes 0.5 MB, with many properties some MB."""

SMALL_BODY = 1024 * 1024
"""Bytes of an answer about health or versions."""

CONNECT_TIMEOUT = 5.0
"""Seconds to open a connection to a Glance server."""

GREETING = 2.0
"""Seconds that a server may take to be told for a resolver when it is registered."""

MAX_CONNECTIONS = 8
"""Connections to one Glance server."""


HOP = "X-Resolver-Hop"
"""Header of all that a resolver asks of locations; one that is asked so refuses (508), since no
location may be a resolver."""


@asynccontextmanager
async def connect(
    timeout: float,  # noqa: ASYNC109 - of each request, not of this call
    connections: int = MAX_CONNECTIONS,
    *,
    allowed_hosts: Iterable[str] = (),
    require_https: bool = False,
) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session that all locations share; ``timeout`` seconds for a request in all, and
    ``connections`` to one host, 0 for any number.

    It opens no connection to a host that is not allowed, whatever its name meant before.
    """
    allowed = AllowedHosts(allowed_hosts)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, limit_per_host=connections, resolver=HostPolicyResolver(allowed)
        ),
        middlewares=(HostPolicyMiddleware(allowed, require_https=require_https),),
        timeout=aiohttp.ClientTimeout(total=timeout, connect=CONNECT_TIMEOUT),
        headers={"User-Agent": f"glance-resolver/{__version__}", HOP: "1"},
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

    def __init__(
        self,
        session: aiohttp.ClientSession,
        location: Location,
        cloud_credentials: CloudCredentials | None = None,
    ) -> None:
        self._session = session
        self._cloud_credentials = cloud_credentials or CloudCredentials()
        self.location = location

    def uses_v2(self, versions: tuple[str, ...]) -> bool:
        """Whether to read from this server with v2 rather than v1.

        v2 is used wherever it is served, even where clients are redirected to v1, since v1 never
        lists other projects' community images.
        """
        v1, v2 = api_versions(versions)
        return v2 or (not v1 and self.location.api is not Api.V1)

    async def _login(self) -> AuthHeaders:
        """What to send with a request.

        Raises:
            LocationUnavailable: the place that the credential should be in has none.
        """
        auth = self.location.auth
        if auth and "cloud" in auth:
            return await self._cloud_credentials.login(auth["cloud"])
        token = token_of(auth)
        return AuthHeaders({"X-Auth-Token": token} if token else {})

    async def credential(self) -> str:
        """What is sent as ``X-Auth-Token``; empty for nothing.

        Raises:
            LocationUnavailable: there is no credential to be had.
        """
        return (await self._login()).headers.get("X-Auth-Token", "")

    async def roles(self) -> tuple[str, ...] | None:
        """The roles of the location's credential on its project; None where Keystone did not say.

        Raises:
            LocationUnavailable: there is no credential to be had.
        """
        return (await self._login()).roles

    async def ask(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        login: bool = True,
        most: int = MAX_BODY,
    ) -> Reply:
        """The answer to one request, whatever its status below 500 other than 401.

        Redirects are not followed: a redirected listing is another server's listing. ``login``:
        with the location's credential, of which a cloud has another where one is not accepted.
        ``most`` bytes of it are read.

        Raises:
            LocationUnavailable: nothing usable came; its code says in which way.
        """
        sent = await self._login() if login else AuthHeaders({})
        reply = await self._answer(method, path, params, sent.headers, most)
        cloud = (self.location.auth or {}).get("cloud", "")
        if (
            reply.status == 401
            and sent.headers
            and cloud
            and self._cloud_credentials.refused(cloud, sent)
        ):
            sent = await self._login()
            reply = await self._answer(method, path, params, sent.headers, most)
        if reply.status == 401:
            raise LocationUnavailable(
                "it does not accept the credential (401): check the location's `auth`"
                if sent.headers
                else "it wants a credential (401): set the location's `auth`",
                code="unauthorized",
            )
        if reply.status == LoopDetected.status:
            raise LocationUnavailable(
                "it is a glance-resolver: register the Glance servers behind it", code="loop"
            )
        if reply.status >= 500:
            raise LocationUnavailable(
                f"it answered {reply.status}",
                code="server-error",
                extra={"status": reply.status},
            )
        return reply

    async def _answer(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        most: int,
    ) -> Reply:
        """What comes to one request, whatever its status.

        Raises:
            LocationUnavailable: nothing that is an answer.
        """
        try:
            async with self._session.request(
                method,
                self.location.url + path,
                params=params,
                headers=headers,
                allow_redirects=False,
            ) as response:
                return Reply(response.status, response.headers, await _read(response, most))
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
            why = " ".join(str(error).split())[:300] or type(error).__name__  # aiohttp's has lines
            raise LocationUnavailable(
                f"the answer broke off or was not HTTP: {why}", code="cut"
            ) from error

    async def healthy(self) -> bool:
        """Whether ``/healthcheck`` says so; False where there is none to ask.

        Raises:
            LocationUnavailable: it says that the server is not well, or nothing.
        """
        try:
            reply = await self.ask("/healthcheck", login=False, most=SMALL_BODY)
        except LocationUnavailable as error:
            if error.problem_code == "unauthorized" or error.extra.get("status") == 500:
                # Somebody in front of it wants a token for every path; or the check itself is
                # broken (Pike's may be), since one that found something wrong says 503.
                return False
            raise LocationUnavailable(
                f"/healthcheck: {error.detail}", code=error.problem_code
            ) from error
        # Glance's says nothing where no check is configured for it.
        return reply.status == 200 and reply.body.strip() in (b"", b"OK")

    async def versions(self) -> tuple[str, ...]:
        """Glance's version ids, highest first as it lists them: ``("v2.15", "v2.13", …)``.

        Raises:
            LocationUnavailable: it gave no such document.
        """
        try:
            reply = await self.ask("/versions", login=False, most=SMALL_BODY)
        except LocationUnavailable as error:
            if error.problem_code != "unauthorized" or not self.location.auth:
                raise
            reply = await self.ask("/versions", most=SMALL_BODY)
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


async def is_resolver(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a glance-resolver answers at a base URL; no where nothing answers at once."""
    try:
        async with asyncio.timeout(GREETING):
            await Server(session, Location(name="", url=url)).versions()
    except LocationUnavailable as error:
        return error.problem_code == LoopDetected.code
    except TimeoutError:
        pass
    return False


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts = bytearray()
    async for chunk in response.content.iter_any():
        parts += chunk
        if len(parts) > most:
            raise LocationUnavailable(
                f"its answer is longer than {most // 1024 // 1024} MB", code="too-long"
            )
    return bytes(parts)
