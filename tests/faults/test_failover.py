"""Masters that are lost, behind Sentinels and in a cluster, under the same load as other faults.

What a master had acknowledged and not yet replicated is lost with it; the sweeps bring it back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from resolver.standin import StandIn
from tests.faults.load import Load
from tests.faults.process import process
from tests.support.cluster import RedisCluster
from tests.support.sentinel import Sentinels
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

SETTLED = 30.0
"""Seconds until another is master, and all is right."""


@asynccontextmanager
async def under_load(url: str) -> AsyncIterator[Load]:
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(StandIn()) for name in ("one", "two")}
        given = {name: {"url": one.url} for name, one in servers.items()}
        settings = {"access_log": "off", "sweep_interval": 5, "index_bits": 10}
        one = await stack.enter_async_context(process(url, given, **settings))
        load = Load(one, servers)

        async def all_swept() -> bool:
            return not await load.lost()

        await wait_until(all_swept, 20)
        await wait_until(load.right, 20)
        await load.warm()
        yield load


async def seen(load: Load, fault: str, happens: Callable[[], Awaitable[object]]) -> None:
    async with load.running():
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        await happens()
        await wait_until(load.right, SETTLED, "all is right again")
        healed = time.monotonic() - begun
        lost = len(await load.lost())
        await asyncio.sleep(0.5)

    async def none_lost() -> bool:
        return not await load.lost()

    await wait_until(none_lost, SETTLED, "what the master had acknowledged is there")
    load.note(fault, healed, lost)
    assert not load.wrong
    assert load.longest < 1, "known images keep resolving"


@pytest.mark.parametrize("how", ["killed", pytest.param("SIGSTOP", marks=pytest.mark.long)])
async def test_sentinels_choose_another_master(sentinels: Sentinels, how: str) -> None:
    async with under_load(sentinels.url) as load:
        await asyncio.to_thread(sentinels.wait)
        master = sentinels.master()

        async def happens() -> None:
            master.kill() if how == "killed" else master.pause()
            await wait_until(lambda: sentinels.named() == {sentinels.other(master).port}, SETTLED)

        try:
            await seen(load, f"Sentinel: master {how}", happens)
        finally:
            if how == "SIGSTOP":
                master.resume()


@pytest.mark.parametrize("how", ["killed", pytest.param("SIGSTOP", marks=pytest.mark.long)])
async def test_a_replica_in_a_cluster_takes_over(own_cluster: RedisCluster, how: str) -> None:
    cluster = own_cluster
    async with under_load(cluster.url) as load:
        # It has the registry, and a third of the buckets.
        master = cluster.master_of("glr:{reg}:version")
        replica = cluster.replica_of(master)
        await wait_until(cluster.synced)

        async def happens() -> None:
            master.kill() if how == "killed" else master.pause()
            await wait_until(lambda: cluster.role(replica) == "master", SETTLED)

        try:
            await seen(load, f"Cluster: a master {how}", happens)
        finally:
            if how == "SIGSTOP":
                master.resume()


@pytest.mark.long
async def test_masters_of_a_cluster_hand_over(own_cluster: RedisCluster) -> None:
    cluster = own_cluster
    async with under_load(cluster.url) as load:

        async def happens() -> None:
            for master in cluster.masters():
                replica = cluster.replica_of(master)
                replica.ask("CLUSTER FAILOVER")
                await wait_until(lambda one=replica: cluster.role(one) == "master", SETTLED)

        await seen(load, "Cluster: all masters hand over", happens)
