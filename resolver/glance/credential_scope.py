"""Which images a location's credential can see: only one that sees them all can prove absence.

The name of a role proves nothing, since Glance's policy may give any role the rights of an admin
and take them from the role ``admin``. What counts is what the server lets the credential do.
"""

from __future__ import annotations

from typing import NamedTuple

from resolver.errors import LocationUnavailable
from resolver.glance.glance_server import GLANCE_HEADER, GlanceServer
from resolver.glance.listed_rows import ids_of
from resolver.models import minor_version

MIN_MINOR_TASKS_ADMIN_ONLY = 11
"""From v2.11 on, Glance's default policy allows the tasks API to admins only. Older servers without
that line in their policy file allow it to everybody, so their answer proves nothing."""

MIN_MINOR_SHARED = 5
"""From v2.5 on, ``visibility=private`` leaves out images that other projects share."""

PRIVATE_ROWS = 50
"""Private images that are looked at for those of other projects: the first by id, since the latest
may all be of one project that is busy."""

NO_TASK = "00000000-0000-0000-0000-000000000000"
"""An id that no task has. Glance answers 404 to who may read tasks, and 403 to others. Unlike a
listing of tasks this writes nothing: the listing first deletes tasks that have expired."""


class CredentialScope(NamedTuple):
    """What a credential was found to see."""

    sees_all: bool | None
    """Whether it sees every image; None where that cannot be found out."""
    why: str
    """How this is known, for operators."""
    may_read_tasks: bool = False
    """Whether this was the proof."""
    witnesses: tuple[str, ...] = ()
    """Ids of private images that were the proof: only this credential, or an admin's, sees all of
    them."""

    @property
    def is_proven(self) -> bool:
        """Whether the server showed it, so that it is not only registered (`sees_all`)."""
        return self.may_read_tasks or len(self.witnesses) > 1


async def sees_all(
    server: GlanceServer, versions: tuple[str, ...], *, was_proven: bool = False
) -> CredentialScope:
    """Finds out whether the location's credential sees every image, by what the server lets it do
    now: list tasks, which is for admins, or list private images of more than one project. The
    registered `sees_all` decides where that shows nothing.

    A server with ``allow_anonymous_access`` answers an invalid token as it answers anonymous
    clients. So a credential that is registered to see all, but shows nothing that an anonymous
    client does not see, counts as refused. So does one that is registered to see all and no longer
    proves it, where it did before (``was_proven``).

    Raises:
        LocationUnavailable: the server gave no usable answer, there is no credential, it is not
            accepted, or it sees less than before.
    """
    location = server.location
    registered = location.sees_all
    if registered is False or (location.auth is None and registered):
        return CredentialScope(registered, "as registered (`sees_all`)")
    witnesses = await _private_images(server, versions) if location.auth else {}
    if len(witnesses) > 1:
        why = "it lists private images of several projects"
        return CredentialScope(True, why, witnesses=tuple(witnesses.values())[:2])
    tasks_status = await _tasks_status(server, versions)
    if tasks_status == 200:
        return CredentialScope(True, "it may list tasks, which is for admins", may_read_tasks=True)
    if location.auth is None:
        if tasks_status == 403:
            return CredentialScope(
                None, "is not known: the server needs no credential, but treats us as no admin"
            )
        return CredentialScope(True, "the server needs no credential")
    if registered:
        if was_proven:
            raise LocationUnavailable(
                "its credential sees less than before: the server no longer lets it list tasks or "
                "private images of several projects. Check the location's `auth`; if it sees every "
                f"image all the same, run `glance-resolver locations sweep {location.name} "
                "--confirm-shrink`",
                code="unauthorized",
            )
        if await _answers_anonymous_clients(server, versions):
            if not witnesses:
                raise LocationUnavailable(
                    "it answers anonymous clients as it answers this credential, which may be "
                    "invalid: check the location's `auth`",
                    code="unauthorized",
                )
            witness = tuple(witnesses.values())
            return CredentialScope(True, "as registered (`sees_all`)", witnesses=witness)
        return CredentialScope(True, "as registered (`sees_all`)")
    if tasks_status == 403:
        return CredentialScope(False, "it may not list tasks, which is for admins")
    if not versions:
        return CredentialScope(None, "is not known before a health check has found its versions")
    return CredentialScope(
        None, "is not known: this server does not show it. Register the location with `sees_all`"
    )


async def still_sees_all(
    server: GlanceServer,
    versions: tuple[str, ...],
    before: CredentialScope,
    *,
    was_proven: bool = False,
) -> CredentialScope:
    """What the credential sees now, if it was ``before`` some minutes ago at most. One small
    request repeats the proof, or finds that there is still none; otherwise everything is found out
    again.

    Raises:
        LocationUnavailable: as `sees_all`.
    """
    registered, has_auth = server.location.sees_all, server.location.auth is not None
    if before.sees_all is None or registered is False or (registered and not has_auth):
        return before
    if not before.sees_all:
        is_unchanged = not await _may_read_tasks(server)  # it may have got its rights since
    elif before.may_read_tasks:
        is_unchanged = await _may_read_tasks(server)
    elif before.witnesses:
        is_unchanged = await _are_listed(server, before.witnesses)
    elif has_auth:  # where anonymous clients are not answered, a dead credential is not either
        is_unchanged = not await _answers_anonymous_clients(server, versions)
    else:
        is_unchanged = not await _is_forbidden_tasks(server, versions)
    return before if is_unchanged else await sees_all(server, versions, was_proven=was_proven)


async def credential_since(
    server: GlanceServer, versions: tuple[str, ...], scope: CredentialScope, before: str
) -> str:
    """The credential of now, for a listing that was made with ``before`` so far, of which ``scope``
    is known. Where it has been replaced, the old one may have ended while the server listed: then a
    server that answers anonymous clients has answered as it answers them. It must still accept the
    old one, as it does where that is replaced before its end.

    Raises:
        LocationUnavailable: it does not, or there is no credential.
    """
    now = await server.credential()
    if now == before or not scope.sees_all:
        return now
    if await _answers_anonymous_clients(server, versions):
        try:
            is_accepted = await _is_accepted(server, scope, before)
        except LocationUnavailable as error:
            if error.problem_code != "unauthorized":
                raise
            is_accepted = False
        if not is_accepted:
            raise LocationUnavailable(
                "its credential was replaced while it was listed, and the old one is not accepted "
                "any more: it may have seen less",
                code="unauthorized",
            )
    return now


async def _is_accepted(server: GlanceServer, scope: CredentialScope, token: str) -> bool:
    """Whether the server still shows everything to a credential of which this is known."""
    if scope.may_read_tasks:
        return await _may_read_tasks(server, token)
    return bool(scope.witnesses) and await _are_listed(server, scope.witnesses, token)


async def _is_forbidden_tasks(server: GlanceServer, versions: tuple[str, ...]) -> bool:
    """Whether the server treats us as no admin, as far as it can be known."""
    if not _shows_admins_by_tasks(server, versions):
        return False
    return (await server.request(f"/v2/tasks/{NO_TASK}")).status == 403


def _shows_admins_by_tasks(server: GlanceServer, versions: tuple[str, ...]) -> bool:
    return minor_version(versions) >= MIN_MINOR_TASKS_ADMIN_ONLY and server.uses_v2(versions)


async def _may_read_tasks(server: GlanceServer, token: str | None = None) -> bool:
    reply = await server.request(f"/v2/tasks/{NO_TASK}", token=token)
    # Its text names the task. Another service of OpenStack has the header too.
    is_glance = GLANCE_HEADER in reply.headers and NO_TASK.encode() in reply.body
    return reply.status == 404 and is_glance


async def _are_listed(
    server: GlanceServer, witnesses: tuple[str, ...], token: str | None = None
) -> bool:
    query = {
        "id": f"in:{','.join(witnesses)}",
        "visibility": "private",
        "limit": str(len(witnesses)),
    }
    reply = await server.request("/v2/images", query, token=token)
    if reply.status != 200:
        return False
    return set(witnesses) <= ids_of(await reply.page(len(witnesses)))


async def _tasks_status(server: GlanceServer, versions: tuple[str, ...]) -> int:
    """The status of a listing of tasks; 0 where it would prove nothing."""
    if not _shows_admins_by_tasks(server, versions):
        return 0
    return (await server.request("/v2/tasks", {"limit": "1"})).status


async def _private_images(server: GlanceServer, versions: tuple[str, ...]) -> dict[str, str]:
    """Of the first private images by id, the id of one for each project that owns them. Who is no
    admin sees those of one project."""
    if minor_version(versions) < MIN_MINOR_SHARED or not server.uses_v2(versions):
        return {}
    query = {
        "visibility": "private",
        "limit": str(PRIVATE_ROWS),
        "sort_key": "id",
        "sort_dir": "asc",
    }
    reply = await server.request("/v2/images", query)
    if reply.status != 200:
        return {}
    return {
        row["owner"]: row["id"]
        for row in (await reply.page(PRIVATE_ROWS)).rows
        if isinstance(row, dict)
        and row.get("visibility") == "private"
        and isinstance(row.get("owner"), str)
        and isinstance(row.get("id"), str)
    }


async def _answers_anonymous_clients(server: GlanceServer, versions: tuple[str, ...]) -> bool:
    """Whether the server lists images without a credential."""
    path = "/v2/images" if server.uses_v2(versions) else "/v1/images"
    try:
        reply = await server.request(path, {"limit": "1"}, authenticated=False)
    except LocationUnavailable as error:
        if error.problem_code != "unauthorized":
            raise
        return False
    return reply.status == 200
