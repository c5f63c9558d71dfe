"""Each fault of Redis under load: no answer is wrong, known images keep resolving, what was
acknowledged is there afterwards, and all is right again without help."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from resolver.errors import IndexUnavailable
from resolver.standin import StandIn
from tests.conftest import started
from tests.faults.load import Load
from tests.faults.process import process
from tests.support.ids import make_ids
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
    folder: Path
    """Where Redis keeps its data."""


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder; for those faults a small disk of its own."""
    if "disk" not in request.node.name:
        yield tmp_path
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no disk to fill: {mounted.stderr}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[World]:
    server = started(RedisServer(folder))
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
        yield World(server, proxy, load, folder)


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


async def killed_in_a_batch(world: World) -> None:
    """While a listing's images are being claimed: each is claimed or not, and claiming all again
    ends it."""
    services = world.load.process.services
    number = services.tables.table.by_name["one"].location.number
    ids = make_ids(40_000, seed=3)
    claiming = asyncio.create_task(services.index.claims.claim(number, ids))
    with world.redis.client() as client:
        await wait_until(lambda: client.dbsize() > 5000, 10)
    world.redis.kill()
    with pytest.raises(IndexUnavailable):
        await claiming
    await asyncio.to_thread(world.redis.start)
    await wait_until(lambda: done(services.index.ping()), 10)
    kept = (await services.index.claims.lookup(ids)).owners
    assert {tuple(owner.number for owner in owners) for owners in kept} == {(), (number,)}
    missing = kept.count(())
    assert await services.index.claims.claim(number, ids) == missing
    assert 0 < missing < len(ids)


async def done(call: Awaitable[object]) -> bool:
    try:
        await call
    except IndexUnavailable:
        return False
    return True


async def disk_full(world: World) -> None:
    """Writes are refused, reads answered: with `appendfsync everysec`, Redis's default."""
    with world.redis.client() as client:
        client.config_set("appendfsync", "everysec")
        with full(world.folder):
            await wait_until(lambda: refuses(client), 10)
            await asyncio.sleep(LASTS)


async def disk_full_and_ended(world: World) -> None:
    """With `appendfsync always` Redis ends itself, and does not start before there is room."""
    with full(world.folder):
        await wait_until(lambda: world.redis.ended, 10)
        await asyncio.sleep(LASTS)
    world.redis.kill()
    await asyncio.to_thread(world.redis.start)


def refuses(client: redis.Redis) -> bool:
    try:
        client.set("glr-probe", "x" * 4096)
    except redis.ResponseError as error:
        return "AOF" in str(error)
    return False


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """No room on the disk that ``folder`` is on."""
    file = folder / "full"
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while out.write(b"x" * 1024):
            pass
    try:
        yield
    finally:
        file.unlink()


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
    "killed in a batch of claims": killed_in_a_batch,
    "disk full, 2.5 s": disk_full,
    "disk full, Redis ends": disk_full_and_ended,
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
