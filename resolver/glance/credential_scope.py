"""Which images a location's credential can see: only one that sees them all can prove absence."""

from __future__ import annotations

from typing import NamedTuple

from resolver.glance.glance_server import GlanceServer
from resolver.models import minor_version

ADMIN_ROLE = "admin"
"""The role that Glance's default policy lets list every project's images. It must be a role on a
project: a token with system scope cannot list them."""

MIN_MINOR_TASKS_ADMIN_ONLY = 11
"""From v2.11 on, Glance's default policy allows the tasks API to admins only. Older servers without
that line in their policy file allow it to everybody, so their answer proves nothing."""


class CredentialScope(NamedTuple):
    """What a credential was found to see."""

    sees_all: bool | None
    """Whether it sees every image; None where that cannot be found out."""
    why: str
    """How this is known, for operators."""


async def sees_all(server: GlanceServer, versions: tuple[str, ...]) -> CredentialScope:
    """Finds out whether the location's credential sees every image.

    The registered `sees_all` decides; otherwise the credential's roles, as Keystone lists them;
    otherwise whether the tasks API, which is for admins, accepts it.

    Raises:
        LocationUnavailable: the server gave no usable answer, or there is no credential.
    """
    location = server.location
    if location.sees_all is not None:
        return CredentialScope(location.sees_all, "as registered (`sees_all`)")
    if (roles := await server.roles()) is not None:
        if ADMIN_ROLE in map(str.lower, roles):
            return CredentialScope(True, f"it has the role {ADMIN_ROLE} on a project")
        return CredentialScope(False, f"it does not have the role {ADMIN_ROLE} on a project")
    if minor_version(versions) >= MIN_MINOR_TASKS_ADMIN_ONLY and server.uses_v2(versions):
        status = (await server.request("/v2/tasks", {"limit": "1"})).status
        if status == 200:
            return CredentialScope(True, "it may list tasks, which is for admins")
        if status == 403 and location.auth:
            return CredentialScope(False, "it may not list tasks, which is for admins")
        if status == 403:
            return CredentialScope(
                None, "is not known: the server needs no credential, but treats us as no admin"
            )
    if location.auth is None:
        return CredentialScope(True, "the server needs no credential")
    return CredentialScope(
        None, "cannot be found out from this server: register the location with `sees_all`"
    )
