"""Tests a location from end to end, for an operator who wants to know what to fix."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import aiohttp

from resolver.errors import LocationUnavailable
from resolver.glance.credential_scope import sees_all
from resolver.glance.glance_server import GlanceServer
from resolver.glance.listing import V1_LISTING
from resolver.glance.listing_filters import bad_listing, listing_gap
from resolver.models import Api, Location, api_versions

STEP_TIMEOUT_SECONDS = 5.0
"""For each step: an operator waits for the result."""

FIXES = {
    "unreachable": "see that the server runs, and that its name and port lead to it from here",
    "timeout": "see why the server is slow, or give it more time (RESOLVER_LOCATION_TIMEOUT)",
    "bad-tls": "give the server a certificate for its name, or this machine its CA (SSL_CERT_FILE, "
    "or `cacert` of its cloud in clouds.yaml)",
    "bad-proxy": "correct HTTPS_PROXY and HTTP_PROXY of this process, or name the host in NO_PROXY",
    "not-glance": "give the base URL of a Glance server (`locations set NAME --url URL`)",
    "junk": "give the base URL of a Glance server (`locations set NAME --url URL`)",
    "too-long": "shorten the properties of its largest images: one may have 16 MiB in a listing, "
    "and 10,000 members",
    "cut": "read the log of the server, and of any proxy in front of it",
    "server-error": "read the server's log",
    "not-allowed": "add the host to RESOLVER_ALLOWED_HOSTS, or use https",
    "loop": "register the Glance servers behind it instead",
    "unauthorized": "give it a credential that the server accepts (`locations set NAME --cloud …`, "
    "`--token-file …` or `--token-env …`)",
    "rate-limited": "give it the requests a second that the server allows (`locations set NAME "
    "--rate …`)",
    "no-changes": "give it `notifications`, or rely on its sweeps (RESOLVER_SWEEP_INTERVAL)",
    "bad-listing": "see which parameters `GET /v2/images` has there; images that are asked for "
    "are found all the same",
    "listing-gap": "leave RESOLVER_PROBE on, so that it is asked; or let the others prove absence "
    "without it (`locations set NAME --vouches false`)",
    "no-credential": "put the credential where `auth` says, on the hosts of gateways and indexers, "
    "and see that the Keystone of a cloud answers there",
}
"""What to do about a failure, by its code."""

DEFAULT_FIX = "read the server's log"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tested."""

    name: str
    ok: bool
    message: str
    fix: str = ""
    """What to do where it is not ok."""


async def diagnose(
    server: GlanceServer, session: aiohttp.ClientSession, *, was_proven: bool = False
) -> list[Step]:
    """Tests versions, health, credential, listing and what the credential sees, in that order. A
    step that needs a failed one is left out. Never raises for a bad server.

    ``session``: for requests without a credential. ``was_proven``: see `sees_all`."""
    location = server.location
    try:
        versions = await _in_time(server.versions())
    except LocationUnavailable as error:
        failed = _failed("versions", location, error)
        if other := await _url_of_other_scheme(session, location, error.problem_code):
            fix = (
                f"a Glance server answers at {other}: `locations set {location.name} --url {other}`"
            )
            failed = replace(failed, fix=fix)
        return [failed]
    steps = [
        Step("versions", True, ", ".join(_newest_first(versions))),
        *_check_api(location, versions),
    ]
    steps.append(await _run("health", location, _check_health(server)))
    for name, check in (
        ("credential", _check_credential),
        ("listing", _check_listing),
        ("sees all", partial(_check_scope, was_proven=was_proven)),
    ):
        step = await _run(name, location, check(server, versions))
        steps.append(step)
        if not step.ok:
            break
    return steps


SCHEME_CODES = frozenset({"timeout", "cut", "unreachable", "not-glance", "junk"})
"""Failures that https at a port for http has, or http at one for https."""

OTHER_SCHEME_SECONDS = 2.0
"""How long the other is tried. What is not a server of that scheme may never answer."""


async def _url_of_other_scheme(
    session: aiohttp.ClientSession, location: Location, code: str
) -> str:
    """The location's URL with https in place of http or the reverse, where a Glance server
    answers there; else empty. ``code``: of the failure at its own URL."""
    scheme, _, rest = location.url.partition("://")
    other = f"{'http' if scheme == 'https' else 'https'}://{rest}"
    if code in SCHEME_CODES:
        with contextlib.suppress(LocationUnavailable):
            versions = GlanceServer(session, Location(name="", url=other)).versions()
            await _in_time(versions, OTHER_SCHEME_SECONDS)
            return other
    return ""


T = TypeVar("T")


async def _in_time(check: Awaitable[T], seconds: float = STEP_TIMEOUT_SECONDS) -> T:
    """What ``check`` returns within that time.

    Raises:
        LocationUnavailable: from ``check``, or because it took too long.
    """
    try:
        async with asyncio.timeout(seconds):
            return await check
    except TimeoutError as error:
        raise LocationUnavailable(f"no answer within {seconds:g} s", code="timeout") from error


async def _run(name: str, location: Location, check: Awaitable[Step]) -> Step:
    """The step that ``check`` returns, or one that describes why it failed."""
    try:
        return await _in_time(check)
    except LocationUnavailable as error:
        return _failed(name, location, error)


def _failed(name: str, location: Location, error: LocationUnavailable) -> Step:
    return failed_step(name, location, error.problem_code, error.detail)


def _newest_first(versions: tuple[str, ...]) -> list[str]:
    """Servers list them in an order of their own."""
    return sorted(
        versions, key=lambda version: [*map(int, re.findall(r"\d+", version))], reverse=True
    )


def failed_step(name: str, location: Location, code: str, message: str) -> Step:
    """A step that failed, with what to do about an error of this code."""
    return Step(name, False, message, FIXES.get(code, DEFAULT_FIX).replace("NAME", location.name))


def _check_api(location: Location, versions: tuple[str, ...]) -> list[Step]:
    """A failed step where the location is registered with an API that it does not serve."""
    v1, v2 = api_versions(versions)
    if location.api is Api.AUTO or (v1 if location.api is Api.V1 else v2):
        return []
    message = f"it is registered with {location.api}, which it does not serve"
    return [Step("api", False, message, f"`locations set {location.name} --api auto`")]


async def _check_health(server: GlanceServer) -> Step:
    healthy = await server.healthy()
    return Step("health", True, "/healthcheck says OK" if healthy else "it has no /healthcheck")


async def _check_credential(server: GlanceServer, _: tuple[str, ...]) -> Step:
    auth = server.location.auth
    if auth is None:
        return Step("credential", True, "none is set")
    roles = await server.roles()
    where = ", ".join(f"{kind} {place}" for kind, place in auth.items())
    known = "" if roles is None else f", roles on its project: {', '.join(roles) or 'none'}"
    return Step("credential", True, f"from {where}{known}")


async def _check_listing(server: GlanceServer, versions: tuple[str, ...]) -> Step:
    uses_v2 = server.uses_v2(versions)
    path, query = ("/v2/images", {}) if uses_v2 else ("/v1/images/detail", V1_LISTING)
    reply = await server.request(path, {**query, "limit": "1"})
    if reply.status == 403:
        raise LocationUnavailable(f"{path} answered {reply.status}", code="unauthorized")
    gap = await listing_gap(server) if uses_v2 else ""
    if reply.status != 200:
        raise bad_listing(reply.status)
    await reply.page(1)
    return Step("listing", True, f"{path} can be listed{gap and f', but {gap}'}")


async def _check_scope(
    server: GlanceServer, versions: tuple[str, ...], *, was_proven: bool
) -> Step:
    scope = await sees_all(server, versions, was_proven=was_proven)
    if scope.sees_all:
        return Step("sees all", True, scope.why)
    return Step(
        "sees all",
        False,
        scope.why,
        "give it the credential of an admin, or set `sees_all` if it sees every image all the same "
        f"(`locations set {server.location.name} --sees-all yes`): until then no image is called "
        "absent",
    )
