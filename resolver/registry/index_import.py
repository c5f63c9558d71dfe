"""Importing an export: what it does to the registry and to the claims."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from resolver.errors import Conflict, InvalidLocation
from resolver.index import Claims, Count
from resolver.models import Location
from resolver.registry.export_format import Block, Head
from resolver.registry.presentation import fields_of
from resolver.registry.registry import Registry
from resolver.registry.table import TableKeeper

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
        request_host: str = "",
        by: str = "",
        with_auth: bool = False,
    ) -> None:
        """``request_host`` and ``by``: as for `Registry.put`. ``with_auth``: new locations get the
        credentials that the file names, to be sent to the servers that it names."""
        self.with_auth = with_auth
        self._registry = registry
        self._tables = tables
        self._claims = claims
        self._request_host = request_host
        self._by = by
        self._targets: list[Location] = []
        """The locations as they are registered here, by their number in the export."""
        self._in_flight: deque[asyncio.Task[None]] = deque()
        self._registered: list[str] = []
        self._without_auth: list[str] = []
        """Of those, the ones whose credentials were left out."""
        self._image_count = self._claim_count = 0
        self._new_claims = Count(0)

    def summary(self) -> dict[str, Any]:
        """What was imported so far, as the HTTP API shows it."""
        return {
            "locations": len(self._targets),
            "registered": self._registered,
            "without_auth": self._without_auth,
            "images": self._image_count,
            "claims": self._claim_count,
            "new": int(self._new_claims) if self._new_claims.is_exact else None,
        }

    def summary_text(self) -> str:
        """What was imported so far, in words."""
        if not self._registered and not self._claim_count:
            return "nothing was imported"
        names = ", ".join(self._registered)
        return f"{self._image_count} images with {self._claim_count} claims were imported" + (
            f", and registered: {names}" if names else ""
        )

    async def add(self, part: Head | Block) -> None:
        """Registers the locations of a head, or starts to claim the images of a block.

        Raises:
            InvalidLocation: a location is not allowed here.
            Conflict: a location is another server here, or was removed during the import.
            IndexUnavailable: Redis does not answer.
        """
        if isinstance(part, Head):
            await self._register(part.locations)
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

    async def _register(self, wanted: Sequence[Location]) -> None:
        """Registers the locations that are missing. All are checked before the first is added."""
        existing = (await self._tables.current()).by_name
        missing = []
        for location in wanted:
            view = existing.get(location.name)
            if view is None:
                await self._check_target(location)
                missing.append(location)
            elif view.location.url != location.url:
                raise Conflict(
                    f"location {location.name!r} is {view.location.url} here and "
                    f"{location.url} in the file: remove it here or set its URL first",
                    code="other-location",
                )
        for location in missing:
            fields = fields_of(location)
            if not self.with_auth and (location.auth or location.notifications):
                fields |= {"auth": None, "notifications": None}
                if location.auth:
                    fields["sees_all"] = None  # it was about what that credential sees
                self._without_auth.append(location.name)
            await self._registry.put(
                location.name, fields, request_host=self._request_host, by=self._by
            )
            self._registered.append(location.name)
        registered = (await self._tables.current()).by_name
        for location in wanted:
            if location.name not in registered:
                raise _removed(location.name)
        self._targets = [registered[location.name].location for location in wanted]

    async def _check_target(self, location: Location) -> None:
        try:
            await self._registry.check_target(location.url, self._request_host)
        except InvalidLocation as error:
            error.detail = f"location {location.name!r}: {error.detail}"
            raise

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
                raise _removed(target.name)
        self._image_count += block.images
        self._claim_count += block.claims
        self._new_claims = self._new_claims.plus(new_claims)


def _removed(name: str) -> Conflict:
    return Conflict(f"location {name!r} was removed, or given another URL, during the import")
