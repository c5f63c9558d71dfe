"""What the credentials of locations were found to see, for all in this process that ask.

A proof is expensive: it lists images and tasks. To repeat one takes one small request.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import NamedTuple

from resolver.errors import LocationUnavailable
from resolver.glance.credential_scope import CredentialScope, sees_all, still_sees_all
from resolver.glance.glance_server import GlanceServer
from resolver.models import Location
from resolver.task_groups import end_all

SCOPE_CACHE_SECONDS = 300.0
"""How long a proof is repeated before everything is found out again."""


class _CachedScope(NamedTuple):
    credential: str
    location: Location
    """As it was registered then."""
    versions: tuple[str, ...]
    """Of the server, as far as they were known: what proves something depends on them."""
    found_at: float
    """When it was found out, on `time.monotonic`."""
    checked_at: float
    """When it was last repeated."""
    scope: CredentialScope


class ScopeCache:
    """The scopes of the credentials of all locations."""

    def __init__(self) -> None:
        self._scopes: dict[int, _CachedScope] = {}
        """By location number."""
        self._checks: dict[int, asyncio.Task[_CachedScope]] = {}
        """The check for `check_since` that is under way, by location number. It serves all that
        wait for it."""

    async def check(
        self, server: GlanceServer, versions: tuple[str, ...], *, was_proven: bool = False
    ) -> CredentialScope:
        """What the location's credential sees now. The server is asked in any case: for little if
        there is a proof to repeat. ``was_proven``: as for `sees_all`.

        Raises:
            LocationUnavailable: as `sees_all`.
        """
        return (await self._check(server, versions, was_proven)).scope

    async def check_since(
        self,
        server: GlanceServer,
        versions: tuple[str, ...],
        credential: str,
        at: float,
        *,
        was_proven: bool = False,
    ) -> CredentialScope:
        """What this ``credential`` sees, as it was checked after ``at`` (`time.monotonic`), when
        the server gave an answer to it.

        A credential can lose its rights at any time, and some servers answer an invalid one as
        they answer anonymous clients. So the check must begin after the answer; one check serves
        all answers from before it. A location without a credential is checked too, unless its
        `sees_all` is registered: the server may need one by now.

        Raises:
            LocationUnavailable: as `sees_all`, or the credential has been replaced since.
        """
        location = server.location
        while True:
            cached = self._usable(location, versions, credential)
            is_registered = location.auth is None and location.sees_all is not None
            if cached and (is_registered or cached.checked_at >= at):
                return cached.scope
            check = self._checks.get(location.number)
            # A check that is done stays here until the loop's next turn. To await it would not end
            # this turn.
            if check is None or check.done():
                check = asyncio.create_task(self._check(server, versions, was_proven))
                self._checks[location.number] = check
                check.add_done_callback(partial(self._end_check, location.number))
            # A caller that waits may be cancelled; the result still serves later ones.
            if (await asyncio.shield(check)).credential != credential:
                raise LocationUnavailable(
                    "its credential was replaced meanwhile", code="no-clear-answer"
                )

    def _usable(
        self, location: Location, versions: tuple[str, ...], credential: str
    ) -> _CachedScope | None:
        cached = self._scopes.get(location.number)
        if (
            cached is None
            or (cached.credential, cached.location) != (credential, location)
            or cached.versions != versions
            or time.monotonic() - cached.found_at > SCOPE_CACHE_SECONDS
        ):
            return None
        return cached

    async def _check(
        self, server: GlanceServer, versions: tuple[str, ...], was_proven: bool
    ) -> _CachedScope:
        """Finds out or confirms what the credential sees, and caches it."""
        started_at = time.monotonic()
        location = server.location
        cached = self._usable(location, versions, await server.credential())
        scope = (
            await still_sees_all(server, versions, cached.scope, was_proven=was_proven)
            if cached
            else await sees_all(server, versions, was_proven=was_proven)
        )
        found_at = cached.found_at if cached and scope is cached.scope else started_at
        checked = _CachedScope(
            await server.credential(), location, versions, found_at, started_at, scope
        )
        self._scopes[location.number] = checked
        return checked

    def _end_check(self, number: int, check: asyncio.Task[_CachedScope]) -> None:
        if self._checks.get(number) is check:
            del self._checks[number]
        if not check.cancelled():
            check.exception()  # mark it as retrieved: those who waited may have given up

    async def close(self) -> None:
        """Ends the checks that are under way."""
        await end_all(self._checks.values())
