"""The faults of `benchmarks.soak`, one after the other, and how long recovery takes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

from benchmarks.soak_world import (
    PERMANENT_LOCATIONS,
    RECOVERY_SECONDS,
    SoakLocation,
    World,
)
from tests.support.wait import wait_until

SECONDS_BETWEEN_FAULTS = 10.0


class FaultRotation:
    """Causes one fault after the other, and waits for recovery after each."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.recovery_seconds: dict[str, list[float]] = {}
        """By fault."""
        self.not_recovered: list[str] = []
        self.started: list[float] = []
        """When each fault started, by the monotonic clock."""

    async def run(self) -> None:
        """Runs without end."""
        rotation: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("Redis killed, 2 s", self._kill_redis),
            ("a location refused, 6 s", self._refuse_location),
            ("Redis paused, 3 s", self._pause_redis),
            ("a location silent, 6 s", self._silence_location),
            ("FLUSHALL", self._flush_redis),
            ("all locations refused, 4 s", self._refuse_all_locations),
            ("connections to Redis cut", self._cut_redis_connections),
            ("Redis refused, 2 s", self._refuse_redis),
        ]
        for name, cause in itertools.cycle(rotation):
            await asyncio.sleep(SECONDS_BETWEEN_FAULTS)
            self._world.current_fault = name
            self.started.append(time.monotonic())
            await cause()
            ended = time.monotonic()
            try:
                await wait_until(self._world.has_recovered, RECOVERY_SECONDS)
            except AssertionError:
                self.not_recovered.append(name)
            self.recovery_seconds.setdefault(name, []).append(time.monotonic() - ended)
            self._world.current_fault = ""

    async def _kill_redis(self) -> None:
        self._world.redis.kill()
        await asyncio.sleep(2)
        await asyncio.to_thread(self._world.redis.start)

    async def _pause_redis(self) -> None:
        self._world.redis.pause()
        await asyncio.sleep(3)
        self._world.redis.resume()

    async def _flush_redis(self) -> None:
        async with self._world.registry_lock:  # the gateway cannot register that location again
            self._world.redis.flush()

    async def _cut_redis_connections(self) -> None:
        self._world.redis_proxy.cut()

    async def _refuse_redis(self) -> None:
        self._world.redis_proxy.refuse = True
        self._world.redis_proxy.cut()
        await asyncio.sleep(2)
        self._world.redis_proxy.refuse = False

    async def _refuse_location(self) -> None:
        await self._refuse([self._any_location()], 6)

    async def _refuse_all_locations(self) -> None:
        await self._refuse(list(self._world.locations.values()), 4)

    async def _refuse(self, locations: list[SoakLocation], seconds: float) -> None:
        for location in locations:
            location.proxy.refuse = True
            location.proxy.cut()
            location.unreachable_since = time.monotonic()
        await asyncio.sleep(seconds)
        for location in locations:
            location.unreachable_since = float("inf")
            location.proxy.refuse = False

    async def _silence_location(self) -> None:
        location = self._any_location()
        location.proxy.silent = True
        location.unreachable_since = time.monotonic()
        await asyncio.sleep(6)
        location.unreachable_since = float("inf")
        location.proxy.silent = False

    def _any_location(self) -> SoakLocation:
        return self._world.locations[self._world.rng.choice(PERMANENT_LOCATIONS)]
