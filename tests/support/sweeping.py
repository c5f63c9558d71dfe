"""Sweeps and polls of stand-in servers, without an indexer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from resolver.glance import CloudCredentials, GlanceServer, ScopeCache, SecretSources
from resolver.index import MAX_MEMORY_BYTES, Index
from resolver.models import Location, Poll, Progress, Status, Sweep, format_id
from resolver.registry import FreshnessPolicy, LocationView
from resolver.registry.validation import parse_location
from resolver.settings import load_settings
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS
from resolver.sync.poll import poll
from resolver.sync.sweep import Sweeper


async def is_held() -> None:
    """The lease of the poll is always held."""


class Sweeping:
    """An index with locations, and the session for requests to them."""

    def __init__(self, index: Index, session: aiohttp.ClientSession) -> None:
        self.index = index
        self.session = session
        self._credentials = CloudCredentials(secrets=SecretSources.of(load_settings()))
        self.scopes = ScopeCache()
        self.progress: list[Progress] = []
        """What the last sweep reported."""
        self.last: dict[int, Sweep] = {}
        """The last sweep of each location."""

    async def register(self, server: StandIn, name: str = "one", **fields: Any) -> Location:
        location = parse_location(name, {"url": server.url, **fields})
        return await self.index.records.put(location, None)

    async def sweep(
        self,
        location: Location,
        *,
        guard: float = 0.2,
        confirm_shrink: bool = False,
        checkpoint_seconds: float = DEFAULT_TIMINGS.checkpoint,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> Sweep:
        """One sweep. Raises LocationUnavailable as `Sweeper.run` does."""
        self.progress = []

        async def report(progress: Progress) -> None:
            self.progress.append(progress)

        server = GlanceServer(self.session, location, self._credentials)
        sweeper = Sweeper(
            self.index,
            server,
            await server.versions(),
            self.scopes,
            guard=guard,
            checkpoint_seconds=checkpoint_seconds,
            max_memory_bytes=max_memory_bytes,
        )
        sweep = await sweeper.run(
            report,
            confirm_shrink=confirm_shrink,
            last=self.last.get(location.number),
        )
        self.last[location.number] = sweep
        return sweep

    async def poll(
        self,
        location: Location,
        before: Poll | None = None,
        swept: Sweep | None = None,
        ensure_held: Callable[[], Awaitable[None]] = is_held,
    ) -> Poll:
        """One poll after ``before``, by default the first. ``swept``: the last complete sweep, by
        default one that began and ended a minute ago. Raises LocationUnavailable as `poll` does."""
        if swept is None:
            swept = Sweep(started=time.time() - 60, ended=time.time() - 60, sees_all=True)
        server = GlanceServer(self.session, location, self._credentials)
        versions = await server.versions()
        return await poll(
            self.index, server, versions, self.scopes, before or Poll(), swept, ensure_held
        )

    async def claimed(self, location: Location) -> set[str]:
        """Ids that the index has for a location, as that location spells them."""
        return {
            format_id(image_id, claim.letter_case)
            async for _, claims in self.index.claims.of_location(location.number)
            for image_id, claim in claims.items()
        }


def doubt(location: Location, sweep: Sweep) -> str:
    """Why a completed sweep does not cover its location; empty if it does."""
    return LocationView(location, Status(sweep=sweep), FreshnessPolicy(600)).coverage_problem(
        sweep.ended or 0
    )
