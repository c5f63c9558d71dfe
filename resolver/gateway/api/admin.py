"""What the admin paths share: who asks, what they may do, and that it is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial, wraps

import structlog
from aiohttp import web

from resolver.admin_tokens import Role
from resolver.errors import (
    Forbidden,
    IndexReadOnly,
    IndexUnavailable,
    ResolverError,
    Unauthorized,
)
from resolver.gateway.app_keys import ADMIN, METRICS, REQUEST_ID, ROLE, SERVICES, TOKENS
from resolver.gateway.limits import LIMITS
from resolver.gateway.methods import READ_METHODS
from resolver.index import Audit

LOG_INTERVAL_SECONDS = 10.0
"""Between two log lines about refused logins."""

AUDIT_INTERVAL_SECONDS = 60.0
"""Between two entries of the audit log about refused logins of one process: the log keeps a bounded
number of entries, which nobody without a token may push out."""

NOBODY = "(nobody)"
"""Who did it, for the audit log, where there was no valid token. No token can have this name."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger("audit")


class Refusals:
    """Reports refusals of one kind: the first at once, more as a number when the interval is over,
    in the log and in the audit log."""

    def __init__(self, audit: Audit, event: str) -> None:
        """``event``: two words for the log. With a hyphen it is that of the audit log."""
        self._audit = audit
        self._event = event
        self._unlogged = self._unaudited = 0
        self._logged_at = self._audited_at = -AUDIT_INTERVAL_SECONDS
        """On `time.monotonic`."""
        self._last = ("", "", "", "")
        """By whom, from where, which path and why."""
        self._later: asyncio.Task[None] | None = None

    async def report(self, by: str, client: str, path: str, reason: str) -> None:
        """Reports one more. ``by``: the name of the admin token, or `NOBODY`."""
        self._last = by, client, path, reason
        self._unlogged += 1
        self._unaudited += 1
        await self._write()
        if (self._unlogged or self._unaudited) and (self._later is None or self._later.done()):
            self._later = asyncio.create_task(self._write_later(), name=self._event)

    async def close(self) -> None:
        """Reports what is left."""
        if self._later is not None:
            self._later.cancel()
        self._logged_at = self._audited_at = -AUDIT_INTERVAL_SECONDS
        await self._write()

    async def _write_later(self) -> None:
        while self._unlogged or self._unaudited:
            await asyncio.sleep(LOG_INTERVAL_SECONDS)
            await self._write()

    async def _write(self) -> None:
        """Writes what is due."""
        (by, client, path, reason), now = self._last, time.monotonic()
        if self._unlogged and now - self._logged_at >= LOG_INTERVAL_SECONDS:
            log.warning(self._event, client=client, path=path, reason=reason, count=self._unlogged)
            self._unlogged, self._logged_at = 0, now
        if self._unaudited and now - self._audited_at >= AUDIT_INTERVAL_SECONDS:
            detail = f"{self._unaudited} refused, the last from {client}: {reason}"
            self._unaudited, self._audited_at = 0, now
            what = self._event.replace(" ", "-")
            with contextlib.suppress(IndexUnavailable):  # it is refused anyway
                await self._audit.record(by, what, detail=detail)


AUDITED = web.RequestKey("audited", dict[str, str])
"""Key on a request: what the log line says besides its path, since Redis may lose the audit log."""


class RefusalsByToken:
    """Refusals of known tokens, each counted by itself."""

    def __init__(self, audit: Audit, event: str) -> None:
        self._by_token: defaultdict[str, Refusals] = defaultdict(partial(Refusals, audit, event))

    async def report(self, by: str, client: str, path: str, reason: str) -> None:
        """Reports one more, as `Refusals.report`."""
        await self._by_token[by].report(by, client, path, reason)

    async def close(self) -> None:
        """Reports what is left."""
        for refusals in self._by_token.values():
            await refusals.close()


REFUSED_LOGINS = web.AppKey("refused_logins", Refusals)
"""Of unknown tokens."""

REFUSED_CHANGES = web.AppKey("refused_changes", RefusalsByToken)
"""Of changes that the role of a token does not allow."""


async def authorize(request: web.Request, roles: frozenset[Role]) -> None:
    """Finds out whose admin token a request has, for `ADMIN` and `ROLE`.

    ``roles``: those that may do this, besides `Role.ADMIN`. Every role may read.

    Raises:
        Forbidden: no admin token is configured, or this one may not do that.
        Unauthorized: the request has no token, or an unknown one.
        TooManyRequests: this client has had too many logins refused.
    """
    app = request.app
    client = app[LIMITS].client(request)
    app[LIMITS].check_logins(client)
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    token = sent.strip().encode("utf-8", "surrogateescape")
    admin = app[TOKENS].find(token)
    if admin is None or scheme.lower() != "bearer":
        if token:
            app[LIMITS].count_refused_login(client)
            app[METRICS].count_refused_login()
            await _report(request, REFUSED_LOGINS, NOBODY, "no such token")
        raise Unauthorized(
            "this token is not in the gateway's RESOLVER_ADMIN_TOKENS; of a line `NAME=TOKEN` or "
            "`NAME:ROLE=TOKEN` only TOKEN is sent"
            if token and scheme.lower() == "bearer"
            else "send `Authorization: Bearer <token>` with one of RESOLVER_ADMIN_TOKENS",
            headers={"WWW-Authenticate": 'Bearer realm="glance-resolver"'},
        )
    request[ADMIN], request[ROLE] = admin.name, admin.role
    if request.method in READ_METHODS or admin.role is Role.ADMIN or admin.role in roles:
        return
    raise await role_error(request)


async def role_error(request: web.Request) -> Forbidden:
    """The error for a token whose role is not enough. It is counted, logged and recorded."""
    name, role = request[ADMIN], request[ROLE]
    request.app[METRICS].count_refused_change()
    await _report(request, REFUSED_CHANGES, name, f"token {name} has the role {role!s}")
    if role is Role.RO:
        return Forbidden(f"the token {name!r} may only read", code="read-only-token")
    return Forbidden(
        f"the token {name!r} has the role {role!s}, which may not do that", code="wrong-role"
    )


async def _report(
    request: web.Request,
    refusals: web.AppKey[Refusals] | web.AppKey[RefusalsByToken],
    by: str,
    reason: str,
) -> None:
    client = request.app[LIMITS].client_address(request) or "a local socket"
    await request.app[refusals].report(by, client, request.path[:256], reason)


def admin_only(handler: Handler) -> Handler:
    """Makes a handler require an admin token: to change something, one of the role ``admin``."""
    return allow()(handler)


def allow(*roles: Role) -> Callable[[Handler], Handler]:
    """The same where other roles may change something, too. Each such request is logged."""
    allowed = frozenset(roles)

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(request: web.Request) -> web.StreamResponse:
            await authorize(request, allowed)
            if request.method in READ_METHODS:
                return await handler(request)
            status = 500
            try:
                response = await handler(request)
                status = response.status
            except ResolverError as error:
                status = error.status
                raise
            else:
                return response
            finally:
                log.info(
                    "admin",
                    admin=request[ADMIN],
                    method=request.method,
                    path=request.path[:256],
                    status=status,
                    client=request.app[LIMITS].client_address(request),
                    request_id=request[REQUEST_ID],
                    **request.get(AUDITED, {}),
                )

        return guarded

    return decorate


async def audit(request: web.Request, what: str, location: str = "", detail: str = "") -> None:
    """Records in the audit log what the admin of a request does. To be called before it is done.

    Raises:
        IndexUnavailable: it cannot be recorded, so it must not be done.
    """
    await request.app[SERVICES].index.audit.record(request[ADMIN], what, location, detail)
    request[AUDITED] = {"what": what, **({"detail": detail} if detail else {})}


async def audit_read(request: web.Request, what: str) -> None:
    """The same for what changes nothing: a process that must not write to the index may do it, and
    logs it."""
    with contextlib.suppress(IndexReadOnly):
        await audit(request, what)
    log.info(what, admin=request[ADMIN], request_id=request[REQUEST_ID])
