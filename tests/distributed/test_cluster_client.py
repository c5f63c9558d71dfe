"""The client of a cluster: routing, shapes of replies, opening and closing."""

from __future__ import annotations

import asyncio
import time

import pytest

from resolver.errors import IndexUnavailable
from resolver.index import Index, open_index
from resolver.index.redis.cluster import ClusterClient
from resolver.index.redis.scripts import load
from resolver.index.redis.slot_map import SlotMap
from resolver.index.redis.url import connect
from resolver.models import Owner
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids
from tests.support.process import free_port
from tests.support.redis import RedisServer

pytestmark = pytest.mark.redis
IDS = make_ids(300)


async def test_keys_are_spread_over_all_nodes(
    cluster_url: str, redis_cluster: RedisCluster
) -> None:
    async with open_index(cluster_url, bits=8) as index:
        await index.claims.claim(1, IDS)
        sizes = [node.ask("DBSIZE") for node in redis_cluster.masters()]
        assert all(size > 20 for size in sizes)
        assert (await index.census()).bytes, "MEMORY USAGE goes by its key"
        for _ in range(10):
            await index.ping()


async def test_cluster_replies_have_the_types_of_a_single_server(cluster_url: str) -> None:
    """Also after a redirection, with a slot map that is wrong about every slot."""
    commands = [
        ("HSET", "h", "f", "v"),
        ("SADD", "s", "1"),
        ("HGETALL", "h"),
        ("HGETALL", "nothing"),
        ("SMEMBERS", "s"),
        ("SMEMBERS", "nothing"),
        ("SET", "x", "1", "NX", "PX", 60_000),
        ("SET", "x", "1", "NX", "PX", 60_000),
        ("HMGET", "h", "f", "g"),
        ("GET", "nothing"),
        ("PTTL", "h"),
        ("MEMORY", "USAGE", "nothing"),
    ]
    expected = [1, 1, [b"f", b"v"], [], [b"1"], [], b"OK", None, [b"v", None], None, -1, None]
    client = connect(cluster_url)
    assert isinstance(client, ClusterClient)
    try:
        assert await client.pipeline(commands) == expected
        for key in ("h", "s", "x"):
            await client.command("DEL", key)
        masters, nodes = client.slot_map
        addresses = sorted(set(masters.values()))
        next_address = dict(zip(addresses, addresses[1:] + addresses[:1], strict=True))
        wrong = {slot: next_address[master] for slot, master in masters.items()}
        await client.use_slot_map(SlotMap(wrong, nodes))
        assert await client.pipeline(commands) == expected
        assert client.slot_map.masters == masters, "it has read the map again"
    finally:
        await client.close()


async def test_scripts_are_loaded_after_a_redirection(
    cluster_url: str, redis_cluster: RedisCluster
) -> None:
    async with open_index(cluster_url, bits=8) as index:
        await index.claims.claim(1, IDS)
        assert isinstance(index.client, ClusterClient)
        for node in redis_cluster.masters():
            node.ask("SCRIPT FLUSH")
        # With a wrong slot map too: redirected first, then loaded.
        masters, nodes = index.client.slot_map
        one_for_all = dict.fromkeys(masters, min(masters.values()))
        await index.client.use_slot_map(SlotMap(one_for_all, nodes))
        assert await index.claims.release(1, IDS) == len(IDS)


async def test_a_command_that_fails_is_not_sent_again(cluster_url: str) -> None:
    async with open_index(cluster_url, bits=8) as index:
        begun = time.monotonic()
        with pytest.raises(IndexUnavailable, match="WRONGTYPE"):
            await index.client.command("GET", "glr:{reg}:meta")
        assert time.monotonic() - begun < 2
        with pytest.raises(IndexUnavailable, match="CROSSSLOT"):
            await index.client.run(load("lease_release"), ["a", "b"], ["t"])


async def test_an_index_is_opened_through_another_node_of_its_url(
    redis_cluster: RedisCluster,
) -> None:
    redis_cluster.flush()
    dead = f"127.0.0.1:{free_port()}"
    live = redis_cluster.nodes[-1].address
    async with open_index(f"redis+cluster://{dead},{live}", bits=8) as index:
        await index.claims.claim(1, IDS)
        assert (await index.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)


async def test_a_server_without_cluster_support_is_an_error(redis_server: RedisServer) -> None:
    with pytest.raises(IndexUnavailable, match="cluster support disabled"):
        async with open_index(f"redis+cluster://127.0.0.1:{redis_server.port}"):
            pytest.fail("it opened")


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_closing_the_index_ends_calls_under_way(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """They fail as unavailable, soon, and leave no connection open."""
    url = request.getfixturevalue(f"{kind}_url")
    async with open_index(url, bits=8) as index:
        await index.claims.claim(1, IDS)

        async def busy(index: Index) -> None:
            while True:
                await index.claims.claim(2, IDS)
                await index.claims.lookup(IDS)

        tasks = [asyncio.create_task(busy(index)) for _ in range(5)]
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, IndexUnavailable) for error in found), found


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_a_client_is_closed_while_it_connects(
    kind: str, request: pytest.FixtureRequest
) -> None:
    client = connect(request.getfixturevalue(f"{kind}_url"))
    calls = [
        asyncio.create_task(client.command("GET", "x", foreground=bool(n % 2))) for n in range(4)
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    await client.close()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(error is None or isinstance(error, IndexUnavailable) for error in found), found
    with pytest.raises(IndexUnavailable):
        await client.command("GET", "x")


async def test_a_cancelled_caller_does_not_cancel_a_shared_connect(cluster_url: str) -> None:
    client = connect(cluster_url)
    try:
        hasty = asyncio.create_task(client.command("GET", "x"))
        patient = asyncio.create_task(client.command("GET", "x"))
        for _ in range(3):
            await asyncio.sleep(0)
        hasty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hasty
        assert await patient is None
    finally:
        await client.close()
