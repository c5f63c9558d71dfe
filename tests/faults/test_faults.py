"""Each fault of Redis under load: no answer is wrong, known images keep resolving, what was
acknowledged is there afterwards, and all is right again without help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from resolver.standin import StandIn
from tests.conftest import started
from tests.faults.load import Load
from tests.faults.process import process
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer, free_port
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

LASTS = 2.5
"""Seconds that a fault lasts."""


@dataclass
class World:
    redis: RedisServer
    proxy: Proxy
    load: Load


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    server = started(RedisServer(tmp_path))
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        proxy = await stack.enter_async_context(Proxy(server.port))
        servers = {name: await stack.enter_async_context(StandIn()) for name in ("one", "two")}
        given = {name: {"url": one.url} for name, one in servers.items()}
        one = await stack.enter_async_context(process(proxy.url, given, access_log="off"))
        load = Load(one, servers)
        await one.services.registry.sweep("one")
        await one.services.registry.sweep("two")
        await wait_until(load.right, 20)
        await load.warm()
        yield World(server, proxy, load)


async def killed(world: World) -> None:
    world.redis.kill()
    await asyncio.sleep(LASTS)
    await asyncio.to_thread(world.redis.start)


async def killed_and_empty(world: World) -> None:
    world.redis.kill()
    world.redis.keeps = ["--save", "", "--appendonly", "no"]
    await asyncio.sleep(LASTS)
    await asyncio.to_thread(world.redis.start)


async def loading(world: World) -> None:
    """From a snapshot: only then it answers in between."""
    with world.redis.client() as client:
        client.bgrewriteaof()
        await wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 10)
    world.redis.kill()
    slowly = ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]
    world.redis.keeps = [*world.redis.keeps, *slowly]
    starting = asyncio.create_task(asyncio.to_thread(world.redis.start))
    breaker = world.load.process.services.resolver.breaker

    def told() -> bool:
        return breaker.why is not None and "LOADING" in breaker.why.detail

    await wait_until(told, 10)
    await starting


async def paused(world: World) -> None:
    world.redis.pause()
    await asyncio.sleep(LASTS)
    world.redis.go_on()


async def paused_for_long(world: World) -> None:
    """Longer than a connection is kept that owes an answer."""
    world.redis.pause()
    await asyncio.sleep(8)
    world.redis.go_on()


async def flushed(world: World) -> None:
    world.redis.flush()


async def broken_off(world: World) -> None:
    world.proxy.break_after = 10
    await asyncio.sleep(LASTS)
    world.proxy.break_after = None


async def cut_once(world: World) -> None:
    world.proxy.cut()


async def refused(world: World) -> None:
    world.proxy.refuse = True
    world.proxy.cut()
    await asyncio.sleep(LASTS)
    world.proxy.refuse = False


async def slow(world: World) -> None:
    world.proxy.delay = 0.2
    await asyncio.sleep(LASTS)
    world.proxy.delay = 0


async def slower(world: World) -> None:
    world.proxy.delay = 0.6
    await asyncio.sleep(LASTS)
    world.proxy.delay = 0


async def read_only(world: World) -> None:
    with world.redis.client() as client:
        client.replicaof("127.0.0.1", str(free_port()))
        await asyncio.sleep(LASTS)
        client.replicaof("NO", "ONE")


async def out_of_memory(world: World) -> None:
    with world.redis.client() as client:
        client.config_set("maxmemory", "1")
        await asyncio.sleep(LASTS)
        client.config_set("maxmemory", "0")


async def other_password(world: World) -> None:
    with world.redis.client() as client:
        client.config_set("requirepass", "other")
        world.proxy.cut()
        await asyncio.sleep(LASTS)
    with redis.Redis(port=world.redis.port, password="other") as client:
        client.config_set("requirepass", "")


Fault = Callable[[World], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    "killed, 2.5 s, back with its data": killed,
    "killed, 2.5 s, back empty": killed_and_empty,
    "restarted, LOADING": loading,
    "SIGSTOP, 2.5 s": paused,
    "SIGSTOP, 8 s": paused_for_long,
    "FLUSHALL": flushed,
    "cut in every reply, 2.5 s": broken_off,
    "connections reset once": cut_once,
    "refused, 2.5 s": refused,
    "200 ms late, 2.5 s": slow,
    "600 ms late, 2.5 s": slower,
    "read-only replica, 2.5 s": read_only,
    "out of memory, 2.5 s": out_of_memory,
    "another password, 2.5 s": other_password,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_redis(world: World, fault: str) -> None:
    load = world.load
    async with load.running():
        await asyncio.sleep(0.5)
        await FAULTS[fault](world)
        ended = time.monotonic()
        await wait_until(load.right, 20, "all is right again")
        healed = time.monotonic() - ended
        await asyncio.sleep(0.5)

    async def none_lost() -> bool:
        return not await load.lost()

    await wait_until(none_lost, 20, "all that was acknowledged is there")
    load.note(fault, healed)
    assert not load.wrong
    assert load.longest < 1, "known images keep resolving"
