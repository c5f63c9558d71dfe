"""The registry: locations and what is known of them, as `Records` reads and writes it in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from resolver.errors import Conflict, NoNumberLeft
from resolver.index.audit import entry_head, operation_id
from resolver.index.codec import FIRST_MARK
from resolver.index.keys import Keys
from resolver.index.record_codec import (
    ParseCache,
    UnreadableRecord,
    parse_number,
    parse_record,
    record_to_json,
    to_json,
)
from resolver.index.redis.client import RedisClient, ScriptCall
from resolver.index.redis.replies import optional_int, total
from resolver.index.redis.scripts import load
from resolver.index.registry_snapshot import (
    Record,
    Snapshot,
    apply_changes,
    has_number_twice,
    parse_snapshot,
)
from resolver.index.sweep_records import SweepRecords
from resolver.models import Check, Location, Poll, SubscriptionStatus, Sweep
from resolver.turns import parts_of

LOAD = load("load_registry", read_only=True)
LOAD_CHANGES = load("load_changes", read_only=True)
PUT = load("put_location", "once", "grow_version", "audit", "location_numbers", "check_types")
REMOVE = load("remove_location", "once", "grow_version", "audit", "location_numbers", "check_types")
RESTORE = load("restore_registry", "grow_version", "location_numbers")
RECORD_LOST = load("record_lost_locations", "grow_version", "location_numbers", "check_types")
SET_STATUS = load("set_status", "grow_version", "check_types")

T = TypeVar("T")

MAX_CHANGES = 100
"""Locations that are read one by one. Where more have changed, everything is read."""

CHANGES_BATCH = 250
"""Changes of locations in one pipeline: some 10 ms of Redis."""

NO_NUMBER_LEFT = -1
"""What ``put_location.lua`` returns where all numbers were given away."""


class Records(SweepRecords):
    """The registry of one index."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        super().__init__(client, keys)
        self._version_key = keys.version.encode()
        self._parse_cache = ParseCache()
        self.changes = 0
        """Grows when the version has changed, or may have, since it was read."""
        client.on_invalidation(self._invalidated)

    def _invalidated(self, keys: Sequence[bytes] | None) -> None:
        if keys is None or self._version_key in keys:
            self.changes += 1

    async def load(self) -> Snapshot:
        """All locations and their status, of one moment.

        Raises:
            IndexUnavailable: Redis does not answer, or has something else there.
        """
        keys = self.keys
        reply = await self.client.run(
            LOAD,
            [keys.version, keys.locations, keys.status, keys.meta, keys.removed],
            foreground=True,
        )
        with self._parse_cache.loading():
            return await parse_snapshot(reply, self._parse_cache)

    async def load_changes(self, known: Snapshot) -> Snapshot:
        """The same, from a snapshot that this process has: only the locations are read that have
        changed since. Checks and polls that changed nothing else stay as they were.

        Raises:
            IndexUnavailable: Redis does not answer, or has something else there.
        """
        keys = self.keys
        reply = await self.client.run(
            LOAD_CHANGES,
            [keys.version, keys.locations, keys.status, keys.meta, keys.removed, keys.changes],
            [known.version, known.identity, MAX_CHANGES],
            foreground=True,
        )
        changed = apply_changes(known, reply) if reply else None
        if changed is None or has_number_twice(changed.records):
            return await self.load()
        return changed

    async def put(self, location: Location, before: Record | None, by: str = "") -> Location:
        """Writes a location if its record still is ``before``, and logs who it was ``by``. Returns
        it with its number.

        A location whose URL changed is another server: it gets a new number, so that no claim
        made for the old one counts.

        Raises:
            Conflict: it was changed meanwhile.
            NoNumberLeft: all were given to locations.
            IndexUnavailable: Redis does not answer.
        """
        (number,) = await self.client.run_all([self._put_call(location, before, by)])
        if not _was_put(number):
            raise Conflict(
                f"location {location.name!r} was changed by somebody else meanwhile: read it again"
            )
        return replace(location, number=number)

    def _put_call(self, location: Location, before: Record | None, by: str) -> ScriptCall:
        name, keys = location.name, self.keys
        moved = before is not None and before.location.url != location.url
        return (
            PUT,
            [
                keys.version,
                keys.locations,
                keys.status,
                keys.numbers,
                keys.retired,
                keys.progress,
                keys.sweep_requests,
                keys.audit,
                keys.removed,
                keys.result(operation_id()),
                keys.meta,
                keys.changes,
            ],
            [
                name,
                before.stored if before else "",
                record_to_json(location),
                int(moved),
                entry_head(by, "change" if before else "add", name),
                FIRST_MARK,
            ],
        )

    async def put_many(
        self, changes: Sequence[tuple[Location, Record | None]], by: str = ""
    ) -> list[int]:
        """As `put` for many, in few round trips. Returns the number of each, 0 where it was changed
        meanwhile.

        Raises:
            NoNumberLeft: all were given to locations.
            IndexUnavailable: Redis does not answer. What was written stays.
        """
        calls = [self._put_call(location, before, by) for location, before in changes]
        numbers = await self._run_batches(calls)
        return [number if _was_put(number) else 0 for number in numbers]

    async def _run_batches(self, calls: Sequence[ScriptCall]) -> list[int]:
        """Runs scripts that change one location each. The first goes alone, so that Redis knows the
        script before the others come."""
        results: list[int] = []
        for batch in (calls[:1], *parts_of(calls[1:], CHANGES_BATCH)):
            if batch:
                results += await self.client.run_all(batch)
        return results

    async def remove(self, name: str, by: str = "") -> bool:
        """Removes a location with one write; its claims stop counting with it. False: there was
        none.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        return (await self.remove_many([name], by))[0]

    async def remove_many(self, names: Sequence[str], by: str = "") -> list[bool]:
        """As `remove` for many, in few round trips."""
        keys = self.keys
        calls = [
            (
                REMOVE,
                [
                    keys.version,
                    keys.locations,
                    keys.status,
                    keys.retired,
                    keys.progress,
                    keys.sweep_requests,
                    keys.audit,
                    keys.removed,
                    keys.result(operation_id()),
                    keys.meta,
                    keys.changes,
                ],
                [name, entry_head(by, "remove", name)],
            )
            for name in names
        ]
        return [bool(number) for number in await self._run_batches(calls)]

    async def restore(self) -> None:
        """Writes again what is missing in a snapshot that is not `Snapshot.complete`.

        Raises:
            IndexUnavailable: Redis does not answer, or this process must not write.
        """
        keys = self.keys
        await self.client.run(RESTORE, [keys.version, keys.locations, keys.meta])

    async def record_lost(self, names: Sequence[str]) -> None:
        """Records that Redis has lost these locations, which this process has seen there: from then
        on they are in `Snapshot.lost` for every process, until they are registered again or
        removed. Those that have a record, or that somebody has removed, are left out.

        Raises:
            IndexUnavailable: Redis does not answer, or this process must not write.
        """
        keys = self.keys
        await self.client.run(
            RECORD_LOST,
            [keys.version, keys.locations, keys.removed, keys.meta, keys.changes],
            names,
        )

    async def count(self) -> int:
        """How many locations Redis has.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        return total([await self.client.command("HLEN", self.keys.locations)])

    async def skip_numbers_through(self, number: int) -> None:
        """In an index that lost its locations: makes sure that no new location gets one of the
        numbers up to this, which processes may remember for others."""
        last = optional_int(await self.client.command("GET", self.keys.numbers)) or 0
        if last < number:  # two processes at once skip some more, which is harmless
            await self.client.command("INCRBY", self.keys.numbers, number - last)

    async def check(self, number: int) -> Check | None:
        """The last health check of a location, also one that was stored quietly."""
        text = await self.client.command("HGET", self.keys.status, f"{number}:check")
        return _readable(Check, text) if text else None

    async def poll(self, number: int) -> Poll:
        """The last poll of a location, also one that was stored quietly."""
        text = await self.client.command("HGET", self.keys.status, f"{number}:poll")
        return (_readable(Poll, text) if text else None) or Poll()

    async def sweep(self, number: int) -> Sweep:
        """The sweeps of a location."""
        text = await self.client.command("HGET", self.keys.status, f"{number}:sweep")
        return (_readable(Sweep, text) if text else None) or Sweep()

    async def set_check(
        self, number: int, check: Check, of: Location | None = None, *, quiet: bool = False
    ) -> None:
        """Stores a health check, unless the location was removed, or is no longer ``of``.

        ``quiet``: nothing that answers depend on has changed, so the version stays and no process
        reads the registry again for it.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        await self._set_status("check", number, check, of, quiet=quiet)

    async def set_sweep(self, number: int, sweep: Sweep, of: Location | None = None) -> None:
        """Stores how a sweep ended; otherwise as `set_check`."""
        await self._set_status("sweep", number, sweep, of)

    async def set_poll(self, number: int, poll: Poll, of: Location, *, quiet: bool = False) -> None:
        """Stores how a poll ended; otherwise as `set_check`."""
        await self._set_status("poll", number, poll, of, quiet=quiet)

    async def set_subscription(
        self, number: int, subscription: SubscriptionStatus, of: Location, *, quiet: bool = False
    ) -> None:
        """Stores the state of a location's notifications; otherwise as `set_check`."""
        await self._set_status("feed", number, subscription, of, quiet=quiet)

    async def _set_status(
        self,
        what: str,
        number: int,
        record: Check | Sweep | Poll | SubscriptionStatus,
        of: Location | None,
        *,
        quiet: bool = False,
    ) -> None:
        keys = self.keys
        same_location = [of.name, f'"created":{to_json(of.created)},'] if of else []
        await self.client.run(
            SET_STATUS,
            [
                keys.version,
                keys.status,
                keys.retired,
                keys.locations,
                keys.changes,
                keys.meta,
            ],
            [what, number, record_to_json(record), int(quiet), *same_location],
        )

    async def retired(self) -> list[int]:
        """Numbers of removed locations whose claims may still be in the buckets."""
        return _sorted_numbers(await self.client.command("SMEMBERS", self.keys.retired))

    async def forget_retired(self, numbers: list[int]) -> None:
        """Their claims are all dropped."""
        for number in numbers:
            await self.end_progress(number)
        await self.client.command("HDEL", self.keys.released, *numbers)
        await self.client.command("SREM", self.keys.retired, *numbers)


def _was_put(number: int) -> bool:
    """Whether ``put_location.lua`` wrote the location. Raises NoNumberLeft where it could not."""
    if number == NO_NUMBER_LEFT:
        raise NoNumberLeft(
            f"this index has given all of its {FIRST_MARK - 1} numbers to locations: export it, "
            "and import it with another RESOLVER_PREFIX"
        )
    return bool(number)


def _readable(kind: type[T], text: bytes) -> T | None:
    """A record; None where this version cannot read it: it then counts as not known."""
    try:
        return parse_record(kind, text)
    except UnreadableRecord:
        return None


def _sorted_numbers(reply: Iterable[Any]) -> list[int]:
    """The numbers of a set; other members are ignored."""
    numbers = (parse_number(bytes(member)) for member in reply)
    return sorted(number for number in numbers if number is not None)
