"""Claims kept in a process, on each backend: whatever changes them is heard of within a second."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
import redis

from resolver.errors import IndexLost
from resolver.index import ClaimCache, Index, open_index
from resolver.index.codec import encode_owners
from resolver.index.redis.cluster import ClusterClient
from resolver.models import Location, Owner
from tests.conftest import started
from tests.contract.conftest import Real
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.sentinel import Sentinels
from tests.support.wait import wait_until

A, B, *MORE = make_ids(40)
BITS = 8
SECOND = 1.0
"""Within which every gateway knows."""
UPPER = 0xFFFFFFFF


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def opened(stack: AsyncExitStack, url: str, size: int = 1000, ttl: float = 60) -> Index:
    cache = ClaimCache(size, ttl)
    return await stack.enter_async_context(open_index(url, bits=BITS, cache=cache))


Pair = tuple[Index, Index]
"""One that keeps what it reads, and another that makes changes."""


@pytest.fixture
async def pair(stack: AsyncExitStack, index_url: str) -> Pair:
    """On `memory:`, where nobody shares an index, both are the same."""
    one = await opened(stack, index_url)
    return one, one if index_url == "memory:" else await opened(stack, index_url)


def kept(index: Index, image_id: bytes) -> set[Owner] | None:
    found = index.claims.cached(image_id)
    return None if found is None else set(found[0])


async def keep(index: Index, image_id: bytes) -> None:
    """Reads an image until it is kept."""

    async def read() -> bool:
        await index.claims.lookup([image_id], cache=True)
        return kept(index, image_id) is not None

    await wait_until(read, message="what is read is kept")


async def dropped(index: Index, image_id: bytes, timeout: float = SECOND) -> None:  # noqa: ASYNC109
    await wait_until(lambda: kept(index, image_id) is None, timeout, "it is kept no longer")


async def test_what_was_read_is_kept_with_its_age(pair: Pair) -> None:
    index, _ = pair
    await index.claims.claim(1, {A: UPPER})
    await index.claims.claim(2, [A])
    assert kept(index, A) is None
    await index.claims.lookup([A])
    assert kept(index, A) is None, "not asked for"
    await keep(index, A)
    assert kept(index, A) == {Owner(1, UPPER), Owner(2)}
    found = index.claims.cached(A)
    assert found is not None
    assert 0 <= found[1] < 5


async def test_what_has_no_owner_is_not_kept(pair: Pair) -> None:
    index, other = pair
    await index.claims.lookup([A], cache=True)
    assert kept(index, A) is None
    await other.claims.claim(1, [A])
    assert (await index.claims.lookup([A], cache=True)).owners == [(Owner(1),)]


CHANGES = ["claim", "release", "spelling", "purge", "sweep"]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_by_another_is_heard_of(pair: Pair, change: str) -> None:
    index, other = pair
    await other.claims.claim(1, [A])
    await keep(index, A)
    match change:
        case "claim":
            await other.claims.claim(2, [A])
        case "release":
            await other.claims.release(1, [A])
        case "spelling":
            await other.claims.claim(1, {A: UPPER})
        case "purge":
            await other.claims.purge([1])
        case "sweep":
            await other.observations.record_absent(1, [A])
    await dropped(index, A)
    before = (await other.claims.lookup([A])).owners
    assert (await index.claims.lookup([A], cache=True)).owners == before


async def test_changes_of_other_buckets_leave_it_kept(pair: Pair) -> None:
    index, other = pair
    near, far = (bytes([first]) + A[1:] for first in (A[0], A[0] ^ 1))
    assert near == A
    await other.claims.claim(1, [A])
    await keep(index, A)
    await other.claims.claim(1, [far])
    await index.claims.lookup([far])  # all that was told before is heard by now
    assert kept(index, A) == {Owner(1)}


@pytest.mark.redis
async def test_a_claim_of_what_is_known_changes_nothing(real: Real, stack: AsyncExitStack) -> None:
    index, other = [await opened(stack, real.url) for _ in range(2)]
    await other.claims.claim(1, [A])
    await keep(index, A)
    await other.observations.record_present(1, {A: 0}, asyncio.get_running_loop().time())
    await index.claims.lookup([A])
    assert kept(index, A) == {Owner(1)}


async def test_the_registry_s_changes_are_heard_of(pair: Pair) -> None:
    index, other = pair
    await index.records.put(Location(name="one", url="http://one.example"), None)
    await index.claims.lookup([A])
    seen = index.records.changes
    await other.records.put(Location(name="two", url="http://two.example"), None)
    await wait_until(lambda: index.records.changes > seen, SECOND)
    await index.claims.lookup([A])
    seen = index.records.changes
    assert await other.records.remove("two")
    await wait_until(lambda: index.records.changes > seen, SECOND)


async def test_a_read_that_crosses_with_a_change_keeps_nothing_old(pair: Pair) -> None:
    index, other = pair
    await other.claims.claim(1, [A])
    await index.claims.lookup([B], cache=True)
    send, there, go = index.client.send, asyncio.Event(), asyncio.Event()

    async def late(commands: Any, *, foreground: bool) -> list[Any]:
        replies = await send(commands, foreground=foreground)
        if foreground and not there.is_set():
            there.set()
            await go.wait()
        return replies

    index.client.send = late  # type: ignore[method-assign]
    reading = asyncio.create_task(index.claims.lookup([A], cache=True))
    await there.wait()
    await other.claims.claim(2, [A])
    await index.claims.lookup([A])  # whatever was told is heard by now
    go.set()
    assert (await reading).owners == [(Owner(1),)]
    assert kept(index, A) is None
    await keep(index, A)
    assert kept(index, A) == {Owner(1), Owner(2)}


async def test_what_is_kept_is_never_older_than_what_was_heard(pair: Pair) -> None:
    """Readers and a writer, all at once; after each write, one more read hears of it."""
    index, other = pair
    rng, ids, stop = random.Random(4), MORE[:6], False

    async def read() -> None:
        while not stop:
            await index.claims.lookup(rng.sample(ids, 3), cache=True)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read()) for _ in range(4)]
    hits = 0
    for _ in range(150):
        image_id, number = rng.choice(ids), rng.randint(1, 3)
        if rng.random() < 0.5:
            await other.claims.claim(number, [image_id])
        else:
            await other.claims.release(number, [image_id])
        (owners,) = (await index.claims.lookup([image_id])).owners
        found = kept(index, image_id)
        hits += found is not None
        assert found in (None, set(owners))
    stop = True
    await asyncio.gather(*readers)
    for image_id in ids:
        (owners,) = (await index.claims.lookup([image_id], cache=True)).owners
        assert kept(index, image_id) in (None, set(owners))
    await index.claims.claim(9, ids[:1])
    await keep(index, ids[0])
    assert hits or index is other, "else nothing was tried"


def clients(real: Real) -> Iterator[redis.Redis]:
    for server in real.masters() if isinstance(real, RedisCluster) else [real]:
        with server.client() as client:
            yield client


@pytest.mark.redis
async def test_a_flush_is_heard_of(real: Real, stack: AsyncExitStack) -> None:
    index = await opened(stack, real.url)
    await index.claims.claim(1, [A])
    await keep(index, A)
    changes = index.records.changes
    for client in clients(real):
        client.flushall()
    await dropped(index, A)
    await wait_until(lambda: index.records.changes > changes, SECOND)
    with pytest.raises(IndexLost):
        await index.claims.lookup([A], cache=True)
    await index.create_if_missing()
    assert (await index.claims.lookup([A], cache=True)).owners == [()]


@pytest.mark.redis
async def test_a_lost_connection_clears_all(real: Real, stack: AsyncExitStack) -> None:
    index, other = [await opened(stack, real.url) for _ in range(2)]
    await index.claims.claim(1, [A])
    await keep(index, A)
    changes = index.records.changes
    for client in clients(real):
        client.client_kill_filter(_type="normal", skipme=True)
    await other.claims.claim(2, [A])
    await dropped(index, A)
    assert index.records.changes > changes
    await keep(index, A)
    assert kept(index, A) == {Owner(1), Owner(2)}
    await other.claims.release(1, [A])
    await dropped(index, A)


@contextmanager
def hanging(pids: list[int]) -> Iterator[None]:
    """Processes that keep their connections and do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def pids(real: Real) -> list[int]:
    servers = real.masters() if isinstance(real, RedisCluster) else [real]
    return [server._process.pid for server in servers if server._process is not None]


@pytest.mark.redis
async def test_what_a_silent_redis_would_tell_of_is_not_relied_upon(
    own_real: Real, stack: AsyncExitStack
) -> None:
    index, other = [await opened(stack, own_real.url) for _ in range(2)]
    await other.claims.claim(1, [A])
    await keep(index, A)
    with hanging(pids(own_real)):
        await dropped(index, A)
    await keep(index, A)
    await other.claims.claim(2, [A])
    await dropped(index, A)


@pytest.mark.redis
async def test_an_idle_process_stays_sure(real: Real, stack: AsyncExitStack) -> None:
    """What is asked while all is quiet keeps the connection proven."""
    index = await opened(stack, real.url)
    await index.claims.claim(1, [A])
    await keep(index, A)
    for _ in range(20):
        await asyncio.sleep(0.1)
        assert kept(index, A) == {Owner(1)}


@pytest.mark.redis
async def test_it_is_all_new_in_other_buckets(
    real: Real, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resolver.index.rebuild.DROP_AFTER", 0.0)
    index, other = [await opened(stack, real.url) for _ in range(2)]
    ids = [bytes(1) + image_id[1:] for image_id in MORE]  # some have the same number in both
    await other.claims.claim(1, ids)
    for image_id in ids[:5]:
        await keep(index, image_id)

    async def report() -> None:
        for image_id in ids[:5]:
            (owners,) = (await other.claims.lookup([image_id])).owners
            assert kept(index, image_id) in (None, set(owners))

    for bits in (12, 5):
        assert await other.rebuild.run(bits, report)
        await other.claims.claim(2, ids[:5])
        await dropped(index, ids[0])
        assert [kept(index, image_id) for image_id in ids[:5]] == [None] * 5
        for image_id in ids[:5]:
            await keep(index, image_id)
            assert kept(index, image_id) == {Owner(1), Owner(2)}
        await other.claims.release(2, ids[:5])
        for image_id in ids[:5]:
            await dropped(index, image_id)
            await keep(index, image_id)


@pytest.mark.redis
@pytest.mark.parametrize("less", ["-client|tracking", "-client"])
async def test_a_user_who_may_not_be_told_keeps_nothing(
    redis_server: RedisServer, stack: AsyncExitStack, less: str
) -> None:
    redis_server.flush()
    with redis_server.client() as client:
        rules = ["reset", "on", ">word", "~*", "&*", "+@all"]
        client.execute_command("ACL", "SETUSER", "plain", *rules, *less.split())
    index = await opened(stack, f"redis://plain:word@127.0.0.1:{redis_server.port}/0")
    await index.claims.claim(1, [A])
    for _ in range(3):
        assert (await index.claims.lookup([A], cache=True)).owners == [(Owner(1),)]
        assert kept(index, A) is None
    one = await index.records.put(Location(name="one", url="http://one.example"), None)
    assert (await index.records.load()).records["one"].location == one
    assert await index.observations.record_absent(1, [A]) == 1
    assert (await index.claims.lookup([A], cache=True)).owners == [()]
    assert (await index.claims.census()).images == 0


@pytest.fixture
def own_cluster() -> Iterator[RedisCluster]:
    cluster = started(RedisCluster())
    yield cluster
    cluster.close()


def bucket_key(index: Index, image_id: bytes) -> bytes:
    return index.claims.buckets.key(index.claims.buckets.number(image_id))


@pytest.mark.redis
async def test_a_slot_that_moves_takes_nothing_old_along(
    own_cluster: RedisCluster, stack: AsyncExitStack
) -> None:
    cluster = own_cluster
    index, other = [await opened(stack, cluster.url) for _ in range(2)]
    await other.claims.claim(1, [A])
    await keep(index, A)
    key = bucket_key(index, A)
    source = cluster.master_of(key)
    target = next(node for node in cluster.masters() if node is not source)
    slot = cluster.slot(key)
    await asyncio.to_thread(cluster.begin_move, slot, source, target)
    await keep(index, A)
    await asyncio.to_thread(cluster.move_keys, [key], source, target)
    await other.claims.claim(2, [A])
    await dropped(index, A)
    await keep(index, A)
    assert kept(index, A) == {Owner(1), Owner(2)}
    await other.claims.claim(3, [A])  # by way of a node that sends it on
    await dropped(index, A)
    await keep(index, A)
    await asyncio.to_thread(cluster.end_move, slot, source, target)
    await other.claims.release(1, [A])
    await dropped(index, A)
    await keep(index, A)
    assert kept(index, A) == {Owner(2), Owner(3)}


@pytest.mark.redis
async def test_a_replica_that_takes_over_is_heard(
    own_cluster: RedisCluster, stack: AsyncExitStack
) -> None:
    cluster = own_cluster
    index, other = [await opened(stack, cluster.url) for _ in range(2)]
    await other.claims.claim(1, [A])
    await keep(index, A)
    master = cluster.master_of(bucket_key(index, A))
    replica = cluster.replica_of(master)
    await asyncio.to_thread(lambda: replica.ask("CLUSTER FAILOVER"))
    await wait_until(lambda: cluster.role(replica) == "master")
    await other.claims.claim(2, [A])
    await dropped(index, A)
    await keep(index, A)
    assert kept(index, A) == {Owner(1), Owner(2)}
    await other.claims.claim(3, [A])
    await dropped(index, A)


@pytest.mark.redis
async def test_a_master_that_was_replaced_is_not_relied_upon(
    redis_cluster: RedisCluster, stack: AsyncExitStack
) -> None:
    """Cut off from the others, it still answers us, and hears of no change."""
    redis_cluster.flush()
    index = await opened(stack, redis_cluster.url)
    await index.claims.claim(1, [A])
    await keep(index, A)
    client, changes = index.client, index.records.changes
    assert isinstance(client, ClusterClient)
    nodes = sorted(set(client._masters.values()))
    following = dict(zip(nodes, nodes[1:] + nodes[:1], strict=True))
    others = {slot: following[node] for slot, node in client._masters.items()}

    async def told(_: object) -> object:
        return others, client._nodes

    client._map_of = told  # type: ignore[method-assign, assignment]
    await client._learn()
    assert kept(index, A) is None
    assert index.records.changes > changes


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    sentinels = started(Sentinels())
    yield sentinels
    sentinels.close()


@pytest.mark.redis
async def test_a_planned_failover_is_noticed_by_a_process_that_only_keeps(
    sentinels: Sentinels, stack: AsyncExitStack
) -> None:
    """The old master stays one for ten seconds, and tells of no change."""
    index = await opened(stack, sentinels.url)
    await index.claims.claim(1, [A])
    await wait_until(sentinels.synced)
    await keep(index, A)
    old = sentinels.master()
    await asyncio.to_thread(sentinels.failover)
    await wait_until(lambda: sentinels.named() == {sentinels.other(old).port})
    other = await opened(stack, sentinels.url)
    assert old.info()["role"] == "master", "it has not been told yet"
    await other.claims.claim(2, [A])
    # A second for the change, and one for the Sentinels to be asked.
    await wait_until(lambda: kept(index, A) in (None, {Owner(1), Owner(2)}), 2 * SECOND)


def test_the_cache_keeps_to_its_size() -> None:
    cache = ClaimCache(100, 60)
    for image_id in make_ids(1000):
        cache.put(image_id[0], cache.open(image_id[0]), image_id, encode_owners([Owner(1)]))
        assert cache.count <= 100
    assert cache.count > 50
    cache.clear()
    assert cache.count == 0


def test_buckets_in_which_nothing_was_found_count_too() -> None:
    """A storm of unknown ids opens each bucket there is."""
    cache = ClaimCache(100, 60)
    for bucket in range(1000):
        cache.open(bucket)
    assert len(cache._buckets) <= 100


def test_a_cache_of_no_size_holds_nothing() -> None:
    cache = ClaimCache(0, 0)
    for bucket, image_id in enumerate(MORE):
        kept = cache.open(bucket)
        cache.put(bucket, kept, image_id, encode_owners([Owner(1)]))
        assert cache.get(bucket, image_id) is None
    cache.open(1)
    assert len(cache._buckets) == 0


def test_what_is_dropped_is_not_put_back() -> None:
    cache = ClaimCache(100, 60)
    opened = cache.open(7)
    cache.put(7, opened, A, encode_owners([Owner(1)]))
    cache.drop(7)
    cache.put(7, opened, B, encode_owners([Owner(1)]))
    assert (cache.get(7, A), cache.get(7, B), cache.count) == (None, None, 0)
    again = cache.open(7)
    cache.put(7, opened, A, encode_owners([Owner(1)]))
    assert cache.get(7, A) is None
    cache.put(7, again, A, encode_owners([Owner(2)]))
    found = cache.get(7, A)
    assert found is not None
    assert found[0] == (Owner(2),)


def test_nothing_is_kept_beyond_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("resolver.index.cache.time.monotonic", lambda: now)
    cache = ClaimCache(100, 10)
    first = cache.open(7)
    cache.put(7, first, A, encode_owners([Owner(1)]))
    now += 9
    cache.put(7, cache.open(7), B, encode_owners([Owner(1)]))
    found = cache.get(7, B)
    assert found is not None
    assert found[1] == 9, "as old as the oldest that could have been missed with it"
    now += 2
    cache.put(7, first, B, encode_owners([Owner(1)]))  # a read that took long
    assert (cache.get(7, A), cache.get(7, B)) == (None, None)
    assert cache.count == 0
