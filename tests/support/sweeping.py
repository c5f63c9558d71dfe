"""Sweeps of stand-in servers, without an indexer."""

from __future__ import annotations

from typing import Any

import aiohttp

from resolver.glance import GlanceServer
from resolver.index import Index
from resolver.models import Location, Progress, Status, Sweep, format_id
from resolver.registry import FreshnessPolicy, LocationView
from resolver.registry.validation import parse_location
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS
from resolver.sync.sweep import Sweeper


class Sweeping:
    """An index with locations, and the session for requests to them."""

    def __init__(self, index: Index, session: aiohttp.ClientSession) -> None:
        self.index = index
        self.session = session
        self.progress: list[Progress] = []
        """What the last sweep reported."""
        self.listed: dict[int, int] = {}
        """Images that the last sweep of each location listed."""

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
    ) -> Sweep:
        """One sweep. Raises LocationUnavailable as `Sweeper.run` does."""
        self.progress = []

        async def report(progress: Progress) -> None:
            self.progress.append(progress)

        server = GlanceServer(self.session, location)
        sweeper = Sweeper(
            self.index,
            server,
            await server.versions(),
            guard=guard,
            checkpoint_seconds=checkpoint_seconds,
        )
        sweep = await sweeper.run(
            report,
            confirm_shrink=confirm_shrink,
            listed_before=self.listed.get(location.number, 0),
        )
        self.listed[location.number] = sweep.images
        return sweep

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
