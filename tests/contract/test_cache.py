"""Claims cached in a process, on each backend: every change invalidates them within a second."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from resolver.errors import IndexLost
from resolver.index import ClaimCache, Index
from resolver.index.keys import Keys
from resolver.index.redis.client import Command, RedisClient
from resolver.models import Location, Owner
from tests.contract.caching import BITS, SECOND, Pair, cache, cached, invalidated, open_with_cache
from tests.contract.conftest import Real
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

A, B, *MORE = make_ids(40)
UPPER = 0xFFFFFFFF


async def test_lookup_results_are_cached_with_their_age(pair: Pair) -> None:
    index, _ = pair
    await index.claims.claim(1, {A: UPPER})
    await index.claims.claim(2, [A])
    assert cached(index, A) is None
    await index.claims.lookup([A])
    assert cached(index, A) is None, "caching was not asked for"
    await cache(index, A)
    assert cached(index, A) == {Owner(1, UPPER), Owner(2)}
    found = index.claims.cached(A)
    assert found is not None
    assert 0 <= found[1] < 5


async def test_an_image_without_owners_is_cached_until_it_is_claimed(pair: Pair) -> None:
    """Also where its bucket does not exist yet."""
    index, other = pair
    absent, claimed = A, MORE[0]
    await index.claims.lookup([absent], cache=True)
    assert cached(index, absent) == set()
    await other.claims.claim(1, [absent])
    await wait_until(lambda: cached(index, absent) is None)
    assert (await index.claims.lookup([absent], cache=True)).owners == [(Owner(1),)]
    await index.claims.lookup([claimed], cache=True)
    assert cached(index, claimed) == set()
    await index.claims.claim(1, [claimed])
    assert cached(index, claimed) != set(), "its own change needs no report"


CHANGES = ["claim", "release", "spelling", "purge", "sweep"]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_by_another_process_invalidates(pair: Pair, change: str) -> None:
    index, other = pair
    await other.claims.claim(1, [A])
    await cache(index, A)
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
    await invalidated(index, A)
    before = (await other.claims.lookup([A])).owners
    assert (await index.claims.lookup([A], cache=True)).owners == before


async def test_changes_of_other_buckets_do_not_invalidate(pair: Pair) -> None:
    index, other = pair
    near, far = (bytes([first]) + A[1:] for first in (A[0], A[0] ^ 1))
    assert near == A
    await other.claims.claim(1, [A])
    await cache(index, A)
    await other.claims.claim(1, [far])
    await index.claims.lookup([far])  # earlier invalidations arrive before this reply
    assert cached(index, A) == {Owner(1)}


@pytest.mark.redis
async def test_a_claim_that_is_not_new_does_not_invalidate(
    real: Real, stack: AsyncExitStack
) -> None:
    index, other = [await open_with_cache(stack, real.url) for _ in range(2)]
    await other.claims.claim(1, [A])
    await cache(index, A)
    await other.observations.record_present(1, {A: 0}, asyncio.get_running_loop().time())
    await index.claims.lookup([A])
    assert cached(index, A) == {Owner(1)}


async def test_changes_of_the_registry_are_reported(pair: Pair) -> None:
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


class DelayedClient(RedisClient):
    """Another client, whose next foreground replies wait until they are delivered."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__()
        self._client = client
        client.on_invalidation(self.invalidate)
        self.received, self.deliver = asyncio.Event(), asyncio.Event()

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        replies = await self._client.send(commands, foreground=foreground)
        if foreground and not self.received.is_set():
            self.received.set()
            await self.deliver.wait()
        return replies

    def tracking_current(self) -> bool:
        return self._client.tracking_current()

    async def close(self) -> None:
        await self._client.close()


async def test_a_read_that_races_with_a_change_caches_nothing_old(pair: Pair) -> None:
    opened, other = pair
    client = DelayedClient(opened.client)
    index = Index(client, Keys("glr:"), BITS, ClaimCache(1000, ttl=60))
    await index.identity()
    await other.claims.claim(1, [A])
    reading = asyncio.create_task(index.claims.lookup([A], cache=True))
    await client.received.wait()
    await other.claims.claim(2, [A])
    await index.claims.lookup([A])  # earlier invalidations arrive before this reply
    client.deliver.set()
    assert (await reading).owners == [(Owner(1),)]
    assert cached(index, A) is None
    await cache(index, A)
    assert cached(index, A) == {Owner(1), Owner(2)}


async def test_cached_claims_are_never_older_than_the_last_reply(pair: Pair) -> None:
    """Readers and a writer at once; a read after each write receives its invalidation."""
    index, other = pair
    rng, ids, stop = random.Random(4), MORE[:6], False

    async def read() -> None:
        while not stop:
            await index.claims.lookup(rng.sample(ids, 3), cache=True)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read()) for _ in range(4)]
    cached_reads = 0
    for _ in range(150):
        image_id, number = rng.choice(ids), rng.randint(1, 3)
        if rng.random() < 0.5:
            await other.claims.claim(number, [image_id])
        else:
            await other.claims.release(number, [image_id])
        (owners,) = (await index.claims.lookup([image_id])).owners
        found = cached(index, image_id)
        cached_reads += found is not None
        assert found in (None, set(owners))
    stop = True
    await asyncio.gather(*readers)
    for image_id in ids:
        (owners,) = (await index.claims.lookup([image_id], cache=True)).owners
        assert cached(index, image_id) in (None, set(owners))
    await index.claims.claim(9, ids[:1])
    await cache(index, ids[0])
    assert cached_reads or index is other, "the test must have found cached claims"


def servers(real: Real) -> Sequence[RedisServer]:
    """The processes that accept writes."""
    return real.masters() if isinstance(real, RedisCluster) else [real]


def clients(real: Real) -> Iterator[redis.Redis]:
    for server in servers(real):
        with server.client() as client:
            yield client


@pytest.mark.redis
async def test_flushall_invalidates_everything(real: Real, stack: AsyncExitStack) -> None:
    index = await open_with_cache(stack, real.url)
    await index.claims.claim(1, [A])
    await cache(index, A)
    changes = index.records.changes
    for client in clients(real):
        client.flushall()
    await invalidated(index, A)
    await wait_until(lambda: index.records.changes > changes, SECOND)
    with pytest.raises(IndexLost):
        await index.claims.lookup([A], cache=True)
    await index.create_if_missing()
    assert (await index.claims.lookup([A], cache=True)).owners == [()]


@pytest.mark.redis
async def test_a_lost_connection_invalidates_everything(real: Real, stack: AsyncExitStack) -> None:
    index, other = [await open_with_cache(stack, real.url) for _ in range(2)]
    await index.claims.claim(1, [A])
    await cache(index, A)
    changes = index.records.changes
    for client in clients(real):
        client.client_kill_filter(_type="normal", skipme=True)
    await other.claims.claim(2, [A])
    await invalidated(index, A)
    assert index.records.changes > changes
    await cache(index, A)
    assert cached(index, A) == {Owner(1), Owner(2)}
    await other.claims.release(1, [A])
    await invalidated(index, A)


@pytest.mark.redis
async def test_nothing_is_cached_while_redis_hangs(own_real: Real, stack: AsyncExitStack) -> None:
    index, other = [await open_with_cache(stack, own_real.url) for _ in range(2)]
    await other.claims.claim(1, [A])
    await cache(index, A)
    paused = servers(own_real)
    for server in paused:
        server.pause()
    await invalidated(index, A)
    for server in paused:
        server.resume()
    await cache(index, A)
    await other.claims.claim(2, [A])
    await invalidated(index, A)


@pytest.mark.redis
async def test_tracking_stays_current_in_an_idle_process(real: Real, stack: AsyncExitStack) -> None:
    """Heartbeats prove that the connection works."""
    index = await open_with_cache(stack, real.url)
    await index.claims.claim(1, [A])
    await cache(index, A)
    for _ in range(20):
        await asyncio.sleep(0.1)
        assert cached(index, A) == {Owner(1)}


@pytest.mark.redis
async def test_a_rebuild_invalidates_everything(real: Real, stack: AsyncExitStack) -> None:
    index, other = [await open_with_cache(stack, real.url) for _ in range(2)]
    ids = [bytes(1) + image_id[1:] for image_id in MORE]  # some have the same number in both
    await other.claims.claim(1, ids)
    for image_id in ids[:5]:
        await cache(index, image_id)

    async def report() -> None:
        for image_id in ids[:5]:
            (owners,) = (await other.claims.lookup([image_id])).owners
            assert cached(index, image_id) in (None, set(owners))

    for bits in (12, 5):
        assert await other.rebuild.run(bits, report, drop_after=0)
        await other.claims.claim(2, ids[:5])
        await invalidated(index, ids[0])
        assert [cached(index, image_id) for image_id in ids[:5]] == [None] * 5
        for image_id in ids[:5]:
            await cache(index, image_id)
            assert cached(index, image_id) == {Owner(1), Owner(2)}
        await other.claims.release(2, ids[:5])
        for image_id in ids[:5]:
            await invalidated(index, image_id)
            await cache(index, image_id)


@pytest.mark.redis
@pytest.mark.parametrize("less", ["-client|tracking", "-client"])
async def test_without_permission_for_tracking_nothing_is_cached(
    redis_server: RedisServer, stack: AsyncExitStack, less: str
) -> None:
    if not redis_server.knows_acl_rule(less):
        pytest.skip("Redis 6.2 cannot take away a subcommand alone")
    redis_server.flush()
    with redis_server.client() as client:
        rules = ["reset", "on", ">word", "~*", "&*", "+@all"]
        client.execute_command("ACL", "SETUSER", "plain", *rules, *less.split())
    index = await open_with_cache(stack, f"redis://plain:word@127.0.0.1:{redis_server.port}/0")
    await index.claims.claim(1, [A])
    for _ in range(3):
        assert (await index.claims.lookup([A], cache=True)).owners == [(Owner(1),)]
        assert cached(index, A) is None
    one = await index.records.put(Location(name="one", url="http://one.example"), None)
    assert (await index.records.load()).records["one"].location == one
    assert await index.observations.record_absent(1, [A]) == 1
    assert (await index.claims.lookup([A], cache=True)).owners == [()]
    assert (await index.census()).images == 0
