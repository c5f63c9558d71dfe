"""Seeing that there is an index, and that it has the locations that this process was given."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from resolver.errors import IndexLost, IndexUnavailable, ResolverError, SettingsError
from resolver.index import Index
from resolver.registry.export_format import fields_of
from resolver.registry.registry import Registry
from resolver.registry.table import Table, TableKeeper

LOOK = 1.0
"""Seconds between two looks at which index there is. What is told to have changed is read at once,
so that the table is that of now when Redis goes."""

START = 2.0
"""Seconds that a start waits for Redis."""

StartupLocations = Mapping[str, Mapping[str, Any]]
"""Fields of locations by name, as from a file."""

log = structlog.get_logger()


class Bootstrap:
    """Makes the index where there is none, registers what was given at the start, and does so again
    when Redis has lost its data.

    What an operator changed before that is kept, as far as this process knew: a location that he
    removed does not come back, and one in maintenance stays there.
    """

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        registry: Registry,
        given: StartupLocations,
        registered: str = "",
    ) -> None:
        """``registered``: the identity of the index that has what was given already."""
        self._index = index
        self._tables = tables
        self._registry = registry
        self._given = given
        self.registered = registered
        self._last: Table | None = None
        """The table of the index that was seen last."""
        self._changes = -1
        self._news = asyncio.Event()
        index.on_invalidation(self._hear)
        self.fault = ""
        """What keeps the index from being of use; for anybody to read."""

    def _hear(self, _: Sequence[bytes] | None) -> None:
        if self._tables.changes != self._changes:
            self._news.set()

    async def start(self) -> None:
        """The first look. Where Redis does not answer, `run` goes on trying.

        Raises:
            SettingsError: the index was made otherwise than the settings say, or a location that
                was given is not allowed here.
        """
        try:
            async with asyncio.timeout(START):
                await self._look()
        except IndexUnavailable as error:
            if isinstance(error.__cause__, SettingsError):
                raise error.__cause__ from None
            self._tell(error.detail, str(error))
        except TimeoutError:
            self._tell(f"Redis did not answer within {START:g} s")

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self._look()
                self._tell("")
            except ResolverError as error:
                self._tell(error.detail, str(error))
                await asyncio.sleep(LOOK / 2)
            except Exception:
                log.exception("upkeep failed")
                await asyncio.sleep(LOOK)

    def _tell(self, fault: str, whole: str = "") -> None:
        if fault != self.fault:
            if fault:
                log.warning("the index is of no use", reason=whole or fault)
            else:
                log.info("the index is of use again")
        self.fault = fault

    async def _look(self) -> None:
        self._changes = self._tables.changes
        index = self._index
        try:
            identity = await index.identity()
        except IndexLost:
            # A worker that was started in another's place has seen none, but was told of one.
            had = bool(self._last.by_name) if self._last else bool(self.registered)
            if had and not self._given:
                if not (await index.records.load()).records:
                    raise IndexLost(
                        "Redis has lost its data, and this process was given no locations to begin "
                        "anew with: register them again"
                    ) from None
            else:
                await self._register()
            await index.create_if_missing()
            self.registered = identity = await index.identity()
        if self._last is None:
            if identity != self.registered:
                await self._register()
        elif self._last.gone_from(table := await self._tables.current()):
            await self._register(there=table)
        self.registered = identity
        self._last = await self._tables.current()

    async def _register(self, there: Table | None = None) -> None:
        """Registers what was given, as it was when it was seen last; of what ``there`` has, and
        what was removed from it, nothing: others may have changed it since."""
        last = self._last
        if last is None:
            wanted = {name: dict(fields) for name, fields in self._given.items()}
        else:
            await self._index.records.skip_numbers_through(max(last.by_number, default=0))
            lost = last.gone_from(there) if there is not None else last.by_name.values()
            wanted = {p.name: fields_of(p.location) for p in lost if p.name in self._given}
        await self._registry.register(wanted)
        if last is not None and wanted:
            log.warning("Redis lost its data; locations registered again", locations=[*wanted])
