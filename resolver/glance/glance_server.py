"""Requests to one Glance server, bounded in time and size. Each kind of failure has a code."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import structlog

from resolver import __version__
from resolver.errors import LocationUnavailable, LoopDetected
from resolver.glance.answer_guard import GuardedRequest, short_reads
from resolver.glance.cloud_config import CloudRef, cloud_of
from resolver.glance.cloud_credentials import CloudCredentials
from resolver.glance.glance_reply import Reply
from resolver.glance.host_policy import HostPolicy, HostPolicyMiddleware, HostPolicyResolver
from resolver.glance.kept_connections import IDLE_SECONDS, LIFETIME_SECONDS, KeptConnections
from resolver.glance.keystone import AuthHeaders
from resolver.glance.proxies import proxy_for, proxy_hosts
from resolver.glance.rate_limits import NEVER_DELAYED, RateLimits
from resolver.glance.request_traces import request_traces
from resolver.glance.secret_sources import SecretSources
from resolver.location_fields import is_base_url
from resolver.models import Api, Location, api_versions
from resolver.spans import NO_SPANS, Spans
from resolver.trace_context import trace_headers

Params = Mapping[str, str] | Sequence[tuple[str, str]]
"""A query; a sequence where a name may occur several times."""

_VERSION_ID = re.compile(r"[vV][0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)

NO_VERSIONS_CODES = frozenset({"not-glance", "junk", "unauthorized", "server-error"})
"""Answers of ``/versions`` that do not speak against a version document at ``/``."""

MAX_VERSIONS = 64

MAX_BODY_BYTES = 16 * 1024 * 1024
"""One response. A page of 1,000 images takes 0.5 MB; with many properties, some MB. To free the
memory of a larger one takes many milliseconds."""

MIN_UNCOPIED_BYTES = 1024 * 1024
"""Of a response: copying a larger one takes long."""

MAX_RECORD_BYTES = 1024 * 1024
"""An image's record. One with a thousand long properties is smaller."""

MAX_STATUS_BODY_BYTES = 1024 * 1024
"""A response about health or versions."""

CONNECT_TIMEOUT_SECONDS = 5.0

IS_RESOLVER_TIMEOUT_SECONDS = 2.0
"""How long `is_resolver` waits for an answer when a location is registered."""

MAX_CONNECTIONS_PER_HOST = 8

MAX_REASON_CHARACTERS = 300

GLANCE_HEADER = "X-Openstack-Request-Id"
"""Every answer of Glance itself has this header; an error page of a proxy does not."""

HOP = "X-Resolver-Hop"
"""Header of every request to a location. A resolver that receives it answers 508, since no location
may be a resolver."""

HEADERS = {
    "User-Agent": f"glance-resolver/{__version__}",
    "Accept-Encoding": "identity",  # a megabyte unpacks to a gigabyte
    "Cache-Control": "no-cache",  # what a cache in front remembers proves nothing
    HOP: "1",
}
"""Of every request to a location."""

log = structlog.get_logger()


@asynccontextmanager
async def connect(
    timeout: float,  # noqa: ASYNC109 - of each request, not of this call
    connections: int = MAX_CONNECTIONS_PER_HOST,
    *,
    allowed_hosts: Iterable[str] = (),
    require_https: bool = False,
    spans: Spans = NO_SPANS,
) -> AsyncIterator[aiohttp.ClientSession]:
    """Opens the HTTP session that all locations share.

    ``timeout`` is in seconds, for a whole request. ``connections`` bounds those to one host; 0 is
    no bound. The session never connects to a host that is not allowed, whatever its name resolved
    to before.
    """
    policy = HostPolicy(allowed_hosts, require_https=require_https)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            limit_per_host=connections,
            resolver=HostPolicyResolver(policy, proxy_hosts),
            socket_factory=short_reads,
        ),
        request_class=GuardedRequest,
        middlewares=(HostPolicyMiddleware(policy),)
        if policy.rules or require_https
        else (),  # without rules it would take time from each request
        timeout=aiohttp.ClientTimeout(total=timeout, connect=CONNECT_TIMEOUT_SECONDS),
        # Without spans they would take time from each request.
        trace_configs=[] if spans is NO_SPANS else [request_traces(spans)],
        headers=HEADERS,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


@asynccontextmanager
async def keep_connections(
    timeout: float,  # noqa: ASYNC109 - as above
    *,
    allowed_hosts: Iterable[str] = (),
    require_https: bool = False,
    idle_seconds: float = IDLE_SECONDS,
    lifetime_seconds: float = LIFETIME_SECONDS,
) -> AsyncIterator[KeptConnections]:
    """Opens the connections for questions about single images. The arguments are those of
    `connect`; ``idle_seconds``: how long a connection stays open without a question;
    ``lifetime_seconds``: how long it is used."""
    policy = HostPolicy(allowed_hosts, require_https=require_https)
    kept = KeptConnections(policy, HEADERS, timeout, idle_seconds, lifetime_seconds)
    try:
        yield kept
    finally:
        await kept.close()


class VersionDocument(NamedTuple):
    """A list of API versions."""

    versions: tuple[str, ...]
    date: str
    """The ``Date`` of the response; empty if it had none."""


class GlanceServer:
    """The Glance server of one location."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        location: Location,
        cloud_credentials: CloudCredentials | None = None,
        rate_limits: RateLimits | None = None,
        *,
        max_wait: float | None = NEVER_DELAYED,
        kept: KeptConnections | None = None,
    ) -> None:
        """A location whose `auth` names a cloud needs ``cloud_credentials``.

        ``rate_limits``: the limits that all requests of this process share. ``max_wait``: how many
        seconds a request may wait for its turn, or for what the server demands with
        ``Retry-After``. ``kept``: asks first where no proxy is in between.
        """
        self._session = session
        self._kept = kept
        self._cloud_credentials = cloud_credentials
        self._limiter = (rate_limits or RateLimits()).of(location)
        self._max_wait = max_wait
        self.location = location

    def uses_v2(self, versions: tuple[str, ...]) -> bool:
        """Whether to read from this server with v2 rather than v1.

        v2 is used wherever it is served, even where clients are redirected to v1, since v1 never
        lists other projects' community images.
        """
        v1, v2 = api_versions(versions)
        return v2 or (not v1 and self.location.api is not Api.V1)

    @property
    def _cloud(self) -> CloudRef | None:
        return cloud_of(self.location)

    async def _tls(self) -> ssl.SSLContext | None:
        """How to speak TLS with the server; None for the default.

        Raises:
            LocationUnavailable: a file that clouds.yaml names cannot be used.
        """
        if self._cloud is None or self._cloud_credentials is None:
            return None
        try:
            return await self._cloud_credentials.tls(self._cloud)
        except LocationUnavailable as error:
            # Without clouds.yaml there is no credential either. That is reported where one is
            # needed, and says nothing about the server's health.
            if error.problem_code != "no-credential":
                raise
            return None

    async def _auth_headers(self) -> AuthHeaders:
        """The headers that authenticate a request.

        Raises:
            LocationUnavailable: the credential cannot be read or obtained.
        """
        if self._cloud is not None:
            if self._cloud_credentials is None:
                raise LocationUnavailable(
                    "credentials of clouds.yaml are not available here", code="no-credential"
                )
            sent = await self._cloud_credentials.auth_headers(self._cloud)
            host = urlsplit(self.location.url).hostname or ""
            self._cloud_credentials.check_host(self._cloud, sent, host)
            return sent
        secrets = self._cloud_credentials.secrets if self._cloud_credentials else SecretSources()
        token = secrets.read_token(self.location.auth)
        return AuthHeaders({"X-Auth-Token": token} if token else {})

    async def credential(self) -> str:
        """The value sent as ``X-Auth-Token``; empty where none is sent.

        Raises:
            LocationUnavailable: the credential cannot be read or obtained.
        """
        return (await self._auth_headers()).headers.get("X-Auth-Token", "")

    async def roles(self) -> tuple[str, ...] | None:
        """The roles of the location's credential on its project; None where Keystone gave none.

        Raises:
            LocationUnavailable: the credential cannot be read or obtained.
        """
        return (await self._auth_headers()).roles

    async def request(
        self,
        path: str,
        params: Params | None = None,
        *,
        method: str = "GET",
        authenticated: bool = True,
        token: str | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Reply:
        """Sends one request and returns the response, if its status is below 500 and not 401.

        It waits for its turn, and is sent again where the server answers that it has too many
        requests, as long as that takes no longer than ``max_wait`` of this object.

        Redirects are not followed: a redirected listing is another server's listing. With
        ``authenticated``, the location's credential is sent; after a 401, the request is sent once
        more where the cloud can give a newer credential. ``token`` is sent instead of it; empty:
        none is.

        Raises:
            LocationUnavailable: there was no usable response; its code says why.
        """
        if token is not None:
            sent = AuthHeaders({"X-Auth-Token": token} if token else {})
        else:
            sent = await self._auth_headers() if authenticated else AuthHeaders({})
        reply = await self._send(method, path, params, sent.headers, max_bytes)
        if (
            reply.status == 401
            and sent.headers
            and token is None
            and self._cloud is not None
            and self._cloud_credentials is not None
            and self._cloud_credentials.invalidate_if_new(self._cloud, sent)
        ):
            sent = await self._auth_headers()
            reply = await self._send(method, path, params, sent.headers, max_bytes)
        if reply.status == 401:
            raise LocationUnavailable(
                "it does not accept the credential (401): check the location's `auth`"
                if sent.headers
                else "it needs a credential (401): set the location's `auth`",
                code="unauthorized",
                extra={"challenge": reply.field_to_pass_on("WWW-Authenticate")},
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

    async def _send(
        self,
        method: str,
        path: str,
        params: Params | None,
        headers: Mapping[str, str],
        max_bytes: int,
    ) -> Reply:
        """Sends one request within the limits, and returns the response.

        Raises:
            LocationUnavailable: there was no whole response, or the limits allow no request now.
        """
        waited = 0.0
        while True:
            left = None if self._max_wait is NEVER_DELAYED else self._max_wait - waited
            wait = await self._limiter.reserve(self.location.rate, left)
            if wait:
                await asyncio.sleep(wait)
                waited += wait
            reply = await self._send_now(method, path, params, headers, max_bytes)
            if not _is_rate_limited(reply):
                self._limiter.record_success()
                return reply
            answered = reply.headers.get
            retry_after = self._limiter.record_refusal(answered("Retry-After"), answered("Date"))
            if self._max_wait is NEVER_DELAYED or waited + retry_after > self._max_wait:
                raise LocationUnavailable(
                    f"it has too many requests ({reply.status}), and is asked again in "
                    f"{retry_after:.0f} s: give the location a `rate` that it allows",
                    code="rate-limited",
                    extra={"status": reply.status, "retry_after": retry_after},
                )

    async def _send_now(
        self,
        method: str,
        path: str,
        params: Params | None,
        headers: Mapping[str, str],
        max_bytes: int,
    ) -> Reply:
        """Sends one request and returns the response, whatever its status.

        Raises:
            LocationUnavailable: there was no whole response.
        """
        if not is_base_url(self.location.url):  # Redis has it, and no operator has written it
            raise LocationUnavailable(
                "its URL is not valid for a location: set another", code="not-allowed"
            )
        url = self.location.url + path
        headers = {**headers, **trace_headers()}
        tls = await self._tls()
        proxy = proxy_for(url)
        try:
            if self._kept is not None and proxy is None:
                target = f"{path}?{urlencode(params, safe=':,')}" if params else path
                reply = await self._kept.ask(self.location.url, target, method, headers, tls)
                if reply is not None:
                    return reply
            async with self._session.request(
                method,
                url,
                params=params,
                headers=headers,
                allow_redirects=False,
                proxy=proxy,
                ssl=tls or True,
            ) as response:
                return Reply(
                    response.status, response.headers, await read_body(response, max_bytes)
                )
        except TimeoutError as error:
            raise LocationUnavailable("it did not answer in time", code="timeout") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise LocationUnavailable(
                f"its TLS certificate is not valid: {error.certificate_error}", code="bad-tls"
            ) from error
        except aiohttp.ClientProxyConnectionError as error:
            raise LocationUnavailable(
                f"cannot connect to the proxy of the environment: {error.os_error.strerror}",
                code="bad-proxy",
            ) from error
        except aiohttp.ClientHttpProxyError as error:
            raise LocationUnavailable(
                f"the proxy of the environment answered {error.status}", code="bad-proxy"
            ) from error
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or error.os_error
            raise LocationUnavailable(f"cannot connect: {reason}", code="unreachable") from error
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, ValueError) as error:
            # The texts of aiohttp quote what the server sent, which may be anything: an admin can
            # name a server inside the network. Some have several lines.
            reason = " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
            log.debug("answer not readable", location=self.location.name, reason=reason)
            raise LocationUnavailable(
                f"the answer broke off or was not HTTP ({type(error).__name__})", code="cut"
            ) from error

    async def healthy(self) -> bool:
        """Whether ``/healthcheck`` reports health; False where the server has no such check.

        Raises:
            LocationUnavailable: it reports a failure, or does not answer.
        """
        try:
            reply = await self.request(
                "/healthcheck", authenticated=False, max_bytes=MAX_STATUS_BODY_BYTES
            )
        except LocationUnavailable as error:
            if error.problem_code == "unauthorized" or error.extra.get("status") == 500:
                # A proxy in front requires a token for every path, or the check itself is broken
                # (as in Glance Pike): a check that found a failure answers 503.
                return False
            raise LocationUnavailable(
                f"/healthcheck: {error.detail}", code=error.problem_code
            ) from error
        # Glance answers with an empty body where no check is configured.
        return reply.status == 200 and reply.body.strip() in (b"", b"OK")

    async def versions(self) -> tuple[str, ...]:
        """Glance's version ids, highest first as Glance lists them: ``("v2.15", "v2.13", …)``.

        Raises:
            LocationUnavailable: the server gave no such document.
        """
        return (await self.version_document()).versions

    async def version_document(self) -> VersionDocument:
        """What the server answers at ``/versions``, or else at ``/``: Glance has the document at
        both, some servers that resemble it only at the root.

        Raises:
            LocationUnavailable: neither is a list of versions.
        """
        try:
            return await self._read_versions("/versions")
        except LocationUnavailable as error:
            if error.problem_code not in NO_VERSIONS_CODES:
                raise
            first = error
        try:
            return await self._read_versions("/")
        except LocationUnavailable:
            raise first from None  # where Glance has it

    async def _read_versions(self, path: str) -> VersionDocument:
        """The version document at a path, asked without the credential first."""
        try:
            reply = await self.request(path, authenticated=False, max_bytes=MAX_STATUS_BODY_BYTES)
        except LocationUnavailable as error:
            if error.problem_code != "unauthorized" or not self.location.auth:
                raise
            reply = await self.request(path, max_bytes=MAX_STATUS_BODY_BYTES)
        if reply.status not in (200, 300):
            raise LocationUnavailable(
                f"{path} answered {reply.status}: is {self.location.url} the base URL of a "
                "Glance server?",
                code="not-glance",
            )
        document = reply.json()
        listed = document.get("versions") if isinstance(document, dict) else None
        ids = tuple(
            version["id"].lower()
            for version in (listed if isinstance(listed, list) else ())
            if isinstance(version, dict)
            and isinstance(version.get("id"), str)
            and _VERSION_ID.fullmatch(version["id"])
        )
        if not ids:
            raise LocationUnavailable(f"{path} lists no versions", code="not-glance")
        return VersionDocument(ids[:MAX_VERSIONS], reply.headers.get("Date", ""))


async def is_resolver(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a glance-resolver answers at a base URL; False where there is no prompt answer."""
    try:
        async with asyncio.timeout(IS_RESOLVER_TIMEOUT_SECONDS):
            await GlanceServer(session, Location(name="", url=url)).versions()
    except LocationUnavailable as error:
        return error.problem_code == LoopDetected.code
    except TimeoutError:
        pass
    return False


def _is_rate_limited(reply: Reply) -> bool:
    """Whether the server refused a request because it has too many. 413 with ``Retry-After`` is
    what older OpenStack services answer in place of 429; without, it means something else."""
    return reply.status == 429 or (reply.status == 413 and "Retry-After" in reply.headers)


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | bytearray:
    """The body of a response. Raises LocationUnavailable where it is longer than ``max_bytes``."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise LocationUnavailable(
                f"its answer is longer than {max_bytes // 1024 // 1024} MB", code="too-long"
            )
    return bytes(body) if len(body) < MIN_UNCOPIED_BYTES else body
