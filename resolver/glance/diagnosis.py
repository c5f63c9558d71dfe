"""Trying a location from end to end, for an operator who wants to know what to fix."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from resolver.errors import LocationUnavailable
from resolver.glance.credential_scope import sees_all
from resolver.glance.glance_server import Server
from resolver.glance.listing import V1, V2
from resolver.models import Api, api_versions

PATIENCE = 5.0
"""Seconds for each step: somebody waits."""

FIXES = {
    "unreachable": "see that the server runs, and that its name and port lead to it from here",
    "timeout": "see why the server is slow, or give it more time (RESOLVER_LOCATION_TIMEOUT)",
    "bad-tls": "give the server a certificate for its name, or this machine its CA (SSL_CERT_FILE)",
    "not-glance": "give the base URL of a Glance server (`locations set NAME --base-url URL`)",
    "junk": "give the base URL of a Glance server (`locations set NAME --base-url URL`)",
    "cut": "look at the server's log, and at what stands between",
    "server-error": "look at the server's log",
    "not-allowed": "add the host to RESOLVER_ALLOWED_HOSTS, or use https",
    "loop": "register the Glance servers behind it instead",
    "unauthorized": "give it a credential that the server accepts (`locations set NAME --cloud …`, "
    "`--token-file …` or `--token-env …`)",
    "no-credential": "put the credential where `auth` says, for the process that needs it",
}
"""What to do about a failure, by its code."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried."""

    name: str
    ok: bool
    said: str
    fix: str = ""
    """What to do where it is not ok."""


async def diagnose(server: Server) -> list[Step]:
    """Tries reachability, health, versions, credential, listing and what it sees, in that order,
    up to the first that the others cannot do without. Never raises for a bad server."""
    steps: list[Step] = []
    versions: tuple[str, ...] = ()

    async def attempt(name: str, what: Callable[[], Awaitable[Step]]) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                step = await what()
        except TimeoutError:
            step = Step(name, False, f"no answer within {PATIENCE:g} s", FIXES["timeout"])
        except LocationUnavailable as error:
            fix = FIXES.get(error.problem_code, "look at the server's log")
            step = Step(name, False, error.detail, fix.replace("NAME", server.location.name))
        steps.append(step)
        return step.ok

    async def reach() -> Step:
        nonlocal versions
        versions = await server.versions()
        return Step("versions", True, ", ".join(versions))

    async def health() -> Step:
        there = await server.healthy()
        return Step("health", True, "/healthcheck says OK" if there else "it has no /healthcheck")

    async def credential() -> Step:
        auth = server.location.auth
        if auth is None:
            return Step("credential", True, "none is set")
        roles = await server.roles()
        kind, where = next(iter(auth.items()))
        known = "" if roles is None else f", roles on its project: {', '.join(roles) or 'none'}"
        return Step("credential", True, f"from {kind} {where}{known}")

    async def listing() -> Step:
        if server.uses_v2(versions):
            path, query = "/v2/images", V2
        else:
            path, query = "/v1/images/detail", V1
        reply = await server.ask(path, {**query, "limit": "1"})
        if reply.status != 200:
            raise LocationUnavailable(f"{path} answered {reply.status}", code="unauthorized")
        reply.json()
        return Step("listing", True, f"{path} can be listed")

    async def sight() -> Step:
        every, why = await sees_all(server, versions)
        if every:
            return Step("sees all", True, why)
        return Step(
            "sees all",
            False,
            why,
            "give it the credential of an admin, or say so if it sees every image all the same "
            f"(`locations set {server.location.name} --sees-all yes`): until then no image is "
            "called absent",
        )

    if await attempt("versions", reach):
        steps += _served(server.location.api, versions, server.location.name)
        await attempt("health", health)
        if await attempt("credential", credential) and await attempt("listing", listing):
            await attempt("sees all", sight)
    return steps


def _served(api: Api, versions: tuple[str, ...], name: str) -> list[Step]:
    """A fault where the location is registered with an API that it does not serve."""
    v1, v2 = api_versions(versions)
    if api is Api.AUTO or (v1 if api is Api.V1 else v2):
        return []
    fix = f"`locations set {name} --api auto`"
    return [Step("api", False, f"it is registered with {api}, which it does not serve", fix)]
