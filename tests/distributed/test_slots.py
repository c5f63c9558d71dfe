"""Slots of a cluster migrate: every answer stays right."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack

import pytest
from redis.crc import key_slot

from resolver.errors import IndexUnavailable
from resolver.index import Index, open_index
from resolver.models import Location, Owner
from tests.distributed.claim_load import Worker, at_work, check, steps
from tests.support.cluster import Node, RedisCluster
from tests.support.ids import make_ids

pytestmark = pytest.mark.redis
BITS = 14
SLOTS = 3
"""Slots that move."""
REGISTRY = "glr:{reg}:version"


def fullest_slots(index: Index, cluster: RedisCluster) -> tuple[Node, dict[int, list[int]]]:
    """A master, and those of its slots that hold the most buckets, with these."""
    buckets = index.claims.buckets
    by_slot: dict[int, list[int]] = defaultdict(list)
    for bucket in range(buckets.half):  # those of random ids
        by_slot[key_slot(buckets.key(bucket))].append(bucket)
    source = cluster.masters()[0]
    mine = [row[:2] for row in source.ask("CLUSTER SLOTS") if row[2][1] == source.port]
    own = [slot for slot in by_slot if any(first <= slot <= last for first, last in mine)]
    most = sorted(own, key=lambda slot: -len(by_slot[slot]))[:SLOTS]
    return source, {slot: by_slot[slot] for slot in most}


async def test_slots_migrate_under_load(cluster: RedisCluster) -> None:
    """Two processes; for a while, a slot has some of its keys here and some there."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(open_index(cluster.url, bits=BITS)) for _ in range(2)
        ]
        source, slots = fullest_slots(one, cluster)
        target = cluster.masters()[1]
        ids = [
            image_id
            for moving in slots.values()
            for bucket in moving
            for image_id in make_ids(4, seed=bucket, prefix=(bucket << 2).to_bytes(2, "big"))
        ]
        ids += make_ids(200)  # in other slots
        assert all(len(moving) >= 3 for moving in slots.values())
        workers = [Worker(one, 1, ids), Worker(two, 70, ids)]
        await stack.enter_async_context(at_work(*workers))
        await steps(*workers)
        for slot in slots:
            await asyncio.to_thread(cluster.begin_move, slot, source, target)
            await steps(*workers)
            await check(one, *workers)
            keys = source.ask("CLUSTER GETKEYSINSLOT", slot, 100)
            assert len(keys) > 1
            for key in keys[: len(keys) // 2]:
                await asyncio.to_thread(cluster.move_keys, [key], source, target)
                await steps(*workers, count=3)
            await check(two, *workers)
            await asyncio.to_thread(cluster.end_move, slot, source, target)
            await steps(*workers)
            await check(one, *workers)
        assert target.ask("CLUSTER COUNTKEYSINSLOT", next(iter(slots))) > 1
        assert [worker.failures for worker in workers] == [0, 0], "no call failed"


async def test_the_slot_of_the_registry_migrates(cluster: RedisCluster) -> None:
    """Redis refuses scripts with several keys while their slot is split, so they wait."""
    slot = cluster.slot(REGISTRY)
    async with open_index(cluster.url, bits=8) as index:
        await index.records.put(Location(name="one", url="http://one.example"), None)
        await index.records.request_sweep(1)
        ids = make_ids(50)
        await index.claims.claim(1, ids)
        before = await index.records.load()
        source = cluster.master_of(REGISTRY)
        target = next(node for node in cluster.masters() if node is not source)
        cluster.begin_move(slot, source, target)
        cluster.move_keys(source.ask("CLUSTER GETKEYSINSLOT", slot, 2), source, target)
        for _ in range(3):
            lookup = await index.claims.lookup(ids)
            assert lookup.owners == [(Owner(1),)] * len(ids)
            assert lookup.version == before.version
        loading = asyncio.create_task(index.records.load())
        putting = asyncio.create_task(
            index.records.put(Location(name="two", url="http://two.example"), None)
        )
        done, _ = await asyncio.wait([loading, putting], timeout=0.2)
        assert putting not in done
        await asyncio.to_thread(cluster.end_move, slot, source, target)
        two = await putting
        assert (await loading).records["one"] == before.records["one"]
        after = await index.records.load()
        assert {name: r.location.number for name, r in after.records.items()} == {
            "one": 1,
            "two": two.number,
        }
        assert after.version > before.version
        assert cluster.master_of(REGISTRY) is target


async def test_a_registry_in_a_split_slot_is_unavailable(cluster: RedisCluster) -> None:
    slot = cluster.slot(REGISTRY)
    async with open_index(cluster.url, bits=8) as index:
        source = cluster.master_of(REGISTRY)
        target = next(node for node in cluster.masters() if node is not source)
        cluster.begin_move(slot, source, target)
        async with asyncio.timeout(15):
            with pytest.raises(IndexUnavailable, match=r"TRYAGAIN|ASK"):
                await index.records.put(Location(name="one", url="http://one.example"), None)
        await asyncio.to_thread(cluster.end_move, slot, source, target)
