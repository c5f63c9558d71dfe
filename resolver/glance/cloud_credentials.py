"""Caches one Keystone credential and the TLS options of each cloud of clouds.yaml, for the whole
process."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from resolver.errors import LocationUnavailable
from resolver.glance.cloud_config import CloudRef, cloud_error, cloud_of, read_tls
from resolver.glance.keystone import AuthHeaders, authenticate
from resolver.glance.secret_sources import SecretSources
from resolver.models import Location
from resolver.settings import Settings

AUTH_RETRY_SECONDS = 2.0
"""Least time between two logins to a cloud that gave no token, or whose new token was refused."""

MAX_PARALLEL_LOGINS = 4

LOGIN_INTERVAL_SECONDS = 10.0
"""How often `CloudCredentials.stay_logged_in` looks for clouds without a valid credential."""

TLS_LIFETIME_SECONDS = 300.0
"""How long the TLS options of a cloud are used before clouds.yaml is read again. Connections are
kept among requests with the same options only."""

T = TypeVar("T")


@dataclass(slots=True)
class _Cloud:
    """What is cached for one cloud. Times are on `time.monotonic`."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    current: AuthHeaders | None = None
    failure: LocationUnavailable | None = None
    """Why the last login failed."""
    tried_at: float = 0.0
    invalidated_at: float = 0.0
    """When a current credential was last refused by a server."""
    tls_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tls: ssl.SSLContext | None = None
    tls_failure: LocationUnavailable | None = None
    tls_until: float = 0.0
    """When to read the TLS options again."""


class CloudCredentials:
    """The credentials of a process, one for each cloud, shared by all that ask locations.

    keystoneauth blocks, so each login runs in a thread. The threads are daemons: a slow Keystone
    does not delay the exit of the process. They are not those of the event loop's default executor,
    where host names are resolved.
    """

    def __init__(
        self,
        authenticate: Callable[[CloudRef], AuthHeaders] = authenticate,
        read_tls: Callable[[CloudRef], ssl.SSLContext | None] = read_tls,
        *,
        retry_seconds: float = AUTH_RETRY_SECONDS,
        secrets: SecretSources | None = None,
        any_host: bool = False,
    ) -> None:
        """``authenticate`` logs in to a cloud, and ``read_tls`` reads its TLS options. Both block.
        ``secrets``: where other credentials may be; None: where they may be by default.
        ``any_host``: a cloud's credential may be sent to hosts that its catalog does not have,
        since an operator has listed the hosts that are allowed."""
        self.secrets = secrets or SecretSources()
        self._any_host = any_host
        self._authenticate = authenticate
        self._read_tls = read_tls
        self._retry_seconds = retry_seconds
        self._clouds: dict[CloudRef, _Cloud] = {}
        self._free_threads = asyncio.Semaphore(MAX_PARALLEL_LOGINS)
        self._calls: set[asyncio.Future[Any]] = set()
        self._closed = False

    @classmethod
    def of(cls, settings: Settings) -> CloudCredentials:
        """Those of a process with these settings."""
        return cls(secrets=SecretSources.of(settings), any_host=bool(settings.allowed_hosts))

    async def auth_headers(self, ref: CloudRef) -> AuthHeaders:
        """A credential of a cloud that is valid for some time to come.

        Raises:
            LocationUnavailable: there is none to be had.
        """
        cloud = self._clouds.setdefault(ref, _Cloud())
        async with cloud.lock:
            now = time.monotonic()
            if cloud.current is not None and now < cloud.current.valid_until:
                return cloud.current
            if cloud.failure is not None and now < cloud.tried_at + self._retry_seconds:
                # A new exception: a stored one would collect the traceback of each task.
                failure = cloud.failure
                raise LocationUnavailable(failure.detail, code=failure.problem_code)
            cloud.tried_at = now
            try:
                cloud.current = await self._in_thread(self._authenticate, ref)
                cloud.failure = None
            except LocationUnavailable as error:
                cloud.current = None
                cloud.failure = LocationUnavailable(error.detail, code=error.problem_code)
                raise
            return cloud.current

    async def stay_logged_in(self, clouds: Callable[[], Iterable[CloudRef]]) -> None:
        """Logs in to these clouds before a client has to wait for it, until the task is cancelled.
        Those who ask get the reason of a login that failed."""
        while True:
            logins = map(self.auth_headers, set(clouds()))
            await asyncio.gather(*logins, return_exceptions=True)
            await asyncio.sleep(LOGIN_INTERVAL_SECONDS)

    def is_logging_in(self, ref: CloudRef) -> bool:
        """Whether a login is under way."""
        return ref in self._clouds and self._clouds[ref].lock.locked()

    async def tls(self, ref: CloudRef) -> ssl.SSLContext | None:
        """How to speak TLS with the servers of a cloud; None for the default.

        Raises:
            LocationUnavailable: clouds.yaml cannot be read, or a file that it names (``bad-tls``).
        """
        cloud = self._clouds.setdefault(ref, _Cloud())
        async with cloud.tls_lock:
            if time.monotonic() >= cloud.tls_until:
                lifetime = TLS_LIFETIME_SECONDS
                try:
                    cloud.tls = await self._in_thread(self._read_tls, ref)
                    cloud.tls_failure = None
                except LocationUnavailable as error:
                    cloud.tls_failure, lifetime = error, self._retry_seconds
                cloud.tls_until = time.monotonic() + lifetime
            failure = cloud.tls_failure
            if failure is not None:
                raise LocationUnavailable(failure.detail, code=failure.problem_code)
            return cloud.tls

    def invalidate_if_new(self, ref: CloudRef, refused: AuthHeaders) -> bool:
        """Drops a cached credential that a server refused; returns whether to retry with another.

        False if the cloud's last one was refused just now as well: then the server does not trust
        this cloud, and another credential would not help.
        """
        cloud = self._clouds.setdefault(ref, _Cloud())
        if cloud.current is not refused:
            return True  # it has been replaced already
        now = time.monotonic()
        if cloud.invalidated_at and now < cloud.invalidated_at + self._retry_seconds:
            return False
        cloud.invalidated_at = now
        cloud.current = None
        return True

    def forget_failure(self, location: Location) -> None:
        """Has the next who needs the credential of a location try again at once, whatever failed
        just now: an operator may have repaired it."""
        ref = cloud_of(location)
        if ref is not None and (cloud := self._clouds.get(ref)):
            cloud.failure, cloud.tls_until = None, 0.0

    def check_host(self, ref: CloudRef, credential: AuthHeaders, host: str) -> None:
        """Raises LocationUnavailable if a credential of this cloud must not be sent to a host."""
        if self._any_host or credential.hosts is None or host.lower() in credential.hosts:
            return
        raise cloud_error(
            ref,
            f" has no endpoint on {host}, so its credential is not sent there: use a URL of its "
            "catalog, or list the hosts that are allowed in RESOLVER_ALLOWED_HOSTS",
            code="not-allowed",
        )

    def close(self) -> None:
        """Abandons logins under way; those who wait for one get LocationUnavailable."""
        self._closed = True
        for call in self._calls:
            if not call.done():
                call.set_exception(_stopping())

    async def _in_thread(self, function: Callable[[CloudRef], T], ref: CloudRef) -> T:
        """What a function that blocks returns, called in a thread of its own."""
        loop = asyncio.get_running_loop()
        async with self._free_threads:
            if self._closed:
                raise _stopping()
            call: asyncio.Future[T] = loop.create_future()

            def end(settle: Callable[[Any], None], outcome: object) -> None:
                if not call.done():  # neither cancelled nor abandoned
                    settle(outcome)

            def run() -> None:
                settle: Callable[[Any], None] = call.set_result
                outcome: object
                try:
                    outcome = function(ref)
                except BaseException as error:
                    settle, outcome = call.set_exception, error
                with contextlib.suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(end, settle, outcome)

            threading.Thread(target=run, name=f"cloud:{ref.name}", daemon=True).start()
            self._calls.add(call)
            try:
                return await call
            finally:
                self._calls.discard(call)


def _stopping() -> LocationUnavailable:
    return LocationUnavailable("this process is stopping", code="no-credential")
