"""Cached claims when servers change their roles: no outdated claim is served afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from resolver.index import Index
from resolver.index.redis.cluster import ClusterClient
from resolver.index.redis.slot_map import SlotMap
from resolver.models import Owner
from tests.conftest import started
from tests.contract.caching import SECOND, cache, cached, invalidated, open_pair, open_with_cache
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids
from tests.support.sentinel import Sentinels
from tests.support.wait import wait_until

(A,) = make_ids(1)


def bucket_key(index: Index, image_id: bytes) -> bytes:
    return index.claims.buckets.key(index.claims.buckets.number(image_id))


@pytest.mark.redis
async def test_a_migrating_slot_invalidates(cluster: RedisCluster, stack: AsyncExitStack) -> None:
    index, other = await open_pair(stack, cluster.url, A)
    key = bucket_key(index, A)
    source = cluster.master_of(key)
    target = next(node for node in cluster.masters() if node is not source)
    slot = cluster.slot(key)
    await asyncio.to_thread(cluster.begin_move, slot, source, target)
    await cache(index, A)
    await asyncio.to_thread(cluster.move_keys, [key], source, target)
    await other.claims.claim(2, [A])
    await invalidated(index, A)
    await cache(index, A)
    assert cached(index, A) == {Owner(1), Owner(2)}
    await other.claims.claim(3, [A])  # through a node that redirects it
    await invalidated(index, A)
    await cache(index, A)
    await asyncio.to_thread(cluster.end_move, slot, source, target)
    await other.claims.release(1, [A])
    await invalidated(index, A)
    await cache(index, A)
    assert cached(index, A) == {Owner(2), Owner(3)}


@pytest.mark.redis
async def test_a_replica_that_takes_over_reports_changes(
    cluster: RedisCluster, stack: AsyncExitStack
) -> None:
    index, other = await open_pair(stack, cluster.url, A)
    master = cluster.master_of(bucket_key(index, A))
    replica = cluster.replica_of(master)
    await asyncio.to_thread(lambda: replica.ask("CLUSTER FAILOVER"))
    await wait_until(lambda: cluster.role(replica) == "master")
    await other.claims.claim(2, [A])
    await invalidated(index, A)
    await cache(index, A)
    assert cached(index, A) == {Owner(1), Owner(2)}
    await other.claims.claim(3, [A])
    await invalidated(index, A)


@pytest.mark.redis
async def test_a_replaced_master_is_not_trusted(
    redis_cluster: RedisCluster, stack: AsyncExitStack
) -> None:
    """A master that was cut off from the others still answers us, and reports no change."""
    redis_cluster.flush()
    index = await open_with_cache(stack, redis_cluster.url)
    await index.claims.claim(1, [A])
    await cache(index, A)
    client, changes = index.client, index.records.changes
    assert isinstance(client, ClusterClient)
    masters, nodes = client.slot_map
    addresses = sorted(set(masters.values()))
    next_address = dict(zip(addresses, addresses[1:] + addresses[:1], strict=True))
    moved = {slot: next_address[master] for slot, master in masters.items()}
    await client.use_slot_map(SlotMap(moved, nodes))
    assert cached(index, A) is None
    assert index.records.changes > changes


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    sentinels = started(Sentinels(periods_ms={}))
    yield sentinels
    sentinels.close()


@pytest.mark.redis
async def test_a_process_that_only_reads_its_cache_notices_a_planned_failover(
    sentinels: Sentinels, stack: AsyncExitStack
) -> None:
    """The old master accepts writes for ten seconds, and reports no change of the new one."""
    index = await open_with_cache(stack, sentinels.url)
    await index.claims.claim(1, [A])
    await wait_until(sentinels.is_replicated)
    await cache(index, A)
    old = sentinels.master()
    await asyncio.to_thread(sentinels.failover)
    await wait_until(lambda: sentinels.named() == {sentinels.other(old).port})
    other = await open_with_cache(stack, sentinels.url)
    assert old.replication()["role"] == "master", "the old master is not a replica yet"
    await other.claims.claim(2, [A])
    # Up to a second until the Sentinels are asked, and another to apply the change.
    await wait_until(lambda: cached(index, A) in (None, {Owner(1), Owner(2)}), 2 * SECOND)
