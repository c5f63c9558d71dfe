"""The locations as answers need them: an immutable table, replaced whole when its version grows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from resolver.errors import IndexUnavailable
from resolver.index import Index, Record, Snapshot
from resolver.models import (
    Api,
    Health,
    Location,
    State,
    Status,
    api_versions,
    format_id,
    minor_version,
)


@dataclass(frozen=True)
class Place:
    """A location as one row of the table, with what each answer needs made ready."""

    location: Location
    status: Status
    fresh_for: float
    """Seconds after its end in which a sweep still vouches, beside its own duration."""

    @property
    def name(self) -> str:
        return self.location.name

    @cached_property
    def serves(self) -> tuple[bool, bool] | None:
        """(v1, v2); None where it is not known yet."""
        if self.location.api is not Api.AUTO:
            return self.location.api is Api.V1, self.location.api is Api.V2
        versions = self.versions
        return api_versions(versions) if versions else None

    @property
    def versions(self) -> tuple[str, ...]:
        return self.status.check.versions if self.status.check else ()

    @property
    def minor(self) -> int:
        """The highest N of the v2.N it serves, -1 where none is known."""
        return minor_version(self.versions)

    @property
    def health(self) -> Health:
        return self.status.check.health if self.status.check else Health.UNKNOWN

    @cached_property
    def images_v1(self) -> str:
        return f"{self.location.url}/v1/images/"

    @cached_property
    def images_v2(self) -> str:
        return f"{self.location.url}/v2/images/"

    def uri(self, raw: bytes, case: int = 0) -> str:
        """The image's identifier here."""
        return self.images_v1 + format_id(raw, case)

    def url(self, raw: bytes, case: int = 0) -> str:
        """What can be fetched of the image here today."""
        if self.serves is None or self.serves[0]:
            return self.uri(raw, case)
        return self.images_v2 + format_id(raw, case)

    def doubt(self, now: float) -> str:
        """Why the index may miss an image of this location; empty when it cannot.

        Anybody may read it: what a server or a file said stands in the sweep's `error` only.
        """
        sweep = self.status.sweep
        if sweep.ended is None or sweep.started is None:
            return f"never swept ({sweep.error_code})" if sweep.error else "not swept yet"
        sees_all = self.location.sees_all
        if sees_all is None:
            sees_all = sweep.sees_all
        if sees_all is False:
            return f"its credential does not see every image: {sweep.sees_all_why}"
        if sees_all is None:
            return f"whether its credential sees every image {sweep.sees_all_why}"
        age = now - sweep.ended
        if age > self.fresh_for + (sweep.ended - sweep.started):
            why = f" ({sweep.error_code})" if sweep.error else ""
            return f"the last whole sweep ended {age:.0f} s ago{why}"
        return ""


class Table:
    """All locations as of one version of the registry."""

    def __init__(self, snapshot: Snapshot, *, fresh_for: float) -> None:
        self.version = snapshot.version
        self.records: Mapping[str, Record] = snapshot.records
        self.by_name = {
            name: Place(record.location, record.status, fresh_for)
            for name, record in snapshot.records.items()
        }
        self.by_number = {place.location.number: place for place in self.by_name.values()}

    def __len__(self) -> int:
        return len(self.by_name)

    def in_service(self) -> list[Place]:
        """Locations that are not in maintenance."""
        return [p for p in self.by_name.values() if p.location.state is not State.MAINTENANCE]

    def doubts(self, now: float) -> dict[str, str]:
        """Why `absent` cannot be said: locations in service that cannot vouch, each with why."""
        doubts = {place.name: place.doubt(now) for place in self.in_service()}
        return {name: doubt for name, doubt in doubts.items() if doubt}


def late(deadline: float) -> IndexUnavailable:
    """Redis took longer than somebody could wait."""
    return IndexUnavailable(
        f"Redis did not answer within {deadline:.2g} s", headers={"Retry-After": "2"}
    )


class TableKeeper:
    """Holds the newest table that this process has seen."""

    def __init__(self, index: Index, *, fresh_for: float) -> None:
        self._index = index
        self._fresh_for = fresh_for
        self._lock = asyncio.Lock()
        self.table = Table(Snapshot(-1, {}), fresh_for=fresh_for)

    async def at_least(self, version: int) -> Table:
        """The table of ``version`` or a later one.

        Raises:
            IndexUnavailable: it had to be read and Redis did not answer.
        """
        if version != self.table.version:
            async with self._lock:
                # A flushed Redis counts from 0 again, so any other version is news.
                if version != self.table.version:
                    await self._load()
        return self.table

    async def current(self, deadline: float | None = None) -> Table:
        """The table as it is now, where no lookup brings its version along.

        Raises:
            IndexUnavailable: Redis did not answer, or not within ``deadline`` seconds.
        """
        try:
            async with asyncio.timeout(deadline):
                return await self.at_least(await self._index.records.version())
        except TimeoutError as error:
            raise late(deadline or 0) from error

    async def fresh(self) -> Table:
        """The table read anew: only there are the times of looks that told nothing new.

        Raises:
            IndexUnavailable: Redis did not answer.
        """
        async with self._lock:
            await self._load()
        return self.table

    async def _load(self) -> None:
        self.table = Table(await self._index.records.load(), fresh_for=self._fresh_for)
