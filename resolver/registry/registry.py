"""The registry: what operators do with locations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from resolver.errors import Conflict, IndexLost, InvalidLocation, LocationNotFound, SettingsError
from resolver.index import AuditEntry, Index, Record
from resolver.models import Location, Progress
from resolver.registry.table import LocationView, TableKeeper
from resolver.registry.validation import (
    FIELDS,
    check_host,
    check_https,
    check_name,
    listens,
    parse_location,
)
from resolver.settings import Settings

TRIES = 4
"""How often a change is tried again when others change the same location meanwhile."""

DEFAULT_PORTS = {"http": 80, "https": 443}


def rfc3339(at: float | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def location_to_json(view: LocationView, progress: Progress | None, now: float) -> dict[str, Any]:
    """A location as the HTTP API and the command line show it."""
    location, check, sweep = view.location, view.status.check, view.status.sweep
    serves = view.serves
    return {
        "name": location.name,
        "url": location.url,
        "region": location.region,
        "api": str(location.api),
        "serves": None
        if serves is None
        else [v for v, on in zip(("v1", "v2"), serves, strict=True) if on],
        "priority": location.priority,
        "weight": location.weight,
        "state": str(location.state),
        "reason": location.reason,
        "sees_all": location.sees_all,
        "auth": location.auth,
        "notifications": location.notifications,
        "created": rfc3339(location.created),
        "updated": rfc3339(location.updated),
        "health": {
            "state": str(view.health),
            "reason": check.reason if check else "not looked at yet",
            "at": rfc3339(check.at) if check else None,
            "failures": check.failures if check else 0,
            "history": [
                {"at": rfc3339(change.at), "state": str(change.health), "reason": change.reason}
                for change in (check.changes if check else ())
            ],
            "versions": list(view.versions),
        },
        "coverage": view.coverage(now),
        "sweep": {
            "running": None
            if progress is None
            else {
                "started": rfc3339(progress.started),
                "images": progress.images,
                "front": progress.front or None,
            },
            "started": rfc3339(sweep.started),
            "ended": rfc3339(sweep.ended),
            "images": sweep.images,
            "claimed": sweep.claimed,
            "released": sweep.released,
            "sees_all": sweep.sees_all,
            "sees_all_why": sweep.sees_all_why,
            "error": sweep.error or None,
            "error_code": sweep.error_code or None,
            "failed": rfc3339(sweep.failed),
        },
    }


def _told(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log, without what a change left as it was."""
    before, after = (
        side and {name: value for name, value in side.items() if name in FIELDS}
        for side in (entry.before, entry.after)
    )
    if before and after:
        changed = [name for name in FIELDS if before.get(name) != after.get(name)]
        before, after = ({name: side.get(name) for name in changed} for side in (before, after))
    return {
        "at": rfc3339(entry.at),
        "by": entry.by,
        "what": entry.what,
        "location": entry.location or None,
        "before": before,
        "after": after,
    }


class Registry:
    """Changes and shows locations."""

    def __init__(self, index: Index, tables: TableKeeper, settings: Settings) -> None:
        self._index = index
        self._tables = tables
        self._settings = settings
        self.own_ports: set[int] = {settings.port} - {0}
        """Ports that this gateway listens on; the server adds the one it was given."""

    async def list(self) -> list[dict[str, Any]]:
        """All locations, by name.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        table = await self._tables.fresh()
        progress = await self._index.records.progress()
        now = time.time()
        return [
            location_to_json(view, progress.get(view.location.number), now)
            for view in table.by_name.values()
        ]

    async def show(self, name: str) -> dict[str, Any]:
        """One location.

        Raises:
            LocationNotFound: there is none of that name.
        """
        view = await self.view(name)
        progress = await self._index.records.progress()
        return location_to_json(view, progress.get(view.location.number), time.time())

    async def view(self, name: str) -> LocationView:
        """One location as it is now.

        Raises:
            LocationNotFound: there is none of that name.
        """
        view = (await self._tables.fresh()).by_name.get(check_name(name))
        if view is None:
            raise self._no_such(name)
        return view

    async def put(
        self, name: str, fields: Mapping[str, Any], *, host: str = "", by: str = ""
    ) -> tuple[Location, bool]:
        """Makes a location as ``fields`` say, whole; returns it and whether it is new.

        ``host`` is the ``Host`` that the request came to, which no location may have; ``by`` who
        sent it, for the audit log.

        Raises:
            InvalidLocation: a field is wrong, or the host is not allowed.
        """
        wanted = parse_location(name, fields)
        await self.check_target(wanted.url, host)
        if by:
            await self._begin()
        for _ in range(TRIES):
            before = await self._record(name)
            try:
                return await self._write(wanted, before, by), before is None
            except Conflict as error:
                conflict = error
        raise conflict

    async def register(self, given: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds these locations; of those that are there, changes the fields given and no others, so
        that what an operator set meanwhile (a state, a weight) outlives a restart.

        Raises:
            SettingsError: one of them is not allowed here.
        """
        for name, fields in given.items():
            try:
                try:
                    await self.patch(name, fields)
                except LocationNotFound:
                    await self.put(name, fields)
            except InvalidLocation as error:
                raise SettingsError(f"location {name}: {error.detail}") from error

    async def patch(
        self, name: str, fields: Mapping[str, Any], *, host: str = "", by: str = ""
    ) -> Location:
        """Changes the fields given, leaves the others; ``host`` and ``by`` as with `put`.

        Raises:
            LocationNotFound: there is none of that name.
            InvalidLocation: a field is wrong, or the host is not allowed.
        """
        for _ in range(TRIES):
            before = await self._existing(name)
            wanted = parse_location(name, fields, before.location)
            if "url" in fields:
                await self.check_target(wanted.url, host)
            try:
                return await self._write(wanted, before, by)
            except Conflict as error:
                conflict = error
        raise conflict

    async def _begin(self) -> None:
        """Makes a new index where Redis has lost its data: an operator who registers a location
        wants one."""
        try:
            await self._index.identity()
        except IndexLost:
            await self._index.records.skip_numbers_through(
                max(self._tables.table.by_number, default=0)
            )
            await self._index.create_if_missing()

    async def _write(self, wanted: Location, before: Record | None, by: str) -> Location:
        if before is not None:
            old = before.location
            wanted = replace(wanted, number=old.number, created=old.created, updated=old.updated)
            if wanted == old:
                return old
        await self._check_notifications(wanted)
        # What is known of its images was learnt otherwise. One that is new, or will have a new
        # number for a new URL, was never swept and so is due without asking.
        otherwise = before is not None and any(
            getattr(before.location, field) != getattr(wanted, field)
            for field in ("api", "auth", "sees_all")
        )
        if before is not None and otherwise:
            # First: from here on nobody takes what another credential saw for what this one sees.
            sweep = replace(before.status.sweep, sees_all=None, sees_all_why="is not known yet")
            await self._index.records.set_sweep(before.location.number, sweep, before.location)
        now = time.time()
        created = before.location.created if before else now
        location = await self._index.records.put(
            replace(wanted, created=created, updated=now), before, by
        )
        if before is not None and otherwise and before.location.number == location.number:
            await self._index.records.request_sweep(location.number)
        await self._learn()
        return location

    async def _check_notifications(self, wanted: Location) -> None:
        """Raises InvalidLocation where another location has the same ones: a notification does not
        say which of them it is about."""
        if not wanted.notifications:
            return
        # Not the table: where the index is made anew there is none before its locations are.
        for name, record in (await self._index.records.load()).records.items():
            if name != wanted.name and record.location.notifications == wanted.notifications:
                raise InvalidLocation(
                    f"`notifications` are those of location {name!r}: each needs a broker, "
                    "an exchange or a topic of its own, since a notification names no location"
                )

    async def remove(self, name: str, by: str = "") -> None:
        """Removes a location; with that write its claims no longer count.

        Raises:
            LocationNotFound: there is none of that name.
        """
        if not await self._index.records.remove(check_name(name), by):
            raise self._no_such(name)
        await self._learn()

    async def _learn(self) -> None:
        """What this process did, Redis need not tell it first."""
        with contextlib.suppress(IndexLost):  # it is being made anew
            await self._tables.fresh()

    async def sweep(self, name: str, *, confirm_shrink: bool = False, by: str = "") -> None:
        """Asks the indexers to sweep a location now.

        Raises:
            LocationNotFound: there is none of that name.
        """
        number = (await self._existing(name)).location.number
        await self._index.records.request_sweep(number, confirm_shrink=confirm_shrink)
        if confirm_shrink:  # a plain one changes nothing that it would not do by itself
            await self._index.audit.record(by, "confirm-shrink", name)

    async def log(self, count: int, name: str = "") -> Sequence[dict[str, Any]]:
        """The last changes that operators made, the newest first, each with the fields that it
        changed; of one location if one is named, which may be gone by now."""
        if name:
            check_name(name)
        return [_told(entry) for entry in await self._index.audit.last(count, name)]

    async def claim(self, name: str, image_id: bytes, letter_case: int) -> bool:
        """An operator says that the location has the image; whether that is new."""
        number = (await self._existing(name)).location.number
        await self._index.records.pin_claim(number, image_id)
        return bool(await self._index.claims.claim(number, {image_id: letter_case}))

    async def release(self, name: str, image_id: bytes) -> bool:
        """An operator says that the location does not have the image; whether it was claimed."""
        number = (await self._existing(name)).location.number
        return bool(await self._index.claims.release(number, [image_id]))

    async def _record(self, name: str) -> Record | None:
        return (await self._index.records.load()).records.get(name)

    async def _existing(self, name: str) -> Record:
        record = await self._record(check_name(name))
        if record is None:
            raise self._no_such(name)
        return record

    @staticmethod
    def _no_such(name: str) -> LocationNotFound:
        return LocationNotFound(
            f"there is no location {name!r}: see `glance-resolver locations list`"
        )

    async def check_target(self, url: str, host: str) -> None:
        """Raises InvalidLocation unless a location may have this URL here."""
        if self._settings.require_https:
            check_https(url)
        await check_host(url, self._settings.allowed_hosts)
        if await self._is_self(url, host):
            raise InvalidLocation("`url` is this gateway itself: give a Glance server")

    async def _is_self(self, url: str, host: str) -> bool:
        """Whether a location's URL leads back here: by our public name, by the ``Host`` that the
        request came to, or by an address that we listen on."""
        parts = urlsplit(url)
        public = urlsplit(self._settings.public_url)
        if public.netloc:
            below = parts.path == public.path or parts.path.startswith(f"{public.path}/")
            if parts.netloc.lower() == public.netloc.lower() and below:
                return True
        elif parts.netloc.lower() == host.lower() and not parts.path:
            return True
        if (parts.port or DEFAULT_PORTS[parts.scheme]) not in self.own_ports:
            return False
        return await listens(self._settings.host, parts.hostname or "")
