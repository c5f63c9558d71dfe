"""Which tokens Keystone accepts, and of which domain each is."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from resolver.errors import ImageUnknown, LocationUnavailable, TokenRequired, TokenUnchecked
from resolver.fault_log import FaultLog
from resolver.models import Location
from resolver.problems import Problem
from resolver.registry import Table
from resolver.resolution import RETRY_AFTER_SECONDS
from resolver.resolution.prober import ChargeCallback
from resolver.task_groups import end_all

MAX_TOKEN_SECONDS = 300.0
"""How long an accepted token is remembered at most; never past its end."""

REFUSED_SECONDS = 10.0
"""How long a refused one is: clients that repeat it cost Keystone little."""

MAX_TOKENS = 20_000
"""Tokens that are remembered, and as many refused ones; some 300 bytes each."""

MAX_TOKEN_BYTES = 8192

MAX_CHECKS = 64
"""Tokens that are being checked at the same time."""

CheckToken = Callable[[str, Location | None, str], Awaitable[float | None]]
"""How long a Keystone accepts a token; see `resolver.glance.TokenChecks.seconds_left`."""


class Caller(NamedTuple):
    """A client whose token a Keystone accepts."""

    key: bytes
    """A keyed hash of the token. The key is this process's own, and random."""
    domain: str
    """The domain whose Keystone accepts it."""
    until: float
    """How long that may be believed, on `time.monotonic`."""


class CallerTokens:
    """Checks clients' tokens, and remembers for a short time what Keystone answered."""

    def __init__(
        self,
        check: CheckToken,
        read_table: Callable[[], Awaitable[Table]],
        domains: Mapping[str, str],
    ) -> None:
        """``domains``: the URL of each domain's Keystone, as far as the settings name it."""
        self._check = check
        self._read_table = read_table
        self._domains = domains
        self._secret = secrets.token_bytes(32)
        self._accepted: dict[bytes, Caller] = {}
        """Oldest first."""
        self._refused: dict[tuple[bytes, tuple[str, ...]], float] = {}
        """When to ask again, by the token and the domains that were asked; oldest first."""
        self._checks: dict[tuple[bytes, tuple[str, ...]], asyncio.Task[Caller | None]] = {}
        """Under way. All requests with the same token wait for one."""
        self._failures: dict[str, str] = {}
        """Why a domain's Keystone gave no answer when it was asked last."""
        self._fault_logs: defaultdict[str, FaultLog] = defaultdict(
            lambda: FaultLog(__name__, "tokens not checked", "tokens checked again")
        )
        """By domain."""

    def remembered(self, token: str) -> Caller | None:
        """Who sends this token, if that is known without asking anybody."""
        caller = self._accepted.get(self._key(token)) if token else None
        return caller if caller is not None and time.monotonic() < caller.until else None

    async def identify(self, token: str, region: str, charge: ChargeCallback) -> Caller:
        """Who sends this token.

        Where there are several domains, the token is of the first whose Keystone accepts it, in the
        order of the settings. A client that prefers a region which is all of one domain has its
        token sent to that domain's Keystone only.

        Args:
            token: empty for none.
            region: that the client prefers; empty for none.
            charge: called before a Keystone is asked.

        Raises:
            TokenRequired: there is no token, or no Keystone accepts it.
            TokenUnchecked: some Keystone gave no answer, and no other accepts it.
            ImageUnknown: no location is registered.
            IndexUnavailable: the locations are not known.
            TooManyRequests: from ``charge``.
        """
        if not token:
            raise token_error("This gateway answers only those who send a token of Keystone")
        if (caller := self.remembered(token)) is not None:
            return caller
        if len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.isprintable():
            raise token_error("the token is not one that Keystone issues")
        table = await self._read_table()
        domains = self._candidates(table, region)
        if not domains:
            raise ImageUnknown(
                "no location is registered", code="no-location", headers={"Retry-After": "5"}
            )
        key = self._key(token), domains
        if self._refused.get(key, 0.0) <= time.monotonic():
            caller = await self._check_once(key, token, table, charge)
        if caller is None:
            raise token_error("Keystone does not accept the token")
        return caller

    def _key(self, token: str) -> bytes:
        return blake2b(token.encode(), key=self._secret, digest_size=16).digest()

    def _candidates(self, table: Table, region: str) -> tuple[str, ...]:
        """The domains that a client's token may be of, in the order in which they are asked."""
        locations = [view.location for view in table.by_name.values()]
        there = {location.domain for location in locations}
        pinned = {location.domain for location in locations if location.region == region != ""}
        if len(pinned) == 1:
            return tuple(pinned)
        named = [domain for domain in self._domains if domain in there]
        return (*named, *sorted(there - set(named)))

    async def _check_once(
        self, key: tuple[bytes, tuple[str, ...]], token: str, table: Table, charge: ChargeCallback
    ) -> Caller | None:
        check = self._checks.get(key)
        if check is None:
            charge(1)
            if len(self._checks) >= MAX_CHECKS:
                raise _unchecked("too many tokens are being checked")
            check = asyncio.create_task(self._ask_all(key, token, table), name="token check")
            self._checks[key] = check
            check.add_done_callback(partial(self._end_check, key))
        return await asyncio.shield(check)

    def _end_check(
        self, key: tuple[bytes, tuple[str, ...]], check: asyncio.Task[Caller | None]
    ) -> None:
        del self._checks[key]
        if not check.cancelled():
            check.exception()  # retrieved, also if every client has left

    async def _ask_all(
        self, key: tuple[bytes, tuple[str, ...]], token: str, table: Table
    ) -> Caller | None:
        """Asks one Keystone after another, so that a token goes to as few as possible."""
        digest, domains = key
        silent = {}
        for domain in domains:
            started = time.monotonic()
            try:
                left = await self._check(
                    self._domains.get(domain, ""), _credential_of(table, domain), token
                )
            except LocationUnavailable as error:
                silent[domain] = self._failures[domain] = error.detail
                self._fault_logs[domain].record_failure(error.detail, domain=domain)
                continue
            self._fault_logs[domain].record_success(domain=domain)
            self._failures.pop(domain, None)
            if left is not None:
                caller = Caller(digest, domain, started + min(left, MAX_TOKEN_SECONDS))
                self._accepted.pop(digest, None)
                self._accepted[digest] = caller
                _shrink(self._accepted)
                return caller
        if silent:
            raise _unchecked("; ".join(_named(domain, why) for domain, why in silent.items()))
        self._refused.pop(key, None)
        self._refused[key] = time.monotonic() + REFUSED_SECONDS
        _shrink(self._refused)
        return None

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        for domain, why in self._failures.items():
            yield Problem(
                code="token-check",
                text=f"Clients' tokens cannot be checked. {_named(domain, why)}.",
                action="Check that Keystone, the network to it and RESOLVER_DOMAINS.",
            )

    async def close(self) -> None:
        """Ends the checks that are under way."""
        await end_all(self._checks.values())


def _credential_of(table: Table, domain: str) -> Location | None:
    """A location with a credential of the domain's Keystone: one of a cloud, whose URL is known
    with it, before others."""
    found = [
        location
        for name in sorted(table.by_name)
        if (location := table.by_name[name].location).domain == domain and location.auth
    ]
    return min(found, key=lambda location: "cloud" not in (location.auth or {}), default=None)


def _shrink(remembered: dict[bytes, Caller] | dict[tuple[bytes, tuple[str, ...]], float]) -> None:
    if len(remembered) > MAX_TOKENS:
        del remembered[next(iter(remembered))]  # type: ignore[arg-type]


def _named(domain: str, why: str) -> str:
    return f"Keystone of domain {domain}: {why}" if domain else f"Keystone: {why}"


def _unchecked(why: str) -> TokenUnchecked:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return TokenUnchecked(f"The token could not be checked. {why}.", headers=headers)


def token_error(why: str) -> TokenRequired:
    """The error for a request without a token that is accepted. RFC 9110, 15.5.2, wants the
    challenge; that of Keystone's own middleware names its URL, which is not known here."""
    return TokenRequired(
        f"{why}: send a valid X-Auth-Token.", headers={"WWW-Authenticate": "Keystone"}
    )
