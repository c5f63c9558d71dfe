"""Three faults at the same time, under load: of Redis, of locations, and of operators or limits.

What must hold is what holds for each alone: no answer is wrong, known images keep resolving, what
was acknowledged is kept, and the resolver recovers by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from resolver.standin import Caller
from tests.faults.test_locations import (
    FAULT_REQUESTS,
    FAULTS,
    SETTINGS,
    SOME,
    Fault,
    FaultyLocation,
    World,
    survive,
    world,
)
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

PAUSE_SECONDS = 0.4
"""Between two disturbances of one kind."""


class Scene:
    """What may be disturbed besides the locations that fail."""

    def __init__(self, world: World, redis: RedisServer, proxy: Proxy) -> None:
        self.world = world
        self.redis = redis
        self.proxy = proxy
        self.spare = world.locations[-1]
        """A location that does not fail by itself."""


Disturbance = Callable[[Scene], AbstractAsyncContextManager[None]]
"""Goes on until the end of its context."""


def repeated(disturb: Callable[[Scene], Awaitable[None]]) -> Disturbance:
    """The same disturbance again and again."""

    @asynccontextmanager
    async def going_on(scene: Scene) -> AsyncIterator[None]:
        async def repeat() -> None:
            while True:
                await disturb(scene)
                await asyncio.sleep(PAUSE_SECONDS)

        task = asyncio.create_task(repeat())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return going_on


@asynccontextmanager
async def redis_late(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.delay = 0.1
    yield
    scene.proxy.delay = 0.0


@asynccontextmanager
async def flushed_once(scene: Scene) -> AsyncIterator[None]:
    scene.redis.flush()
    yield


async def kill_clients(scene: Scene) -> None:
    with scene.redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)


async def suspend(scene: Scene) -> None:
    scene.redis.pause()
    try:
        await asyncio.sleep(PAUSE_SECONDS / 2)
    finally:  # the fault may end meanwhile
        scene.redis.resume()


async def half_close(scene: Scene) -> None:
    scene.proxy.half_close()


async def lose_buckets(scene: Scene) -> None:
    with scene.redis.client() as client:
        for key in list(client.scan_iter("glr:?:*", count=1000))[::10]:
            client.delete(key)


@asynccontextmanager
async def replies_doubled(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.doubles = "responses"
    yield
    scene.proxy.doubles = ""
    scene.proxy.cut()


async def overwrite_registry(scene: Scene) -> None:
    """Another program takes a key that lookups need, for a moment."""
    scene.redis.ask("DEL", "glr:{reg}:removed")
    scene.redis.ask("SET", "glr:{reg}:removed", "foreign")
    try:
        await asyncio.sleep(PAUSE_SECONDS / 2)
    finally:
        scene.redis.ask("DEL", "glr:{reg}:removed")


async def edit(scene: Scene) -> None:
    """An operator changes what changes no answer."""
    registry = scene.world.load.process.services.registry
    current = (await registry.view(scene.spare.name)).location.weight
    await registry.patch(scene.spare.name, {"weight": 3 - current})


@asynccontextmanager
async def limited(scene: Scene) -> AsyncIterator[None]:
    """A location answers that it has too many requests."""

    async def refuse(_: web.Request, __: object) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "1"})

    load, spare = scene.world.load, scene.spare
    spare.switch.fault = refuse
    load.goes_down(spare.name)
    yield
    load.is_up(spare.name)
    spare.switch.fault = None


async def downgrade(_: World, location: FaultyLocation) -> None:
    location.server.tokens = {location.name: Caller("customer")}


async def upgrade(_: World, location: FaultyLocation) -> None:
    location.server.tokens = {location.name: Caller("admin", admin=True)}


DOUBLED = "404 of a proxy in front, replies of Redis doubled, its registry overwritten"
COMBINATIONS: dict[str, tuple[tuple[Fault, Fault], list[Disturbance]]] = {
    "refused, Redis late, an operator edits": (FAULTS["refused"], [redis_late, repeated(edit)]),
    "credential downgraded, connections to Redis killed, buckets deleted": (
        (downgrade, upgrade),
        [repeated(kill_clients), repeated(lose_buckets)],
    ),
    "502, FLUSHALL, Redis suspended for moments": (
        FAULTS["502"],
        [flushed_once, repeated(suspend)],
    ),
    "silent, another limits requests, links to Redis half-closed": (
        FAULTS["silent"],
        [limited, repeated(half_close)],
    ),
    DOUBLED: (
        FAULTS["404 of a proxy in front"],
        [replies_doubled, repeated(overwrite_registry)],
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.long] if n == DOUBLED else []) for n in COMBINATIONS],
)
async def test_answers_stay_correct_during_three_faults_at_once(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (fail, repair), disturbances = COMBINATIONS[name]
    async with (
        Proxy(own_redis.port) as proxy,
        world(proxy.url, tmp_path, monkeypatch, tls=False) as started,
    ):
        scene = Scene(started, own_redis, proxy)

        async def happen(world: World, failing: list[FaultyLocation], _: str) -> None:
            load = world.load
            names = [location.name for location in failing]
            for location in failing:
                await fail(world, location)
            # Requests that were under way may still be answered.
            await asyncio.sleep(SETTINGS["probe_timeout"])
            load.goes_down(*names)
            async with AsyncExitStack() as stack:
                for disturbance in disturbances:
                    await stack.enter_async_context(disturbance(scene))
                await load.make_requests(FAULT_REQUESTS)
                await wait_until(lambda: load.hidden, message="a failing location gets an image")
            load.is_up(*names)
            for location in failing:
                await repair(world, location)

        await survive(started, name, started.locations[:SOME], "", happen)
