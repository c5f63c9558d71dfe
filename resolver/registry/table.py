"""The locations as answers need them: an immutable table, replaced when the registry changes."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property

import structlog

from resolver.errors import IndexLost, IndexReadOnly, IndexUnavailable
from resolver.index import Index, Record, Snapshot
from resolver.models import Location
from resolver.registry.admission import LOOKUP_INTERVAL_SECONDS, NO_RULES, Admission
from resolver.registry.coverage import FreshnessPolicy
from resolver.registry.location_view import LocationView
from resolver.registry.network_regions import NetworkRegions

MAX_LOGGED_NAMES = 8
"""Of locations, in one line of the log."""

log = structlog.get_logger()

MAX_NAMED = 100
"""Locations that Redis has lost, or whose records cannot be read, that are named at most. Something
else may have written any number of rows, and everybody may read these names."""


def some_names(names: Iterable[str]) -> str:
    """The first few of these names, and how many more there are."""
    listed = list(names)
    more = len(listed) - MAX_LOGGED_NAMES
    shown = ", ".join(listed[:MAX_LOGGED_NAMES])
    return f"{shown} and {more:,} more" if more > 0 else shown


class Table:
    """All locations as of one version of the registry."""

    def __init__(
        self,
        snapshot: Snapshot,
        policy: FreshnessPolicy,
        lost_until: Mapping[str, float] | None = None,
        previous: Table | None = None,
        expected: Iterable[str] = (),
        refusal: Callable[[Location], str] = NO_RULES.refusal,
    ) -> None:
        """``lost_until``: for each location that was lost with the data of Redis, and that Redis
        does not know to be lost, the time (of `time.monotonic`) until which `absent` is not
        answered because of it. ``previous``: a table that the snapshot has changed, if it has.
        ``expected``: see `TableKeeper.expect`.
        ``refusal``: why clients must not be sent to a location, whatever its state is; empty if
        they may."""
        self.policy = policy
        self.identity = snapshot.identity
        self.version = snapshot.version
        self.removed = snapshot.removed
        self.records: Mapping[str, Record] = snapshot.records
        self.unreadable: Mapping[str, str] = snapshot.unreadable
        self.lost = snapshot.lost
        self.servers, self.losses = snapshot.servers, snapshot.losses
        self.by_name: Mapping[str, LocationView]
        self.by_number: Mapping[int, LocationView]
        changed = snapshot.changed

        def make_view(record: Record) -> LocationView:
            location = record.location
            return LocationView(location, record.status, policy, snapshot.losses, refusal(location))

        if previous is None or changed is None or previous.losses != snapshot.losses:
            self.by_name = {name: make_view(record) for name, record in snapshot.records.items()}
            self.by_number = {view.location.number: view for view in self.by_name.values()}
        else:
            self.by_name, self.by_number = _changed_views(previous, snapshot, changed, make_view)
        self._in_service = [view for view in self.by_name.values() if view.in_service]
        self.regions = frozenset(view.location.region for view in self._in_service)
        self.has_mixed_schemes = len({view.has_https for view in self._in_service}) > 1
        """Whether clients can be sent to https and to http."""
        self._vouching = [view for view in self._in_service if view.location.vouches]
        self.unregistered = [
            name for name in expected if name not in self.by_name and name not in self.removed
        ]
        """Those that are expected; see `TableKeeper.expect`."""
        self.lost_until = {
            name: until for name, until in (lost_until or {}).items() if name not in self.by_name
        }

    @cached_property
    def network_regions(self) -> NetworkRegions:
        """The regions near clients, by the networks that locations name."""
        return NetworkRegions(view.location for view in self.by_name.values())

    def domain_of_token(self, region: str) -> str | None:
        """The domain of a client's token, which itself does not say it: the only one, or that of
        the region that the client asks for. None where this leaves several."""
        domains = {view.location.domain for view in self._in_service}
        if len(domains) > 1:
            views = [view for view in self._in_service if view.location.region == region != ""]
            domains = {view.location.domain for view in views}
        return domains.pop() if len(domains) == 1 else None

    @cached_property
    def depends_on_client(self) -> bool:
        """Whether the order of owners may depend on the client's address or scheme."""
        return self.has_mixed_schemes or bool(self.network_regions)

    def __len__(self) -> int:
        return len(self.by_name)

    def not_offered(self) -> dict[str, str]:
        """The locations that are not offered although no operator says so: by name, with the
        reason. They are refused, or their records cannot be read; at most `MAX_NAMED` of these."""
        refused = {view.name: view.refused for view in self.by_name.values() if view.refused}
        unreadable = dict.fromkeys(self.some_unreadable, "its record in Redis cannot be read")
        return refused | unreadable

    def lost_in(self, newer: Snapshot | Table) -> list[LocationView]:
        """The locations of this table that ``newer`` lacks although nobody removed them: Redis lost
        them."""
        names = newer.changed if isinstance(newer, Snapshot) else None
        return [
            view
            for view in self._views(names)
            if view.name not in newer.records
            and view.name not in newer.removed
            and view.name not in newer.unreadable
        ]

    def _views(self, names: Iterable[str] | None) -> Iterable[LocationView]:
        """The views of these names, as far as there are some; None: all."""
        if names is None:
            return self.by_name.values()
        return [self.by_name[name] for name in names if name in self.by_name]

    def reuses_numbers_of(self, older: Table, changed: Iterable[str] | None = None) -> bool:
        """Whether a number belongs to another location than in ``older``. No change of the registry
        does that, so the index is another one or an older state of this one. ``changed``: the
        locations that may differ; None: any."""
        return any(
            view.location.number in older.by_number
            and older.by_number[view.location.number].name != view.name
            for view in self._views(changed)
        )

    def in_service(self) -> list[LocationView]:
        """The locations that are not in maintenance."""
        return self._in_service

    def vouching(self) -> list[LocationView]:
        """The locations in service that must prove that they lack an image before it is absent. Of
        the others, see `unasked_problems`."""
        return self._vouching

    def coverage_problems(self, now: float, within: float | None = None) -> dict[str, str]:
        """Why `absent` cannot be answered: the names of locations that vouch and for which the
        index is not complete and fresh, each with the reason. ``within``: see
        `LocationView.coverage_problem`."""
        problems = {view.name: view.coverage_problem(now, within) for view in self.vouching()}
        uncovered = {name: why for name, why in problems.items() if why}
        return uncovered | self.unasked_problems(now) | self.lost_locations()

    def uncovered(self, now: float) -> set[str]:
        """The names of all locations of whose images the index may lack some, whether they vouch
        and are in service or not."""
        views = {view.name for view in self.by_name.values() if view.coverage_problem(now)}
        return views | self.lost_locations().keys()

    @cached_property
    def _unasked(self) -> list[LocationView]:
        return [v for v in self.by_name.values() if not v.in_service and v.location.vouches]

    def unasked_problems(self, now: float) -> dict[str, str]:
        """The names of locations that vouch, are not in service, so that nobody asks them, and may
        have images of which the index does not know, each with the reason."""
        problems = {view.name: view.unasked_problem(now) for view in self._unasked}
        return {name: why for name, why in problems.items() if why}

    @property
    def lost_names(self) -> frozenset[str]:
        """The locations that Redis has lost, as far as Redis or this process knows: they were
        registered, nobody has removed them, and nobody has registered them again."""
        return self.lost | self.lost_until.keys()

    @cached_property
    def some_lost(self) -> list[str]:
        """The first of `lost_names`, at most `MAX_NAMED`."""
        return heapq.nsmallest(MAX_NAMED, self.lost_names)

    @cached_property
    def some_unreadable(self) -> list[str]:
        """The first of `unreadable`, at most `MAX_NAMED`."""
        return heapq.nsmallest(MAX_NAMED, self.unreadable)

    def lost_locations(self) -> dict[str, str]:
        """The names of locations of which nothing is known here, each with a reason for why they
        count: Redis lost them and they are not registered again, they are not registered yet, or
        this version cannot read them. Of each kind at most `MAX_NAMED` are named."""
        now = time.monotonic()
        lost = {
            name: "Redis lost its data, and it is not registered again"
            for name, until in self.lost_until.items()
            if now < until
        }
        lost |= dict.fromkeys(self.unregistered, "it was given at start, and is not registered yet")
        lost |= {
            name: "Redis lost its record, and it is not registered again"
            for name in self.some_lost
            if name in self.lost
        }
        return lost | dict.fromkeys(
            self.some_unreadable, "this version of the resolver cannot read its record"
        )


def _changed_views(
    previous: Table,
    snapshot: Snapshot,
    changed: Iterable[str],
    make_view: Callable[[Record], LocationView],
) -> tuple[dict[str, LocationView], dict[int, LocationView]]:
    """The views by name and by number, of which only these have changed."""
    by_name, by_number = dict(previous.by_name), dict(previous.by_number)
    is_new = False
    for name in changed:
        before = by_name.get(name)
        if before is not None:
            by_number.pop(before.location.number, None)
        record = snapshot.records.get(name)
        if record is None:
            by_name.pop(name, None)
            continue
        view = make_view(record)
        is_new |= before is None
        by_name[name] = by_number[record.location.number] = view
    if is_new:
        by_name = {name: by_name[name] for name in snapshot.records}
    return by_name, by_number


def index_timeout_error(seconds: float) -> IndexUnavailable:
    """The error for a request that waited ``seconds`` for Redis without an answer."""
    return IndexUnavailable(
        f"Redis did not answer within {seconds:.2g} s", headers={"Retry-After": "2"}
    )


class TableKeeper:
    """Holds the newest table that this process has read, and reads it again when it changed."""

    def __init__(
        self,
        index: Index,
        policy: FreshnessPolicy,
        lost_for_seconds: float = 3600.0,
        admission: Admission = NO_RULES,
    ) -> None:
        """``lost_for_seconds``: how long a location that was lost with the data of Redis keeps
        `absent` from being answered. ``admission``: where clients may be sent."""
        self._index = index
        self.policy = policy
        self._admission = admission
        self._lost_for_seconds = lost_for_seconds
        self._lock = asyncio.Lock()
        self._snapshot = Snapshot(-1, {})
        """What `table` was made from."""
        self.table = Table(self._snapshot, policy)
        self._expected: tuple[str, ...] = ()
        self._read_at = -math.inf
        """When everything was read last, by `time.monotonic`."""
        self._is_new = asyncio.Event()
        """Set when the table has changed, for `watch_hosts`."""
        self._confirmed_changes = -1
        self._confirmed_at = 0.0
        """When `table` was last known to be the current one, by `time.monotonic`."""

    @property
    def changes(self) -> int:
        """A counter that grows whenever the registry may have changed since it was last read."""
        return self._index.records.changes

    @property
    def is_current(self) -> bool:
        """Whether no change was announced since `table` was confirmed. This can be relied on only
        while Redis announces changes to this process (client tracking)."""
        return self._confirmed_changes == self._index.records.changes

    def expect(self, names: Iterable[str]) -> None:
        """From the next table on, these locations keep `absent` from being answered until they are
        registered, unless somebody has removed them."""
        self._expected = tuple(names)

    def refusal(self, location: Location) -> str:
        """Why clients must not be sent to a location; empty if they may."""
        return self._admission.refusal(location)

    async def look_up_hosts(self) -> None:
        """Looks up the hosts that only their addresses can allow, and makes the table again if
        other locations may be offered now."""
        locations = [record.location for record in self._snapshot.records.values()]
        if await self._admission.look_up_hosts(locations):
            async with self._lock:
                self._set_table(replace(self._snapshot, changed=None))

    async def watch_hosts(self) -> None:
        """Keeps looking up hosts, as `look_up_hosts`; for a background task. Ends at once where no
        rule needs it."""
        while self._admission.needs_addresses:
            self._is_new.clear()
            await self.look_up_hosts()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOKUP_INTERVAL_SECONDS):
                    await self._is_new.wait()

    def confirm(self, changes: int) -> None:
        """Records that `table` is at least as new as the version that was read when `changes` had
        this value."""
        self._confirmed_changes = changes
        self._confirmed_at = time.monotonic()

    def recent(self, max_age: float) -> Table | None:
        """The table if it was confirmed within ``max_age`` seconds, for answers while Redis is
        unavailable.

        None if there is none, or if this process has already seen claims of another index.
        """
        if time.monotonic() - self._confirmed_at > max_age or not self.table.identity:
            return None
        return self.table if self._is_of_last_seen_index() else None

    async def ensure_version(self, version: int) -> Table:
        """The table of ``version`` or a later one, of the index that was last seen. It is read only
        if `table` has another version.

        Raises:
            IndexUnavailable: it had to be read and Redis did not answer.
        """
        if not self._has(version):
            async with self._lock:
                if not self._has(version):
                    await self._load_changes()
        return self.table

    def _has(self, version: int) -> bool:
        # After a failover the version may be lower, so any other version is a newer state.
        return version == self.table.version and self._is_of_last_seen_index()

    def _is_of_last_seen_index(self) -> bool:
        return self._index.identity_seen == self.table.identity

    async def current(self, deadline: float | None = None) -> Table:
        """The current table, for callers that did not get its version with a lookup. Costs one
        command if nothing changed.

        Raises:
            IndexUnavailable: Redis did not answer, or not within ``deadline`` seconds.
        """
        try:
            async with asyncio.timeout(deadline):
                changes = self.changes
                found = await self._index.claims.lookup([])
                table = await self.ensure_version(found.version)
                if (table.identity, table.version) == found[:2]:
                    self.confirm(changes)
                return table
        except TimeoutError as error:
            raise index_timeout_error(deadline or 0) from error

    async def fresh(self) -> Table:
        """The table, read from Redis whether or not its version changed. Only this way does it show
        the times of health checks and polls that changed nothing else.

        Raises:
            IndexUnavailable: Redis did not answer.
        """
        async with self._lock:
            await self._load()
        return self.table

    async def fresh_within(self, seconds: float) -> Table:
        """As `fresh`, unless everything was read within ``seconds``.

        Raises:
            IndexUnavailable: Redis did not answer.
        """
        async with self._lock:
            if time.monotonic() - self._read_at > seconds:
                await self._load()
        return self.table

    async def refresh(self) -> Table:
        """The current table, for a process that has just changed the registry.

        Raises:
            IndexUnavailable: Redis did not answer.
        """
        async with self._lock:
            await self._load_changes()
        return self.table

    async def refresh_if_lost(self) -> None:
        """Reads the table where Redis has another number of locations than it: the key that has
        them may be gone while the version stays.

        Raises:
            IndexUnavailable: Redis did not answer.
        """
        if await self._index.records.count() != len(self.table.records) + len(
            self.table.unreadable
        ):
            await self.fresh()

    async def _load_changes(self) -> None:
        """Reads what has changed since the last table of the same index, or everything."""
        if self.table.identity and self._is_of_last_seen_index():
            snapshot = await self._index.records.load_changes(self._snapshot)
            if snapshot.complete:
                self._use(snapshot)
                return
        await self._load()

    async def _load(self) -> None:
        started = time.monotonic()
        snapshot = await self._index.records.load()
        if snapshot.identity and not snapshot.complete:
            with contextlib.suppress(IndexReadOnly):
                await self._index.records.restore()
                snapshot = await self._index.records.load()
        self._use(snapshot)
        self._read_at = started

    def _use(self, snapshot: Snapshot) -> None:
        if not snapshot.identity:
            raise IndexLost("Redis has lost the locations", headers={"Retry-After": "2"})
        before = self.table
        lost = before.lost_in(snapshot)
        until = time.monotonic() + self._lost_for_seconds
        lost_until = {view.name: until for view in lost}
        lost_until |= {
            name: earlier
            for name, earlier in before.lost_until.items()
            if name not in snapshot.removed
        }
        self._set_table(snapshot, lost_until)
        if names := sorted(self.table.lost_names - before.lost_names):
            log.warning("redis lost locations", locations=some_names(names))
        self._is_new.set()
        if lost or self.table.reuses_numbers_of(before, snapshot.changed):
            # An older state, or another index: numbers may belong to other locations.
            self._index.clear_cache()

    def _set_table(self, snapshot: Snapshot, lost_until: Mapping[str, float] | None = None) -> None:
        before = self.table
        if lost_until is None:
            lost_until = before.lost_until
        self._snapshot = snapshot
        self.table = Table(
            snapshot, self.policy, lost_until, before, self._expected, self._admission.refusal
        )
        was, now = before.not_offered(), self.table.not_offered()
        for name in (was.keys() - now.keys()) & self.table.by_name.keys():
            log.info("location offered again", location=name)
        for name, reason in now.items():
            if was.get(name) != reason:
                log.warning("location not offered", location=name, reason=reason)
