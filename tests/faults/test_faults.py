"""Each fault of Redis under load: no answer is wrong, known images keep resolving, acknowledged
claims are kept, and the resolver recovers by itself."""

from __future__ import annotations

import asyncio
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
from tests.faults.load import MAX_GAP_SECONDS, Load
from tests.faults.resolver_process import process
from tests.support.ids import make_ids
from tests.support.indexing import is_partly_claimed
from tests.support.process import free_port
from tests.support.proxy import Proxy
from tests.support.redis import EVERYTHING_ON_DISK, NOTHING_ON_DISK, RedisServer
from tests.support.requirements import cannot_run
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

FAULT_SECONDS = MAX_GAP_SECONDS
"""How long most faults last. Where no known image is answered meanwhile the gap is longer: it began
before the fault, and ends after the recovery."""
LONG_PAUSE_SECONDS = 6.5
"""Longer than a connection with an overdue reply is kept."""
RECOVERY_TIMEOUT = 180.0


@dataclass
class World:
    redis: RedisServer
    proxy: Proxy
    load: Load
    folder: Path
    """Of Redis's data."""


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory; on a small file system of its own for faults of the disk."""
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
        cannot_run(f"no disk to fill: {mounted.stderr}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[World]:
    server = started(RedisServer(folder, EVERYTHING_ON_DISK))
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        proxy = await stack.enter_async_context(Proxy(server.port))
        servers = {name: await stack.enter_async_context(StandIn()) for name in ("one", "two")}
        locations = {name: {"url": server.url} for name, server in servers.items()}
        resolver = await stack.enter_async_context(process(proxy.url, locations, access_log="off"))
        load = Load(resolver, servers)
        for name in servers:
            await resolver.services.registry.sweep(name)
        await wait_until(load.has_recovered, RECOVERY_TIMEOUT)
        await load.warm()
        yield World(server, proxy, load, folder)


async def killed(world: World) -> None:
    world.redis.kill()
    await world.load.last(FAULT_SECONDS)
    await asyncio.to_thread(world.redis.start)


async def killed_and_empty(world: World) -> None:
    world.redis.kill()
    world.redis.options = NOTHING_ON_DISK
    await world.load.last(FAULT_SECONDS)
    await asyncio.to_thread(world.redis.start)


async def loading(world: World) -> None:
    """Loads from a snapshot: only then Redis answers meanwhile."""
    with world.redis.client() as client:
        client.bgrewriteaof()
        await wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    world.redis.kill()
    slowly = ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]
    world.redis.options = [*world.redis.options, *slowly]
    starting = asyncio.create_task(asyncio.to_thread(world.redis.start))
    breaker = world.load.process.services.resolver.breaker

    def is_reported() -> bool:
        return breaker.error is not None and "LOADING" in breaker.error.detail

    await wait_until(is_reported)
    await starting


async def paused(world: World) -> None:
    world.redis.pause()
    await world.load.last(FAULT_SECONDS)
    world.redis.resume()


async def paused_for_long(world: World) -> None:
    """Until the connections with overdue replies are closed."""
    world.redis.pause()
    await world.load.last(LONG_PAUSE_SECONDS)
    world.redis.resume()


async def flushed(world: World) -> None:
    world.redis.flush()


async def broken_off(world: World) -> None:
    world.proxy.break_after = 10
    await world.load.last(FAULT_SECONDS)
    world.proxy.break_after = None


async def cut_once(world: World) -> None:
    world.proxy.cut()


async def refused(world: World) -> None:
    world.proxy.refuse = True
    world.proxy.cut()
    await world.load.last(FAULT_SECONDS)
    world.proxy.refuse = False


async def slow(world: World) -> None:
    world.proxy.delay = 0.2
    await world.load.last(FAULT_SECONDS)
    world.proxy.delay = 0


async def slower(world: World) -> None:
    world.proxy.delay = 0.6
    await world.load.last(FAULT_SECONDS)
    world.proxy.delay = 0


async def read_only(world: World) -> None:
    with world.redis.client() as client:
        client.replicaof("127.0.0.1", str(free_port()))
        await world.load.last(FAULT_SECONDS)
        client.replicaof("NO", "ONE")


async def out_of_memory(world: World) -> None:
    with world.redis.client() as client:
        client.config_set("maxmemory", "1")
        await world.load.last(FAULT_SECONDS)
        client.config_set("maxmemory", "0")


async def other_password(world: World) -> None:
    with world.redis.client() as client:
        client.config_set("requirepass", "other")
        world.proxy.cut()
        await world.load.last(FAULT_SECONDS)
    with redis.Redis(port=world.redis.port, password="other") as client:
        client.config_set("requirepass", "")


async def clients_killed(world: World) -> None:
    """Again and again, as `CLIENT KILL` of an operator or `timeout` of a server does it."""
    with world.redis.client() as client:
        for _ in range(5):
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)
            await world.load.last(FAULT_SECONDS / 5)


async def client_pause(world: World) -> None:
    with world.redis.client() as client:
        client.client_pause(int(FAULT_SECONDS * 1000))
    await world.load.last(FAULT_SECONDS)


async def slow_command(world: World) -> None:
    """Redis's only thread works for somebody else: a script that runs for long."""
    script = """local begun, now = redis.call('TIME')[1], 0
        repeat now = redis.call('TIME')[1] until now - begun >= tonumber(ARGV[1])"""
    with world.redis.client() as client:
        await asyncio.to_thread(client.eval, script, 0, int(FAULT_SECONDS))
    await world.load.last(FAULT_SECONDS / 2)


async def other_database_flushed(world: World) -> None:
    """Invalidations of everything arrive, and nothing is lost."""
    with redis.Redis(port=world.redis.port, db=1) as client:
        for n in range(20):
            client.set("somebody-elses", n)
            client.flushdb()
            await world.load.last(FAULT_SECONDS / 20)


async def one_way(world: World) -> None:
    """Commands arrive and are run; their replies come late."""
    world.proxy.holds_responses = True
    await world.load.last(FAULT_SECONDS)
    world.proxy.holds_responses = False


async def half_closed(world: World) -> None:
    for _ in range(4):
        world.proxy.half_close()
        await world.load.last(FAULT_SECONDS / 4)


async def byte_by_byte(world: World) -> None:
    world.proxy.byte_by_byte = 0.005
    await world.load.last(FAULT_SECONDS)
    world.proxy.byte_by_byte = 0
    world.proxy.cut()


async def other_bytes(world: World) -> None:
    """What arrives in place of replies is no RESP."""
    world.proxy.corrupt = True
    await world.load.last(FAULT_SECONDS)
    world.proxy.corrupt = False
    world.proxy.cut()


async def requests_doubled(world: World) -> None:
    """Redis runs each command twice, and answers twice."""
    world.proxy.doubles = "requests"
    await world.load.last(FAULT_SECONDS)
    world.proxy.doubles = ""
    world.proxy.cut()


async def responses_doubled(world: World) -> None:
    """The second copy of a reply must not answer the next request."""
    world.proxy.doubles = "responses"
    await world.load.last(FAULT_SECONDS)
    world.proxy.doubles = ""
    world.proxy.cut()


async def buckets_lost(world: World) -> None:
    """Somebody deletes buckets by hand. Sweeps bring them back."""
    with world.redis.client() as client:
        for key in list(client.scan_iter("glr:?:*", count=1000))[::4]:
            client.delete(key)
    await world.load.last(FAULT_SECONDS)
    for name in world.load.process.services.tables.table.by_name:
        await world.load.process.services.registry.sweep(name)


async def killed_in_a_batch(world: World) -> None:
    """While the images of a listing are claimed: each is claimed or not, and claiming them again
    adds the missing ones."""
    services = world.load.process.services
    number = services.tables.table.by_name["one"].location.number
    ids = make_ids(40_000, seed=3)
    claiming = asyncio.create_task(services.index.claims.claim(number, ids))
    await wait_until(lambda: is_partly_claimed(services.index, number, ids))
    world.redis.kill()
    with pytest.raises(IndexUnavailable):
        await claiming
    await asyncio.to_thread(world.redis.start)
    await wait_until(lambda: succeeds(services.index.ping()))
    owners_now = (await services.index.claims.lookup(ids)).owners
    assert {tuple(owner.number for owner in owners) for owners in owners_now} == {(), (number,)}
    missing = owners_now.count(())
    assert await services.index.claims.claim(number, ids) == missing
    assert 0 < missing < len(ids)


async def succeeds(call: Awaitable[object]) -> bool:
    try:
        await call
    except IndexUnavailable:
        return False
    return True


async def disk_full(world: World) -> None:
    """With `appendfsync everysec`, the default, Redis refuses writes and answers reads."""
    with world.redis.client() as client:
        client.config_set("appendfsync", "everysec")
        with full_disk(world.folder):
            await wait_until(lambda: refuses_writes(client))
            await world.load.last(FAULT_SECONDS)


async def disk_full_and_ended(world: World) -> None:
    """With `appendfsync always` Redis exits, and does not start while the disk is full."""
    with full_disk(world.folder):
        await wait_until(lambda: world.redis.has_ended)
        await world.load.last(FAULT_SECONDS)
    world.redis.kill()
    await asyncio.to_thread(world.redis.start)


def refuses_writes(client: redis.Redis) -> bool:
    try:
        client.set("glr-probe", "x" * 4096)
    except redis.ResponseError as error:
        return "AOF" in str(error)
    return False


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Fills the file system of a directory."""
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
    "killed, back with its data": killed,
    "killed, back empty": killed_and_empty,
    "restarted, LOADING": loading,
    "SIGSTOP": paused,
    "SIGSTOP, long": paused_for_long,
    "FLUSHALL": flushed,
    "cut in every reply": broken_off,
    "connections reset once": cut_once,
    "refused": refused,
    "200 ms late": slow,
    "600 ms late": slower,
    "read-only replica": read_only,
    "out of memory": out_of_memory,
    "another password": other_password,
    "connections killed, 5 times": clients_killed,
    "CLIENT PAUSE": client_pause,
    "a script that runs for long": slow_command,
    "FLUSHDB of another database, 20 times": other_database_flushed,
    "replies held, a link of one direction": one_way,
    "connections half-closed, 4 times": half_closed,
    "a byte of replies every 5 ms": byte_by_byte,
    "other bytes in replies": other_bytes,
    "each request doubled": requests_doubled,
    "each reply doubled": responses_doubled,
    "a quarter of the buckets deleted": buckets_lost,
    "killed in a batch of claims": killed_in_a_batch,
    "disk full": disk_full,
    "disk full, Redis ends": disk_full_and_ended,
}


OUTAGES = {
    "killed, back with its data",
    "killed, back empty",
    "restarted, LOADING",
    "SIGSTOP",
    "SIGSTOP, long",
    "cut in every reply",
    "refused",
    "600 ms late",
    "another password",
    "CLIENT PAUSE",
    "replies held, a link of one direction",
    "other bytes in replies",
    "disk full, Redis ends",
}
"""Faults during which Redis does not answer for long, which `/status` must say."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_answers_stay_correct_during_a_fault_of_redis(world: World, fault: str) -> None:
    load = world.load
    async with load.running():
        await FAULTS[fault](world)
        ended = time.monotonic()
        await wait_until(load.has_recovered, RECOVERY_TIMEOUT, "the resolver has recovered")
        recovery_seconds = time.monotonic() - ended
    await wait_until(load.no_claim_is_lost, RECOVERY_TIMEOUT, "acknowledged claims are kept")
    load.report(fault, recovery_seconds)
    load.check()
    if fault in OUTAGES:
        assert "index-unavailable" in load.problems
