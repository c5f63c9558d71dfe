"""Changes of many locations at once: one read of the registry, one batch of writes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from typing import Any

from resolver.errors import Conflict, IndexLost, InvalidLocation
from resolver.glance import SecretSources
from resolver.index import Index, Record, Snapshot
from resolver.models import LOCATION_FIELDS, Location, Sweep
from resolver.registry.change_log import log_change
from resolver.registry.table import TableKeeper
from resolver.registry.target_policy import URL_FIELDS, TargetPolicy
from resolver.registry.validation import check_name, parse_location
from resolver.task_groups import end_all, run_for
from resolver.turns import in_turns

MAX_ATTEMPTS = 4
"""How often a change is tried while others change the same location at the same time."""

PARALLEL_LOOKUPS = 32
"""Hosts that are looked up at the same time."""

RESOLVER_CHECK_SECONDS = 2.0
"""How long all servers together may take to say that they are resolvers. One that does not answer
in time is recognized by a later health check."""

PARALLEL_RESOLVER_CHECKS = 64

Fields = Mapping[str, Any]
"""The fields of a location, as JSON values."""

Progress = Callable[[int, int], None]
"""Called with how many locations are done, and how many there are."""

AsksResolver = Callable[[str], Awaitable[bool]]
"""Asks the server of a URL whether it is a glance-resolver."""


@dataclass(slots=True)
class BatchResult:
    """What a batch has changed, by name. What was as wanted already is in none of them."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """Changes that belong together."""

    put: Mapping[str, Fields] = field(default_factory=dict)
    """What locations should be, by name."""
    remove: Collection[str] = ()
    """Names of locations to remove."""
    keep_other_fields: bool = False
    """Whether fields that are not given stay as they are, instead of getting their defaults."""
    dry_run: bool = False
    """Whether everything is only checked."""
    by: str = ""
    """The name of the operator's token, for the audit log; empty if no operator asks."""
    request_host: str = ""
    """The ``Host`` header of the request, which is a name of this gateway."""


def ignore_progress(_: int, __: int) -> None:
    """Nobody watches."""


class LocationBatch:
    """Makes the changes of one request. Safe to repeat."""

    def __init__(
        self, index: Index, tables: TableKeeper, targets: TargetPolicy, secrets: SecretSources
    ) -> None:
        self._index = index
        self._secrets = secrets
        self._tables = tables
        self._targets = targets

    async def apply(
        self,
        request: BatchRequest,
        *,
        is_resolver: AsksResolver | None = None,
        on_progress: Progress = ignore_progress,
    ) -> BatchResult:
        """Checks everything, and then writes what differs, unless it is a dry run: then the result
        is what would be written. Locations are put before others are removed, so that an image that
        moves keeps an owner.

        ``is_resolver``: asks a server whether it is a resolver; None: no server is asked.

        Raises:
            InvalidLocation: a location is not valid or not allowed here; nothing is written then.
                The message begins with its name.
            Conflict: others kept changing one of the locations at the same time.
            IndexUnavailable: Redis does not answer. What was written stays.
        """
        result = BatchResult()
        pending = dict(request.put)
        await self._check_hosts(request, on_progress)
        for attempt in range(MAX_ATTEMPTS):
            # Not the table: the index may not exist yet. Another process may create it as soon as
            # it sees the first location, so all are written quickly.
            snapshot = await self._index.records.load()
            changes = await _changes(pending, snapshot, request, self._secrets)
            if is_resolver is not None and attempt == 0:
                await _check_resolvers(changes, is_resolver)
            if request.dry_run:
                return _expected_result(changes, request, snapshot)
            conflicts = await self._write(changes, request, result, on_progress)
            if not conflicts:
                break
            pending = {name: pending[name] for name in conflicts}
        else:
            raise Conflict(
                f"location {conflicts[0]!r} was changed by somebody else meanwhile: read it again"
            )
        removals = [check_name(name) for name in request.remove]
        removed = await self._index.records.remove_many(removals, request.by)
        async for name, was_there in in_turns(zip(removals, removed, strict=True)):
            if was_there:
                result.removed.append(name)
                log_change(request.by, name, snapshot.records.get(name), None)
        if result.added or result.changed or result.removed:
            with contextlib.suppress(IndexLost):  # the index is being made
                await self._tables.refresh()
        return result

    async def _check_hosts(self, request: BatchRequest, on_progress: Progress) -> None:
        """Raises InvalidLocation for a URL that a location may not have here."""
        free = asyncio.Semaphore(PARALLEL_LOOKUPS)
        done = 0

        async def check(name: str, fields: Fields) -> None:
            nonlocal done
            async with free:
                try:
                    check_name(name)
                    for field_name in given_urls(fields):
                        url = LOCATION_FIELDS[field_name].parse(fields[field_name], field_name)
                        if url:
                            await self._targets.check(url, request.request_host, field_name)
                except InvalidLocation as error:
                    raise _named(name, error) from error
            done += 1
            on_progress(done, len(request.put))

        await _run_all(
            check(name, fields) for name, fields in request.put.items() if given_urls(fields)
        )

    async def _write(
        self,
        changes: Sequence[tuple[Location, Record | None]],
        request: BatchRequest,
        result: BatchResult,
        on_progress: Progress,
    ) -> list[str]:
        """Writes the changes. Returns the names of those that others have changed meanwhile."""
        records = self._index.records
        to_sweep = [
            (wanted, before)
            for wanted, before in changes
            if before and needs_new_sweep(wanted, before)
        ]
        for _, old in to_sweep:
            # Before the change: the new credential may not see the images that the old one saw.
            await records.set_sweep(old.location.number, unverified_sweep(old), old.location)
        conflicts = []
        written = await records.put_many(changes, request.by)
        async for (wanted, before), number in in_turns(zip(changes, written, strict=True)):
            if number:
                log_change(request.by, wanted.name, before, wanted)
                (result.changed if before else result.added).append(wanted.name)
            else:
                conflicts.append(wanted.name)
        for wanted, old in to_sweep:
            if wanted.name not in conflicts and old.location.url == wanted.url:
                await records.request_sweep(old.location.number)
        on_progress(len(request.put) - len(conflicts), len(request.put))
        return conflicts


def needs_new_sweep(wanted: Location, before: Record) -> bool:
    """Whether earlier sweeps may have seen other images than one would see now. (A location that
    is new, or gets a new number for a new URL, was never swept and so is due.)"""
    return any(
        spec.changes_contents and getattr(before.location, name) != getattr(wanted, name)
        for name, spec in LOCATION_FIELDS.items()
    )


def unverified_sweep(before: Record) -> Sweep:
    """The sweep of a location whose credential changes: what the new one sees is not known."""
    return replace(
        before.status.sweep, sees_all=None, sees_all_why="is not known yet", sees_all_proven=False
    )


def names_credentials(fields: Fields) -> bool:
    """Whether these fields say where a credential is."""
    return "auth" in fields or "notifications" in fields


def keep_unwritable_fields(wanted: Location, before: Record | None) -> Location:
    """The location as a change of ``before``: with the fields that operators do not write."""
    if before is None:
        return wanted
    old = before.location
    return replace(
        wanted, number=old.number, created=old.created, updated=old.updated, unknown=old.unknown
    )


async def _changes(
    pending: Mapping[str, Fields],
    snapshot: Snapshot,
    request: BatchRequest,
    secrets: SecretSources,
) -> list[tuple[Location, Record | None]]:
    """What differs from the registry, each with its record. Other tasks get turns.

    Raises:
        InvalidLocation, Conflict: as `LocationBatch.apply`.
    """
    now = time.time()
    changes = []
    final = {name: record.location for name, record in snapshot.records.items()}
    async for name, fields in in_turns(pending.items()):
        if name in snapshot.unreadable:
            raise unreadable_error(name)
        before = snapshot.records.get(name)
        base = before.location if before and request.keep_other_fields else None
        try:
            wanted = keep_unwritable_fields(parse_location(name, fields, base), before)
            if names_credentials(fields):
                secrets.check(wanted)
        except InvalidLocation as error:
            raise _named(name, error) from error
        if before is None or wanted != before.location:
            created = before.location.created if before else now
            changes.append((replace(wanted, created=created, updated=now), before))
            final[name] = wanted
    for name in request.remove:
        final.pop(name, None)
    if shared := shared_notifications([wanted.name for wanted, _ in changes], final):
        name, other = shared
        raise _named(name, shared_notifications_error(other))
    return changes


def _expected_result(
    changes: Sequence[tuple[Location, Record | None]], request: BatchRequest, snapshot: Snapshot
) -> BatchResult:
    """What a batch would change."""
    return BatchResult(
        added=[wanted.name for wanted, before in changes if before is None],
        changed=[wanted.name for wanted, before in changes if before is not None],
        removed=[name for name in map(check_name, request.remove) if name in snapshot.records],
    )


def shared_notifications(
    changed: Collection[str], final: Mapping[str, Location]
) -> tuple[str, str] | None:
    """A changed location that has the notifications of another one, and that one; None if there is
    none. A notification does not say which location it is about.

    ``changed``: names of the locations that are written. ``final``: all locations by name, as they
    will be.
    """
    names: dict[str, str] = {}
    for name, location in final.items():
        if not location.notifications:
            continue
        source = repr(sorted(location.notifications.items()))
        other = names.setdefault(source, name)
        if other != name and {name, other} & set(changed):
            return (name, other) if name in changed else (other, name)
    return None


def shared_notifications_error(name: str) -> InvalidLocation:
    """The error for a location that would have the notifications of location ``name``."""
    return InvalidLocation(
        f"`notifications` are those of location {name!r}: each needs a broker, an exchange or a "
        "topic of its own, since a notification names no location"
    )


def unreadable_error(name: str) -> Conflict:
    return Conflict(
        f"this version cannot read the record of location {name!r}: upgrade this process, or "
        "remove the location first",
        code="unreadable-record",
    )


async def _check_resolvers(
    changes: Sequence[tuple[Location, Record | None]], is_resolver: AsksResolver
) -> None:
    """Raises InvalidLocation where a new URL leads to a resolver."""
    free = asyncio.Semaphore(PARALLEL_RESOLVER_CHECKS)
    wrong: list[tuple[Location, str]] = []

    async def ask(location: Location, field_name: str, url: str) -> None:
        async with free:
            if await is_resolver(url):
                wrong.append((location, field_name))

    await run_for(
        RESOLVER_CHECK_SECONDS,
        [
            ask(wanted, name, url)
            for wanted, before in changes
            for name in URL_FIELDS
            if (url := getattr(wanted, name))
            and (before is None or getattr(before.location, name) != url)
        ],
    )
    if wrong:
        location, name = wrong[0]
        raise InvalidLocation(f"{location.name}: {leads_to_a_resolver(name)}")


def given_urls(fields: Fields) -> list[str]:
    """The fields among these that have URLs."""
    return [name for name in URL_FIELDS if name in fields]


def leads_to_a_resolver(name: str) -> str:
    """Why a location cannot have the URL in the field ``name``."""
    return (
        f"`{name}` is a glance-resolver, this one or another: register the Glance servers behind it"
    )


def _named(name: str, error: InvalidLocation) -> InvalidLocation:
    return InvalidLocation(f"{name}: {error.detail}")


async def _run_all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs these at the same time. The first that fails ends the others."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        await end_all(tasks)
