"""Caches one Keystone credential for each cloud of clouds.yaml, for the whole process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from resolver.errors import LocationUnavailable
from resolver.glance.keystone import AuthHeaders, authenticate

AUTH_RETRY_SECONDS = 2.0
"""Least time between two logins to a cloud that gave no token, or whose new token was refused."""

MAX_PARALLEL_LOGINS = 4


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


class CloudCredentials:
    """The credentials of a process, one for each cloud, shared by all that ask locations.

    keystoneauth blocks, so each login runs in a thread. The threads are daemons: a slow Keystone
    does not delay the exit of the process. They are not those of the event loop's default executor,
    where host names are resolved.
    """

    def __init__(
        self,
        authenticate: Callable[[str], AuthHeaders] = authenticate,
        *,
        retry_seconds: float = AUTH_RETRY_SECONDS,
    ) -> None:
        """``authenticate`` logs in to a cloud, by its name, and blocks meanwhile."""
        self._authenticate = authenticate
        self._retry_seconds = retry_seconds
        self._clouds: dict[str, _Cloud] = {}
        self._free_threads = asyncio.Semaphore(MAX_PARALLEL_LOGINS)
        self._logins: set[asyncio.Future[AuthHeaders]] = set()
        self._closed = False

    async def auth_headers(self, name: str) -> AuthHeaders:
        """A credential of a cloud that is valid for some time to come.

        Raises:
            LocationUnavailable: there is none to be had.
        """
        cloud = self._clouds.setdefault(name, _Cloud())
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
                cloud.current = await self._log_in(name)
                cloud.failure = None
            except LocationUnavailable as error:
                cloud.current = None
                cloud.failure = LocationUnavailable(error.detail, code=error.problem_code)
                raise
            return cloud.current

    def invalidate_if_new(self, name: str, refused: AuthHeaders) -> bool:
        """Drops a cached credential that a server refused; returns whether to retry with another.

        False if the cloud's last one was refused just now as well: then the server does not trust
        this cloud, and another credential would not help.
        """
        cloud = self._clouds.setdefault(name, _Cloud())
        if cloud.current is not refused:
            return True  # it has been replaced already
        now = time.monotonic()
        if cloud.invalidated_at and now < cloud.invalidated_at + self._retry_seconds:
            return False
        cloud.invalidated_at = now
        cloud.current = None
        return True

    def close(self) -> None:
        """Abandons logins under way; those who wait for one get LocationUnavailable."""
        self._closed = True
        for login in self._logins:
            if not login.done():
                login.set_exception(_stopping())

    async def _log_in(self, name: str) -> AuthHeaders:
        """Logs in, in a thread of its own."""
        loop = asyncio.get_running_loop()
        async with self._free_threads:
            if self._closed:
                raise _stopping()
            login: asyncio.Future[AuthHeaders] = loop.create_future()

            def end(settle: Callable[[Any], None], outcome: object) -> None:
                if not login.done():  # neither cancelled nor abandoned
                    settle(outcome)

            def run() -> None:
                settle: Callable[[Any], None] = login.set_result
                outcome: object
                try:
                    outcome = self._authenticate(name)
                except BaseException as error:
                    settle, outcome = login.set_exception, error
                with contextlib.suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(end, settle, outcome)

            threading.Thread(target=run, name=f"keystone:{name}", daemon=True).start()
            self._logins.add(login)
            try:
                return await login
            finally:
                self._logins.discard(login)


def _stopping() -> LocationUnavailable:
    return LocationUnavailable("this process is stopping", code="no-credential")
