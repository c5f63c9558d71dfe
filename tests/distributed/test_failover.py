"""Masters of a cluster die, hang or hand over: an open index recovers by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from resolver.errors import IndexUnavailable
from resolver.index import Index, open_index
from resolver.models import Location, Owner
from tests.distributed.claim_load import Worker, at_work, check, claim_all, steps
from tests.support.cluster import Node, RedisCluster
from tests.support.ids import make_ids
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis
IDS = make_ids(600)
SETTLED = [(Owner(9),)] * len(IDS)
WITHIN = 30.0
"""Seconds to recover: the node timeout, an election of about a second, and a margin for a busy
machine."""

REQUEST_SECONDS = 1.0
"""How long a request waits."""


async def recovers(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds until a call works that fails with nothing but IndexUnavailable."""
    begun = time.monotonic()

    async def works() -> bool:
        try:
            await call()
        except IndexUnavailable:
            return False
        return True

    await wait_until(works, timeout=WITHIN, message="the index works again")
    return time.monotonic() - begun


async def lookup_within_a_request(index: Index) -> None:
    """A lookup with the time limit of a request."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            await lookup(index)
    except TimeoutError as error:
        raise IndexUnavailable("late") from error


async def settled(index: Index, cluster: RedisCluster) -> None:
    """Makes claims, and waits until every replica has them."""
    assert await index.claims.claim(9, IDS) == len(IDS)
    await wait_until(cluster.is_replicated, message="the replicas have everything")


async def lookup(index: Index) -> None:
    """Fails if a claim of `settled` is lost."""
    assert (await index.claims.lookup(IDS)).owners == SETTLED


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_an_index_recovers_when_a_replica_takes_over(
    own_cluster: RedisCluster, how: str, record_property: Callable[[str, object], None]
) -> None:
    cluster = own_cluster
    async with open_index(cluster.url, bits=8) as index:
        one = await index.records.put(Location(name="one", url="http://one.example"), None)
        await settled(index, cluster)
        # The master of the registry has a third of the buckets too.
        master = cluster.master_of("glr:{reg}:version")
        replica = cluster.replica_of(master)
        ids = make_ids(300, seed=7)
        workers = [Worker(index, number, ids, exact=False) for number in (1, 70)]
        async with at_work(*workers):
            await steps(*workers)
            if how == "killed":
                master.kill()
            else:
                master.pause()
            took = await recovers(lambda: lookup_within_a_request(index))
            record_property("seconds until lookups work", round(took, 2))
            claimed = await recovers(lambda: index.claims.claim(9, IDS))
            record_property("more until claims work", round(claimed, 2))
            print(f"{how}: lookups after {took:.2f} s, claims {claimed:.2f} s later")
            assert (await index.records.load()).records["one"].location == one
            await index.records.request_sweep(one.number)
            assert cluster.role(replica) == "master"
            await steps(*workers)
        await lookup(index)
        await index.claims.release(9, IDS)
        if how == "killed":
            master.start()  # as a replica, with nothing
        else:
            master.resume()
        await asyncio.to_thread(cluster.wait)
        assert cluster.role(master) == "slave"
        await claim_all(index, *workers)
        await check(index, *workers)


async def test_a_planned_failover_fails_no_call(own_cluster: RedisCluster) -> None:
    cluster = own_cluster
    async with open_index(cluster.url, bits=8) as index:
        await settled(index, cluster)
        workers = [Worker(index, number, make_ids(300, seed=7)) for number in (1, 70)]
        async with at_work(*workers):
            for master in cluster.masters():
                replica = cluster.replica_of(master)
                await steps(*workers)
                replica.ask("CLUSTER FAILOVER")

                def taken_over(replica: Node = replica) -> bool:
                    return cluster.role(replica) == "master"

                await wait_until(taken_over, timeout=WITHIN)
                await lookup(index)
            await steps(*workers, count=20)
            await asyncio.to_thread(cluster.wait)
        assert [worker.failures for worker in workers] == [0, 0], "no call failed"
        await index.claims.release(9, IDS)
        await check(index, *workers)


async def test_an_index_is_opened_while_a_node_is_down(own_cluster: RedisCluster) -> None:
    cluster = own_cluster
    async with open_index(cluster.url, bits=8) as index:
        await settled(index, cluster)
    dead = cluster.nodes[0]  # named first in the URL
    dead.kill()

    async def opened() -> None:
        async with open_index(cluster.url) as index:
            await lookup(index)

    await recovers(opened)


async def test_a_cluster_without_a_part_of_its_slots_is_unavailable(
    own_cluster: RedisCluster,
) -> None:
    """It works again when the nodes are back."""
    cluster = own_cluster
    async with open_index(cluster.url, bits=8) as index:
        master = cluster.masters()[0]
        replica = cluster.replica_of(master)
        replica.kill()
        master.kill()
        begun = time.monotonic()
        with pytest.raises(IndexUnavailable):
            await index.claims.lookup(IDS)
        assert time.monotonic() - begun < 10
        master.start()
        replica.start()
        await recovers(lambda: index.claims.claim(9, IDS))
        await lookup(index)
