"""Masters that are lost, behind Sentinels and in a cluster, under the same load as other faults.

Writes that a master acknowledged and did not replicate are lost; sweeps restore them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from resolver.standin import StandIn
from tests.faults.load import Load
from tests.faults.resolver_process import process
from tests.support.cluster import RedisCluster
from tests.support.sentinel import Sentinels
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

RECOVERY_TIMEOUT = 180.0
"""Seconds until there is another master and the resolver has recovered."""


@asynccontextmanager
async def under_load(url: str) -> AsyncIterator[Load]:
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(StandIn()) for name in ("one", "two")}
        locations = {name: {"url": server.url} for name, server in servers.items()}
        settings = {"access_log": "off", "sweep_interval": 2, "index_bits": 10}
        resolver = await stack.enter_async_context(process(url, locations, **settings))
        load = Load(resolver, servers)
        await wait_until(load.no_claim_is_lost, RECOVERY_TIMEOUT)
        await wait_until(load.has_recovered, RECOVERY_TIMEOUT)
        await load.warm()
        yield load


async def fail_over(load: Load, fault: str, change: Callable[[], Awaitable[object]]) -> None:
    """Makes a change under load and waits for the recovery."""
    async with load.running():
        begun = time.monotonic()
        await change()
        await wait_until(load.has_recovered, RECOVERY_TIMEOUT, "the resolver has recovered")
        recovery_seconds = time.monotonic() - begun
        lost = len(await load.lost_claims())
    await wait_until(load.no_claim_is_lost, RECOVERY_TIMEOUT, "sweeps restore lost claims")
    load.report(fault, recovery_seconds, lost)
    load.check()


@pytest.mark.parametrize("how", ["killed", pytest.param("SIGSTOP", marks=pytest.mark.long)])
async def test_answers_stay_correct_when_sentinels_choose_another_master(
    sentinels: Sentinels, how: str
) -> None:
    async with under_load(sentinels.url) as load:
        await asyncio.to_thread(sentinels.wait)
        master = sentinels.master()

        async def change() -> None:
            master.kill() if how == "killed" else master.pause()
            await wait_until(
                lambda: sentinels.named() == {sentinels.other(master).port}, RECOVERY_TIMEOUT
            )

        try:
            await fail_over(load, f"Sentinel: master {how}", change)
        finally:
            if how == "SIGSTOP":
                master.resume()


@pytest.mark.parametrize("how", ["killed", pytest.param("SIGSTOP", marks=pytest.mark.long)])
async def test_answers_stay_correct_when_a_cluster_replica_takes_over(
    own_cluster: RedisCluster, how: str
) -> None:
    cluster = own_cluster
    async with under_load(cluster.url) as load:
        # The registry is there, and a third of the buckets.
        master = cluster.master_of("glr:{reg}:version")
        replica = cluster.replica_of(master)
        await wait_until(cluster.is_replicated)

        async def change() -> None:
            master.kill() if how == "killed" else master.pause()
            await wait_until(lambda: cluster.role(replica) == "master", RECOVERY_TIMEOUT)

        try:
            await fail_over(load, f"Cluster: a master {how}", change)
        finally:
            if how == "SIGSTOP":
                master.resume()


@pytest.mark.long
async def test_answers_stay_correct_when_cluster_masters_hand_over(
    own_cluster: RedisCluster,
) -> None:
    cluster = own_cluster
    async with under_load(cluster.url) as load:

        async def change() -> None:
            for master in cluster.masters():
                replica = cluster.replica_of(master)
                replica.ask("CLUSTER FAILOVER")
                await wait_until(
                    lambda node=replica: cluster.role(node) == "master", RECOVERY_TIMEOUT
                )

        await fail_over(load, "Cluster: all masters hand over", change)
