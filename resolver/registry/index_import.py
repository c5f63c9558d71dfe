"""Importing an export: what it does to the registry and to the claims."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from resolver.errors import Conflict, InvalidLocation
from resolver.index import Claims, Count
from resolver.models import Location
from resolver.registry.export_format import Block, Head
from resolver.registry.location_batch import BatchRequest, Fields
from resolver.registry.registry import Registry
from resolver.registry.table import TableKeeper
from resolver.turns import in_turns

MAX_BLOCKS_IN_FLIGHT = 4
"""Blocks that are claimed at the same time, so that both Redis and this process have work."""


class IndexImport:
    """One import. It registers the locations of the export, then claims its images block by block.

    Every step may be repeated: an import that broke off is completed by importing the whole export
    again.
    """

    def __init__(
        self,
        registry: Registry,
        tables: TableKeeper,
        claims: Claims,
        *,
        update_locations: bool = False,
        request_host: str = "",
        by: str = "",
        with_auth: bool = False,
    ) -> None:
        """``update_locations``: gives locations that exist the fields that the export has, too.
        ``request_host`` and ``by``: as for `Registry.put`. ``with_auth``: locations get the
        credentials that the file names, to be sent to the servers that it names."""
        self.with_auth = with_auth
        self._registry = registry
        self._tables = tables
        self._claims = claims
        self._update_locations = update_locations
        self._request_host = request_host
        self._by = by
        self._targets: list[Location] = []
        """The locations as they are registered here, by their number in the export."""
        self._in_flight: deque[asyncio.Task[None]] = deque()
        self._registered: list[str] = []
        self._updated: list[str] = []
        self._without_auth: list[str] = []
        """Of those, the ones whose credentials were left out."""
        self._different: list[str] = []
        """Names of locations that exist with other fields than in the export, and stay so."""
        self._image_count = self._claim_count = 0
        self._new_claims = Count(0)

    def summary(self) -> dict[str, Any]:
        """What was imported so far, as the HTTP API shows it."""
        return {
            "locations": len(self._targets),
            "registered": self._registered,
            "without_auth": self._without_auth,
            "updated": self._updated,
            "different": self._different,
            "images": self._image_count,
            "claims": self._claim_count,
            "new": int(self._new_claims) if self._new_claims.is_exact else None,
        }

    def summary_text(self) -> str:
        """What was imported so far, in words."""
        if not (self._registered or self._updated or self._claim_count):
            return "nothing was imported"
        text = f"{self._image_count} images with {self._claim_count} claims were imported"
        for what, names in (("registered", self._registered), ("updated", self._updated)):
            text += f", and {what}: {', '.join(names)}" if names else ""
        return text

    async def add(self, part: Head | Block) -> None:
        """Registers the locations of a head, or starts to claim the images of a block.

        Raises:
            InvalidLocation: a location is not allowed here.
            Conflict: a location is another server here, or was removed during the import.
            IndexUnavailable: Redis does not answer.
        """
        if isinstance(part, Head):
            await self._register(part)
            return
        if len(self._in_flight) >= MAX_BLOCKS_IN_FLIGHT:
            await self._finish_oldest()
        self._in_flight.append(asyncio.create_task(self._claim(part)))
        await asyncio.sleep(0)  # let the task start before the next block is parsed

    async def finish(self) -> None:
        """Waits until every block is claimed; raises what `add` raises."""
        while self._in_flight:
            await self._finish_oldest()

    async def stop(self) -> None:
        """Waits until no block is being claimed, and ignores their errors."""
        tasks = list(self._in_flight)
        self._in_flight.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish_oldest(self) -> None:
        await self._in_flight[0]
        self._in_flight.popleft()

    async def _register(self, head: Head) -> None:
        """Registers the locations that are missing, and changes those that exist if that is wanted.
        All are checked before the first is written."""
        existing = await self._registry.records()
        put = {}
        async for location, fields in in_turns(zip(head.locations, head.fields, strict=True)):
            record = existing.get(location.name)
            if record is not None and record.location.url != location.url:
                raise Conflict(
                    f"location {location.name!r} is {record.location.url} here and "
                    f"{location.url} in the file: remove it here or set its URL first",
                    code="other-location",
                )
            if record is None or self._update_locations:
                here = record.location if record else None
                put[location.name] = self._fields_to_write(location, fields, here)
            elif not _has_fields(record.location, location, fields):
                self._different.append(location.name)
        if put:
            request = BatchRequest(
                put=put, keep_other_fields=True, by=self._by, request_host=self._request_host
            )
            try:
                result = await self._registry.apply(request)
            except InvalidLocation as error:
                error.detail = f"location {error.detail}"
                raise
            self._registered, self._updated = result.added, result.changed
        registered = (await self._tables.current()).by_name
        for location in head.locations:
            if location.name not in registered:
                raise _removed_error(location.name)
        self._targets = [registered[location.name].location for location in head.locations]

    def _fields_to_write(self, location: Location, fields: Fields, here: Location | None) -> Fields:
        """The fields of the file, without credentials unless these are wanted too. ``here``: the
        location as it is registered."""
        if self.with_auth:
            return fields
        secrets = location.auth, location.notifications
        if any(secrets) and (here is None or secrets != (here.auth, here.notifications)):
            self._without_auth.append(location.name)
        left_out = {"auth", "notifications"}
        if location.auth or (here and here.auth):
            left_out.add("sees_all")  # it is about what that credential sees
        return {name: value for name, value in fields.items() if name not in left_out}

    async def _claim(self, block: Block) -> None:
        new_claims = Count(0)
        for number, ids in block.ids_by_location.items():
            target = self._targets[number]
            new_claims = new_claims.plus(await self._claims.claim(target.number, ids))
        # Only afterwards: claims of a location that was removed meanwhile may have been written
        # after the collection of its claims.
        registered = (await self._tables.current()).by_number
        for number, ids in block.ids_by_location.items():
            target = self._targets[number]
            if target.number not in registered:
                await self._claims.release(target.number, ids)
                raise _removed_error(target.name)
        self._image_count += block.images
        self._claim_count += block.claims
        self._new_claims = self._new_claims.plus(new_claims)


def _has_fields(here: Location, in_file: Location, fields: Fields) -> bool:
    """Whether a location has the values of these fields that the file has."""
    return all(getattr(here, name) == getattr(in_file, name) for name in fields)


def _removed_error(name: str) -> Conflict:
    return Conflict(f"location {name!r} was removed, or given another URL, during the import")
