"""The link to a cluster: routing, shapes of replies, opening and closing."""

from __future__ import annotations

import asyncio
import time

import pytest

from resolver.errors import IndexUnavailable
from resolver.index import Index, open_index
from resolver.index.redis.cluster import ClusterClient
from resolver.index.redis.scripts import load
from resolver.index.redis.url import connect
from resolver.models import Owner
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids
from tests.support.redis import RedisServer, free_port

pytestmark = pytest.mark.redis
IDS = make_ids(300)


async def test_each_node_gets_its_share(cluster_url: str, redis_cluster: RedisCluster) -> None:
    async with open_index(cluster_url, bits=8) as index:
        await index.claims.claim(1, IDS)
        sizes = [node.ask("DBSIZE") for node in redis_cluster.masters()]
        assert all(size > 20 for size in sizes)
        assert (await index.census()).bytes, "MEMORY USAGE goes by its key"
        for _ in range(10):
            await index.ping()


async def test_replies_have_the_shapes_of_the_wire(cluster_url: str) -> None:
    """Also those that come after a redirection, from a link whose map is all wrong."""
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
    link = connect(cluster_url)
    assert isinstance(link, ClusterClient)
    try:
        assert await link.pipeline(commands) == expected
        for key in ("h", "s", "x"):
            await link.command("DEL", key)
        masters = link._masters
        nodes = sorted(set(masters.values()))
        following = dict(zip(nodes, nodes[1:] + nodes[:1], strict=True))
        link._masters = {slot: following[node] for slot, node in masters.items()}
        assert await link.pipeline(commands) == expected
        assert link._masters == masters, "it learnt"
    finally:
        await link.close()


async def test_scripts_that_no_node_knows(cluster_url: str, redis_cluster: RedisCluster) -> None:
    async with open_index(cluster_url, bits=8) as index:
        await index.claims.claim(1, IDS)
        assert isinstance(index.client, ClusterClient)
        for node in redis_cluster.masters():
            node.ask("SCRIPT FLUSH")
        # Wrong about every slot as well: redirected first, then taught.
        nodes = sorted(set(index.client._masters.values()))
        index.client._masters = dict.fromkeys(range(16384), nodes[0])
        assert await index.claims.release(1, IDS) == len(IDS)


async def test_an_error_that_is_the_reply_is_not_sent_again(cluster_url: str) -> None:
    async with open_index(cluster_url, bits=8) as index:
        begun = time.monotonic()
        with pytest.raises(IndexUnavailable, match="WRONGTYPE"):
            await index.client.command("GET", "glr:{reg}:meta")
        assert time.monotonic() - begun < 2
        with pytest.raises(IndexUnavailable, match="CROSSSLOT"):
            await index.client.run(load("lease_release"), ["a", "b"], ["t"])


async def test_a_url_with_a_dead_node_first(redis_cluster: RedisCluster) -> None:
    redis_cluster.flush()
    dead = f"127.0.0.1:{free_port()}"
    live = redis_cluster.nodes[-1].name
    async with open_index(f"redis+cluster://{dead},{live}", bits=8) as index:
        await index.claims.claim(1, IDS)
        assert (await index.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)


async def test_a_server_that_is_no_cluster(redis_server: RedisServer) -> None:
    with pytest.raises(IndexUnavailable, match="cluster support disabled"):
        async with open_index(f"redis+cluster://127.0.0.1:{redis_server.port}"):
            pytest.fail("it opened")


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_calls_under_way_when_the_index_is_closed(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """They fail as unavailable, soon, and open no connections that nobody closes."""
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
async def test_a_link_is_closed_while_it_opens(kind: str, request: pytest.FixtureRequest) -> None:
    link = connect(request.getfixturevalue(f"{kind}_url"))
    calls = [
        asyncio.create_task(link.command("GET", "x", foreground=bool(n % 2))) for n in range(4)
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    await link.close()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(error is None or isinstance(error, IndexUnavailable) for error in found), found
    with pytest.raises(IndexUnavailable):
        await link.command("GET", "x")


async def test_a_caller_that_gives_up_does_not_end_what_others_wait_for(cluster_url: str) -> None:
    link = connect(cluster_url)
    try:
        hasty = asyncio.create_task(link.command("GET", "x"))
        patient = asyncio.create_task(link.command("GET", "x"))
        for _ in range(3):
            await asyncio.sleep(0)
        hasty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hasty
        assert await patient is None
    finally:
        await link.close()
