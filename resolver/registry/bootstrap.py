"""Bootstrap: the index exists, and it has the locations that this process was started with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog

from resolver.errors import IndexLost, IndexReadOnly, IndexUnavailable, ResolverError, SettingsError
from resolver.fault_log import FaultLog
from resolver.index import REACHABLE, Index
from resolver.models import State
from resolver.problems import Problem
from resolver.registry.location_batch import Progress, ignore_progress
from resolver.registry.location_view import LocationView
from resolver.registry.presentation import fields_of
from resolver.registry.registry import Registry
from resolver.registry.table import Table, TableKeeper, some_names

RECONCILE_INTERVAL_SECONDS = 1.0
"""Time between two reconciliations. After an announced change the next one starts at once, so that
the table is up to date if Redis fails later."""

START_TIMEOUT_SECONDS = 2.0
"""How long the start of a process waits for the first answer of Redis."""

StartupLocations = Mapping[str, Mapping[str, Any]]
"""Fields of locations by name, as in a locations file."""

log = structlog.get_logger()


ACTION_FOR_REDIS = (
    "Check Redis, the network to it and RESOLVER_REDIS_URL; the log has the complete reason."
)

ACTION_FOR_LOST_INDEX = (
    "`glance-resolver locations apply FILE` registers the locations of a file, `glance-resolver "
    "index import FILE` those of an export, with their images. Where Redis should have data, check "
    "RESOLVER_REDIS_URL."
)


class Bootstrap:
    """Makes the index if there is none and registers the startup locations. It does both again when
    Redis has lost its data.

    Locations that were lost are registered as this process last saw them, so changes by operators
    survive: a location that was removed does not come back, also when a process starts with it, and
    one in maintenance stays there. Locations that came later are recorded in Redis as lost, so that
    every process knows of them.
    """

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        registry: Registry,
        startup_locations: StartupLocations,
        registered_index: str = "",
        on_progress: Progress = ignore_progress,
    ) -> None:
        """``registered_index``: the identity of an index that already has the startup locations,
        as another worker registered them; empty if there is none. ``on_progress``: called as the
        startup locations are registered."""
        self._index = index
        self._tables = tables
        self._registry = registry
        self._startup_locations = startup_locations
        self._on_progress = on_progress
        # Where Redis answers only later, requests may read it before this process registers them.
        tables.expect(
            name
            for name, fields in startup_locations.items()
            if fields.get("vouches", True) and fields.get("state") != State.MAINTENANCE
        )
        self.registered_index = registered_index
        self._last_table: Table | None = None
        """The last table that was read; None before the first reconciliation."""
        self._last_seen: dict[str, LocationView] = {}
        """The startup locations as this process saw them last, also those that Redis lost since."""
        self._has_rights = False
        """Whether Redis allows this process what it needs, as far as it was asked."""
        self._seen_changes = -1
        self._change_announced = asyncio.Event()
        index.on_invalidation(self._on_invalidation)
        self.fault = ""
        """Why the index cannot be used, for anybody to read; empty while it can be used."""
        self._is_lost = False
        """Whether that is because Redis has none."""
        self._fault_log = FaultLog(
            __name__, "redis unavailable", "redis available again", quiet_seconds=0
        )
        self._fault_since = 0.0
        """Unix time."""

    def _on_invalidation(self, _: Sequence[bytes] | None) -> None:
        if self._tables.changes != self._seen_changes:
            self._change_announced.set()

    async def start(self) -> None:
        """Reconciles for the first time. If Redis does not answer, `run` continues to try.

        Raises:
            SettingsError: the index does not fit the settings, or a startup location is not allowed
                here.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._index.ping()
            # A thousand locations may take longer. Each step has a timeout of its own.
            await self._reconcile()
        except IndexUnavailable as error:
            if isinstance(error.__cause__, SettingsError):
                raise error.__cause__ from None
            self.report_fault(error.detail, str(error))
        except TimeoutError:
            self.report_fault(f"Redis did not answer within {START_TIMEOUT_SECONDS:g} s")

    async def run(self) -> None:
        """Reconciles until the task is cancelled."""
        while True:
            try:
                async with asyncio.timeout(RECONCILE_INTERVAL_SECONDS):
                    await self._change_announced.wait()
            except TimeoutError:
                pass
            self._change_announced.clear()
            try:
                await self._reconcile()
                self.report_fault("")
            except ResolverError as error:
                self.report_fault(error.detail, str(error), is_lost=isinstance(error, IndexLost))
                await asyncio.sleep(RECONCILE_INTERVAL_SECONDS / 2)
            except Exception:
                log.exception("bootstrap failed")
                await asyncio.sleep(RECONCILE_INTERVAL_SECONDS)

    def report_fault(self, fault: str, log_text: str = "", *, is_lost: bool = False) -> None:
        """Sets `fault`, and logs its begin and its end. ``log_text``: the same with details that
        only operators may see. ``is_lost``: Redis answers, and has no index."""
        self._is_lost = is_lost
        if fault:
            if not self.fault:
                self._fault_since = time.time()
            self._fault_log.record_failure(log_text or fault)
        else:
            self._fault_log.record_success()
        self.fault = fault

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        if self.fault:
            yield Problem(
                code="index-unavailable",
                text=f"The index cannot be used: {self.fault}.",
                action=ACTION_FOR_LOST_INDEX if self._is_lost else ACTION_FOR_REDIS,
                since=self._fault_since,
            )
        for name in self._startup_locations.keys() & self._tables.table.removed:
            yield Problem(
                code="startup-location-removed",
                text=f"Location {name!r} was given at start, and an operator has removed it: it is "
                "not registered again.",
                action="Take it out of the file or the options that this process starts with; or "
                "register it again with `glance-resolver locations add` or `locations apply`.",
                location=name,
            )

    async def _ensure_rights(self) -> None:
        """Tries the commands that the index needs, before one that is missing fails half-way.

        Raises:
            IndexUnavailable: one is missing.
        """
        findings = await self._index.server_watch.check()
        lacking = [finding for finding in findings if finding.required and not finding.ok]
        if any(finding.name == REACHABLE for finding in lacking):
            return  # what comes next fails for the same reason, and says which
        if lacking:
            text = "; ".join(f"{finding.text}: {finding.fix}" for finding in lacking)
            raise IndexUnavailable(
                "Redis does not allow what is needed: `glance-resolver doctor` says what",
                log_detail=text,
            ) from SettingsError(f"{text} (docs/storage.md lists all rights)")
        self._has_rights = True

    async def _reconcile(self) -> None:
        if not self._has_rights:
            await self._ensure_rights()
        self._seen_changes = self._tables.changes
        try:
            identity = await self._index.identity()
        except IndexLost:
            identity = await self._make_index()
        if self._index.read_only_because:
            pass  # others register the locations; `Index.problems` reports it
        elif self._last_table is None:
            if identity != self.registered_index:
                await self._register_at_start()
        else:
            await self._tables.current()
            await self._tables.refresh_if_lost()
            table = self._tables.table
            # Other parts of this process may have read the table without them first.
            lost = {
                view.name: view
                for view in (*self._lost_startup_locations(table), *self._last_table.lost_in(table))
            }
            if lost:
                await self._register_again(list(lost.values()))
        if self._last_table is None or identity != self.registered_index:
            with contextlib.suppress(IndexReadOnly):
                await self._index.server_watch.record_losses()
        if not self._index.read_only_because:
            self._tables.expect(())
        self.registered_index = identity
        self._remember(await self._tables.current())

    def _remember(self, table: Table) -> None:
        self._last_table = table
        seen = table.by_name.keys() & self._startup_locations.keys()
        self._last_seen |= {name: table.by_name[name] for name in seen}

    def _lost_startup_locations(self, table: Table) -> list[LocationView]:
        return [view for name, view in self._last_seen.items() if name in table.lost_names]

    async def _register_at_start(self) -> None:
        """Registers the startup locations, but for those that an operator has removed."""
        removed = (await self._index.records.load()).removed & self._startup_locations.keys()
        if removed:
            log.warning(
                "locations removed by an operator are not registered", locations=sorted(removed)
            )
        wanted = {
            name: fields for name, fields in self._startup_locations.items() if name not in removed
        }
        result = await self._registry.register(wanted, self._on_progress)
        if result.added or result.changed:
            log.info(
                "startup locations registered",
                added=some_names(result.added),
                changed=some_names(result.changed),
            )

    async def _make_index(self) -> str:
        """Makes the index, with its locations registered first. Returns its identity.

        Raises:
            IndexLost: Redis lost locations of which this process knows nothing.
        """
        newest = self._tables.table  # other parts of this process read it too
        if self._last_table is not None and newest.identity == self._last_table.identity:
            self._remember(newest)
        last = self._last_table
        seen = [*last.by_name.values(), *self._lost_startup_locations(last)] if last else []
        # A worker that replaced another has no table yet, but was started with an index's identity.
        had_locations = bool(last.by_name) if last else bool(self.registered_index)
        if not had_locations or self._startup_locations:
            if last is None:
                await self._register_at_start()
            else:
                await self._register_again(seen)
        elif not (await self._index.records.load()).records:
            names = f" ({some_names(list(last.by_name))})" if last else ""
            raise IndexLost(
                "Redis has lost its data, and this process was started without locations: "
                f"register them again{names}"
            ) from None
        elif last is not None:
            await self._register_again(seen)
        await self._index.create_if_missing()
        self.registered_index = await self._index.identity()
        return self.registered_index

    async def _register_again(self, lost: Sequence[LocationView]) -> None:
        """Registers startup locations that Redis lost, as this process last saw them. The others
        are recorded as lost: somebody may have changed them since, or not want them any more."""
        if self._last_table is None:
            return
        # Other processes may remember claims by the numbers of the lost locations.
        await self._index.records.skip_numbers_through(max(self._last_table.by_number, default=0))
        wanted = {
            view.name: fields_of(view.location)
            for view in lost
            if view.name in self._startup_locations
        }
        others = [view.name for view in lost if view.name not in wanted]
        if others:  # before the index is made, so that no process proves anything without them
            await self._index.records.record_lost(others)
        await self._registry.register(wanted)
        if wanted:
            log.warning("redis lost its data, locations registered again", locations=[*wanted])
