"""The content of the status page, made at most once a second however many look at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resolver.errors import IndexUnavailable
from resolver.gateway.page import sections
from resolver.gateway.page.markup import Html
from resolver.index import ProcessInfo
from resolver.models import Progress
from resolver.services import Services

MAX_AGE_SECONDS = 1.0
"""How old the content may be."""

INDEX_TIMEOUT_SECONDS = 0.5
"""How long the page waits for Redis. Without an answer it shows what this process knows."""

ROWS_PER_TURN = 50
"""Rows that are made before the event loop does other work."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of one moment."""

    at: float
    """Unix time."""
    sections: Mapping[str, Html]
    """The content of elements, by id: all but the rows of locations."""
    rows: Mapping[str, Html]
    """The cells of the rows of locations, by id, in their order."""

    def content(self) -> dict[str, Html]:
        """The content of all elements, by id: the table of locations is one of them."""
        return {**self.sections, "locations": sections.location_table(self.rows)}

    def changes_since(self, before: Snapshot) -> dict[str, Html]:
        """The content that is another than before, by the id of its element."""
        changed = _changed(before.sections, self.sections)
        if list(self.rows) != list(before.rows):
            changed["locations"] = sections.location_table(self.rows)
            return changed
        return changed | _changed(before.rows, self.rows)


def _changed(before: Mapping[str, Html], now: Mapping[str, Html]) -> dict[str, Html]:
    return {name: html for name, html in now.items() if before.get(name) != html}


class SnapshotCache:
    """Makes a snapshot when somebody wants one and the last is too old."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = asyncio.Lock()
        self._last: Snapshot | None = None
        self._made_at = 0.0
        """By `time.monotonic`."""

    async def get(self) -> Snapshot:
        """The current content, or that of up to `MAX_AGE_SECONDS` ago."""
        async with self._lock:
            last = self._last
            if last is None or time.monotonic() - self._made_at >= MAX_AGE_SECONDS:
                self._last = last = await self._make()
                self._made_at = time.monotonic()
            return last

    async def _make(self) -> Snapshot:
        services = self._services
        progress, processes = await self._read()
        table, problems = services.tables.table, services.problems.current()
        now = time.time()
        views = table.by_name.values()
        rows: dict[str, Html] = {}
        for number, (name, cells) in enumerate(sections.location_rows(views, problems, now), 1):
            rows[name] = cells
            if not number % ROWS_PER_TURN:
                await asyncio.sleep(0)
        return Snapshot(
            now,
            {
                "summary": sections.summary(table, problems, now),
                "problems": sections.problem_list(problems, table.by_name),
                "sweeps": sections.running_sweeps(table, progress),
                "conflicts": sections.conflicts(views),
                "processes": sections.process_counts(processes),
            },
            rows,
        )

    async def _read(self) -> tuple[Mapping[int, Progress], Sequence[ProcessInfo]]:
        """Reads the table where it has changed, the sweeps under way, and which processes there
        are: none without Redis."""
        index = self._services.index
        try:
            async with asyncio.timeout(INDEX_TIMEOUT_SECONDS):
                await self._services.tables.current()
                return await index.records.progress(), await index.processes.list()
        except (IndexUnavailable, TimeoutError):
            return {}, ()
