"""Which images a location's credential can see: only one that sees them all can prove absence.

The name of a role proves nothing, since Glance's policy may give any role the rights of an admin
and take them from the role ``admin``. What counts is what the server lets the credential do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from resolver.errors import LocationUnavailable
from resolver.glance.glance_server import GlanceServer
from resolver.glance.listed_rows import rows_of
from resolver.models import minor_version

MIN_MINOR_TASKS_ADMIN_ONLY = 11
"""From v2.11 on, Glance's default policy allows the tasks API to admins only. Older servers without
that line in their policy file allow it to everybody, so their answer proves nothing."""

MIN_MINOR_SHARED = 5
"""From v2.5 on, ``visibility=private`` leaves out images that other projects share."""

PRIVATE_ROWS = 100
"""Private images that are looked at for those of other projects."""


class CredentialScope(NamedTuple):
    """What a credential was found to see."""

    sees_all: bool | None
    """Whether it sees every image; None where that cannot be found out."""
    why: str
    """How this is known, for operators."""


async def sees_all(server: GlanceServer, versions: tuple[str, ...]) -> CredentialScope:
    """Finds out whether the location's credential sees every image, by what the server lets it do
    now: list tasks, which is for admins, or list private images of more than one project. The
    registered `sees_all` decides where that shows nothing.

    A server with ``allow_anonymous_access`` answers a dead token as it answers strangers. So a
    credential that is registered to see all, but shows nothing that a stranger does not see, counts
    as refused.

    Raises:
        LocationUnavailable: the server gave no usable answer, there is no credential, or it is not
            accepted.
    """
    location = server.location
    if location.sees_all is False or (location.auth is None and location.sees_all):
        return CredentialScope(location.sees_all, "as registered (`sees_all`)")
    tasks_status = await _tasks_status(server, versions)
    if tasks_status == 200:
        return CredentialScope(True, "it may list tasks, which is for admins")
    if location.auth is None:
        if tasks_status == 403:
            return CredentialScope(
                None, "is not known: the server needs no credential, but treats us as no admin"
            )
        return CredentialScope(True, "the server needs no credential")
    owners = await _owners_of_private_images(server, versions)
    if len(owners) > 1:
        return CredentialScope(True, "it lists private images of several projects")
    if location.sees_all:
        if not owners and await _answers_strangers(server, versions):
            raise LocationUnavailable(
                "it answers strangers as it answers this credential, which may be dead: check the "
                "location's `auth`",
                code="unauthorized",
            )
        return CredentialScope(True, "as registered (`sees_all`)")
    if tasks_status == 403:
        return CredentialScope(False, "it may not list tasks, which is for admins")
    return CredentialScope(
        None, "cannot be found out from this server: register the location with `sees_all`"
    )


async def _tasks_status(server: GlanceServer, versions: tuple[str, ...]) -> int:
    """The status of a listing of tasks; 0 where it would prove nothing."""
    if minor_version(versions) < MIN_MINOR_TASKS_ADMIN_ONLY or not server.uses_v2(versions):
        return 0
    return (await server.request("/v2/tasks", {"limit": "1"})).status


async def _owners_of_private_images(server: GlanceServer, versions: tuple[str, ...]) -> set[Any]:
    """The projects that own the first private images that are listed. Who is no admin sees those
    of one project."""
    if minor_version(versions) < MIN_MINOR_SHARED or not server.uses_v2(versions):
        return set()
    query = {"visibility": "private", "limit": str(PRIVATE_ROWS)}
    reply = await server.request("/v2/images", query)
    if reply.status != 200:
        return set()
    rows = [row for row in rows_of(reply.json()) if isinstance(row, dict)]
    return {
        row["owner"]
        for row in rows
        if row.get("visibility") == "private" and isinstance(row.get("owner"), str)
    }


async def _answers_strangers(server: GlanceServer, versions: tuple[str, ...]) -> bool:
    """Whether the server lists images without a credential."""
    path = "/v2/images" if server.uses_v2(versions) else "/v1/images"
    try:
        reply = await server.request(path, {"limit": "1"}, authenticated=False)
    except LocationUnavailable as error:
        if error.problem_code != "unauthorized":
            raise
        return False
    return reply.status == 200
