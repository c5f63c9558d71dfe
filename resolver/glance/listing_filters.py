"""Which parameters of a listing a server applies.

Glance applies all that a whole listing needs. Servers that resemble it refuse some, ignore some, or
take some for filters on properties, which no image has: then they list nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from resolver.errors import LocationUnavailable
from resolver.glance.glance_server import GlanceServer

UNKNOWN_FILTER = (400, 422)
"""Statuses of a request whose parameters the server does not know."""

BY_ID = {"sort_key": "id", "sort_dir": "asc"}
"""The older form of ``sort=id:asc``. Glance knows both, servers that resemble it only this one."""

ALL_VISIBLE = {"visibility": "all"}
COMMUNITY = {"visibility": "community"}
HIDDEN = {"os_hidden": "true"}
NOT_HIDDEN = {"os_hidden": "false"}


class ListingFilters(NamedTuple):
    """What a server's listing can be asked for."""

    sorts: bool = True
    """Whether by id."""
    visibility: tuple[Mapping[str, str], ...] = (ALL_VISIBLE,)
    """The filters that together list images of every visibility, as far as the server can."""
    hidden: bool = True
    """Whether for hidden images."""
    unknown: tuple[str, ...] = ()
    """The filters without which images may be left out."""


GLANCE = ListingFilters()
"""From Rocky on."""


async def listing_filters(server: GlanceServer) -> ListingFilters:
    """Finds out what the server applies or ignores, in one request to a Glance that has images.

    Raises:
        LocationUnavailable: it gave no listing, or none with a `limit`.
    """
    together = await _rows(server, {**BY_ID, **ALL_VISIBLE, **NOT_HIDDEN}, limits=(1,))
    if together:
        return GLANCE
    first = next(iter(await _rows(server, {}, limits=(None,)) or ()), None)
    if first is None and together is not None:
        return GLANCE  # there is nothing to list

    async def knows(params: Mapping[str, str]) -> bool:
        rows = await _rows(server, params)
        return bool(rows) or (rows is not None and first is None)

    sorts = await knows(BY_ID)
    if not sorts and not await knows({}):
        raise LocationUnavailable(
            "it lists images, but none where `limit` says how many: it does not know `limit`",
            code="bad-listing",
        )
    unknown = []
    visibility: tuple[Mapping[str, str], ...] = (ALL_VISIBLE,)
    if not await knows(ALL_VISIBLE):  # Glance before Queens
        visibility = ({}, COMMUNITY)
        shown = _member(first, "visibility")
        if not await knows({"visibility": shown} if isinstance(shown, str) else COMMUNITY):
            visibility = ({},)
            unknown.append("visibility")
    hidden = await knows(NOT_HIDDEN)
    if not hidden and _member(first, "os_hidden") is not None:  # Glance before Rocky has none
        unknown.append("os_hidden")
    return ListingFilters(sorts, visibility, hidden, tuple(unknown))


async def listing_gap(server: GlanceServer) -> str:
    """Why the server's listing may leave images out; empty if it has all that the credential sees.

    Raises:
        LocationUnavailable: as `listing_filters`.
    """
    unknown = list((await listing_filters(server)).unknown)
    for name, params, value in (
        ("visibility", COMMUNITY, "community"),
        ("os_hidden", HIDDEN, True),
    ):
        try:
            rows = await _rows(server, params, limits=(100,))
        except LocationUnavailable as error:
            if error.problem_code != "bad-listing" and error.extra.get("status") != 500:
                raise
            continue  # it does not ignore the filter
        listed = [_member(row, name) for row in rows or ()]
        if any(shown not in (None, value) for shown in listed) and name not in unknown:
            unknown.append(name)  # it ignores the filter
    if not unknown:
        return ""
    names = " and ".join(f"`{name}`" for name in unknown)
    return f"its listing may leave images out, since it does not apply {names}"


async def knows_filter(server: GlanceServer, params: Mapping[str, str]) -> bool:
    """Whether the server applies a filter that must match if there are images at all.

    A server that does not know it answers 400, or takes it for a property that no image has and
    lists nothing.
    """
    rows = await _rows(server, params, limits=(1,))
    if rows or rows is None:
        return bool(rows)
    if not await _rows(server, {}, limits=(1,)):
        return True  # there is nothing to list
    return bool(await _rows(server, params, limits=(100,)))


async def _rows(
    server: GlanceServer, params: Mapping[str, str], limits: Sequence[int | None] = (1, 100)
) -> list[Any] | None:
    """The first rows of a listing; None where the server refuses the parameters. ``limits``: how
    many to ask for, one after the other until there are rows, since a policy may hide the first
    images; None: as many as the server likes."""
    rows: list[Any] = []
    for limit in limits:
        query = {**params, "limit": str(limit)} if limit else params
        reply = await server.request("/v2/images", query)
        if reply.status in UNKNOWN_FILTER:
            return None
        if reply.status != 200:
            raise bad_listing(reply.status)
        rows = (await reply.page(limit or 100)).rows
        if rows:
            break
    return rows


def _member(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, dict) else None


def bad_listing(status: int) -> LocationUnavailable:
    return LocationUnavailable(
        f"listing images answered {status}", code="bad-listing", extra={"status": status}
    )
