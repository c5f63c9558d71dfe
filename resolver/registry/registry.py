"""The registry: what operators do with locations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from resolver.errors import (
    Conflict,
    IndexLost,
    InvalidLocation,
    LocationNotFound,
    NameTaken,
    SettingsError,
)
from resolver.glance import SecretSources
from resolver.index import Index, Record, Snapshot
from resolver.models import Location, Status
from resolver.registry.change_log import log_change
from resolver.registry.location_batch import (
    MAX_ATTEMPTS,
    AsksResolver,
    BatchRequest,
    BatchResult,
    LocationBatch,
    Progress,
    ignore_progress,
    keep_unwritable_fields,
    leads_to_a_resolver,
    names_credentials,
    needs_new_sweep,
    shared_notifications,
    shared_notifications_error,
    unreadable_error,
    unverified_sweep,
)
from resolver.registry.location_view import LocationView
from resolver.registry.presentation import audit_row, location_to_json
from resolver.registry.table import Table, TableKeeper
from resolver.registry.target_policy import URL_FIELDS, Lookup, OwnPorts, TargetPolicy, look_up
from resolver.registry.validation import check_name, parse_location
from resolver.settings import Settings
from resolver.suggestions import did_you_mean


class PutResult(NamedTuple):
    """What `Registry.put` wrote."""

    location: Location
    is_new: bool


class Registry:
    """Changes and shows locations.

    A change takes the location from the table, which costs one command if the table is current, and
    writes it if nobody else changed it. Then it reads the registry once, so that this process
    answers by the change at once.
    """

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        settings: Settings,
        own_ports: OwnPorts | None = None,
        *,
        lookup: Lookup = look_up,
    ) -> None:
        """``own_ports``: the ports that this process listens on; None: that of the settings.
        ``lookup``: finds the addresses of host names."""
        self._index = index
        self._tables = tables
        self._targets = TargetPolicy(settings, own_ports or OwnPorts(settings.port), lookup)
        self._secrets = SecretSources.of(settings)
        self._batch = LocationBatch(index, tables, self._targets, self._secrets)

    async def list(self) -> list[dict[str, Any]]:
        """All locations as JSON, by name.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        table = await self._tables.fresh()
        progress = await self._index.records.progress()
        now = time.time()
        return [
            location_to_json(view, progress.get(view.location.number), now)
            for view in table.by_name.values()
        ]

    async def show(self, name: str) -> dict[str, Any]:
        """A location as JSON.

        Raises:
            LocationNotFound: there is no location of that name.
        """
        return await self._to_json(await self.view(name))

    async def describe(self, location: Location) -> dict[str, Any]:
        """A location that this process has just written, as JSON, without reading the registry
        again."""
        view = self._tables.table.by_name.get(location.name)
        known = view is not None and view.location.number == location.number
        status = view.status if view is not None and known else Status()
        losses, refused = self._tables.table.losses, self._tables.refusal(location)
        return await self._to_json(
            LocationView(location, status, self._tables.policy, losses, refused)
        )

    async def view(self, name: str) -> LocationView:
        """A location as it is now.

        Raises:
            LocationNotFound: there is no location of that name.
        """
        view = (await self._tables.fresh()).by_name.get(check_name(name))
        if view is None:
            raise _not_found_error(name, self._tables.table.by_name)
        return view

    async def put(
        self,
        name: str,
        fields: Mapping[str, Any],
        *,
        request_host: str = "",
        by: str = "",
        is_resolver: AsksResolver | None = None,
        only_new: bool = False,
    ) -> PutResult:
        """Registers a location, or replaces it: fields that are not given get their defaults.

        ``request_host``: the ``Host`` header of the request, which is a name of this gateway.
        ``by``: the name of the operator's token, for the audit log; empty if no operator asks.
        ``is_resolver``: asks the server whether it is a resolver; None: it is not asked.
        ``only_new``: do not replace one.

        Raises:
            InvalidLocation: a field is wrong, or the URL is not allowed here.
            NameTaken: with ``only_new``, there is a location of this name.
            Conflict: others kept changing the location at the same time.
            IndexUnavailable: Redis does not answer.
        """
        wanted = parse_location(name, fields)
        self._secrets.check(wanted)
        await self._check_target(wanted, request_host, is_resolver)
        if by:
            await self._ensure_index()
        for _ in range(MAX_ATTEMPTS):
            records = await self._records(name)
            if only_new and name in records:
                raise NameTaken(f"{name} is registered already, as {records[name].location.url}")
            try:
                location = await self._write(wanted, records, by)
                return PutResult(location, is_new=name not in records)
            except Conflict as error:
                conflict = error
        raise conflict

    async def patch(
        self,
        name: str,
        fields: Mapping[str, Any],
        *,
        request_host: str = "",
        by: str = "",
        is_resolver: AsksResolver | None = None,
    ) -> Location:
        """Changes the given fields of a location and no others, except that another URL takes its
        credential away (see `parse_location`). The other arguments are those of `put`.

        Raises:
            LocationNotFound: there is no location of that name.
            InvalidLocation: a field is wrong, or the URL is not allowed here.
            Conflict: others kept changing the location at the same time.
            IndexUnavailable: Redis does not answer.
        """
        check_name(name)
        must_check_target = not fields.keys().isdisjoint(URL_FIELDS)
        for _ in range(MAX_ATTEMPTS):
            records = await self._records(name)
            wanted = parse_location(name, fields, _existing(records, name).location)
            if names_credentials(fields):
                self._secrets.check(wanted)
            if must_check_target:
                await self._check_target(wanted, request_host, is_resolver)
                must_check_target = False
            try:
                return await self._write(wanted, records, by)
            except Conflict as error:
                conflict = error
        raise conflict

    async def register(
        self,
        locations: Mapping[str, Mapping[str, Any]],
        on_progress: Progress = ignore_progress,
    ) -> BatchResult:
        """Registers the locations that a process was started with. Of those that exist it changes
        only the given fields, so that what an operator set meanwhile (a state, a weight) outlives a
        restart. Returns what was changed.

        Raises:
            SettingsError: one of them is not allowed here.
        """
        try:
            request = BatchRequest(put=locations, keep_other_fields=True)
            return await self._batch.apply(request, on_progress=on_progress)
        except InvalidLocation as error:
            raise SettingsError(f"location {error.detail}") from error

    async def apply(
        self, request: BatchRequest, *, is_resolver: AsksResolver | None = None
    ) -> BatchResult:
        """Makes an operator's changes of many locations; raises as `LocationBatch.apply`.

        Where Redis has lost its data, the index is created when it has all of these locations, so
        that no process proves anything with some of them only."""
        is_lost = await self._is_index_lost()
        if is_lost:
            await self._skip_known_numbers()
        result = await self._batch.apply(request, is_resolver=is_resolver)
        if is_lost:
            await self._index.create_if_missing()
            await self._tables.refresh()
        return result

    async def records(self) -> Mapping[str, Record]:
        """All locations as they are now by name, also while the index is lost or being made.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        return (await self._registered()).records

    async def remove(self, name: str, by: str = "") -> None:
        """Removes a location; from this write on its claims do not count.

        Raises:
            LocationNotFound: there is no location of that name.
        """
        before = (await self._registered()).records.get(check_name(name))
        if not await self._index.records.remove(name, by):
            raise _not_found_error(name, self._tables.table.by_name)
        log_change(by, name, before, None)
        await self._refresh_table()

    async def sweep(self, name: str, *, confirm_shrink: bool = False, by: str = "") -> None:
        """Asks the indexers to sweep a location now.

        Raises:
            LocationNotFound: there is no location of that name.
        """
        number = await self._number(name)
        if confirm_shrink:  # a plain sweep changes nothing that would not change anyway
            await self._index.audit.record(by, "confirm-shrink", name)
        await self._index.records.request_sweep(number, confirm_shrink=confirm_shrink)

    async def log(self, count: int, name: str = "") -> Sequence[dict[str, Any]]:
        """The last ``count`` changes that operators made, newest first. ``name``: only those of
        this location, which need not exist any more."""
        if name:
            check_name(name)
        return [audit_row(entry) for entry in await self._index.audit.last(count, name)]

    async def claim(self, name: str, image_id: bytes, letter_case: int) -> bool:
        """Claims an image for a location, as an operator says that it is there. Returns whether the
        claim is new."""
        number = await self._number(name)
        await self._index.records.pin_claim(number, image_id)
        claims = self._index.claims
        return bool(await claims.claim(number, {image_id: letter_case}, exactly=True))

    async def release(self, name: str, image_id: bytes) -> bool:
        """Releases a location's claim on an image. Returns whether there was one."""
        number = await self._number(name)
        return bool(await self._index.claims.release(number, [image_id], exactly=True))

    async def _to_json(self, view: LocationView) -> dict[str, Any]:
        progress = await self._index.records.progress()
        return location_to_json(view, progress.get(view.location.number), time.time())

    async def _check_target(
        self, location: Location, request_host: str, is_resolver: AsksResolver | None
    ) -> None:
        """Raises InvalidLocation for a URL that is not allowed, or leads to a resolver: one that
        points back here would make requests go in a circle. A server that does not answer now is
        recognized by a later health check."""
        await self._targets.check_location(location, request_host)
        for name in URL_FIELDS:
            url = getattr(location, name)
            if url and is_resolver is not None and await is_resolver(url):
                raise InvalidLocation(leads_to_a_resolver(name))

    async def _ensure_index(self) -> None:
        """Makes a new index if Redis has lost its data: an operator who registers a location wants
        one."""
        if await self._is_index_lost():
            await self._skip_known_numbers()
            await self._index.create_if_missing()

    async def _is_index_lost(self) -> bool:
        try:
            await self._index.identity()
        except IndexLost:
            return True
        return False

    async def _skip_known_numbers(self) -> None:
        """Gives no number again that this process knows from before Redis lost its data."""
        await self._index.records.skip_numbers_through(max(self._tables.table.by_number, default=0))

    async def _records(self, name: str) -> Mapping[str, Record]:
        """All locations as they are now, by name. ``name``: the one that the caller wants.

        Raises:
            Conflict: the record of that one cannot be read.
        """
        registered = await self._registered()
        if name in registered.unreadable:
            raise unreadable_error(name)
        return registered.records

    async def _registered(self) -> Table | Snapshot:
        try:
            return await self._tables.current()
        except IndexLost:  # it is being made, and its locations are registered first
            return await self._index.records.load()

    async def _number(self, name: str) -> int:
        check_name(name)
        return _existing(await self._records(name), name).location.number

    async def _write(self, wanted: Location, records: Mapping[str, Record], by: str) -> Location:
        before = records.get(wanted.name)
        wanted = keep_unwritable_fields(wanted, before)
        if before is None or wanted != before.location:
            if wanted.notifications:
                _check_notifications(wanted, records)
            wanted = await self._write_changed(wanted, before, by)
        await self._refresh_table()
        return wanted

    async def _write_changed(self, wanted: Location, before: Record | None, by: str) -> Location:
        to_sweep = before is not None and needs_new_sweep(wanted, before)
        if before is not None and to_sweep:
            # Before the change: the new credential may not see the images that the old one saw.
            sweep = unverified_sweep(before)
            await self._index.records.set_sweep(before.location.number, sweep, before.location)
        now = time.time()
        created = before.location.created if before else now
        location = await self._index.records.put(
            replace(wanted, created=created, updated=now), before, by
        )
        log_change(by, wanted.name, before, location)
        if before is not None and to_sweep and before.location.number == location.number:
            await self._index.records.request_sweep(location.number)
        return location

    async def _refresh_table(self) -> None:
        """Reads what this process has just written, without waiting for Redis to announce it."""
        with contextlib.suppress(IndexLost):  # the index is being made
            await self._tables.refresh()


def _check_notifications(wanted: Location, records: Mapping[str, Record]) -> None:
    """Raises InvalidLocation if another location has the same notifications."""
    locations = {name: record.location for name, record in records.items()}
    if shared := shared_notifications([wanted.name], {**locations, wanted.name: wanted}):
        raise shared_notifications_error(shared[1])


def _existing(records: Mapping[str, Record], name: str) -> Record:
    if name not in records:
        raise _not_found_error(name, records)
    return records[name]


def _not_found_error(name: str, known: Iterable[str]) -> LocationNotFound:
    return LocationNotFound(
        f"there is no location {name!r}{did_you_mean(name, known)}: `glance-resolver locations "
        "list` lists them"
    )
