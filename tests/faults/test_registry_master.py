"""The master of a cluster that has the registry comes back empty; the others keep their buckets."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import pytest
import redis

from resolver.models import format_id
from resolver.standin import StandIn
from tests.faults.resolver_process import Process, process
from tests.support.cluster import Node, RedisCluster
from tests.support.ids import make_ids
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

IDS = {"one": make_ids(60, seed=1), "two": make_ids(60, seed=2)}
TRUTH = {format_id(image_id): name for name, ids in IDS.items() for image_id in ids}


def registry_master(cluster: RedisCluster) -> Node:
    """The node that has the index's identity."""
    for node in cluster.nodes:
        with suppress(redis.ResponseError):  # MOVED: another has that slot
            if node.ask("EXISTS", "glr:{reg}:meta") and node.ask("ROLE")[0] == b"master":
                return node
    raise AssertionError("no node has the registry")


async def all_are_found(resolver: Process) -> bool:
    """Whether the index has the owner of each image. Fails at once if it names another."""
    from_index = 0
    for text, owner in TRUTH.items():
        status, body = await resolver.get(f"/resolve/{text}")
        owners = {row["location"] for row in body["owners"]}
        assert owners <= {owner}, f"{text} is at {owner}, and {owners} are named"
        assert status != 404, f"{text} is at {owner}, and absent"
        from_index += status == 200 and body["source"] in ("index", "cache")
    return from_index == len(TRUTH)


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
async def test_no_wrong_owner_is_named_when_location_numbers_restart(
    own_cluster: RedisCluster, order: tuple[str, str]
) -> None:
    """All processes start again, with the locations in this order."""
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(StandIn()) for name in IDS}
        for text, name in TRUTH.items():
            servers[name].add(id=text)
        settings = {"index_bits": 10, "sweep_interval": 2, "access_log": "off"}
        locations = {name: {"url": servers[name].url} for name in IDS}
        async with process(own_cluster.url, locations, **settings) as resolver:
            await wait_until(lambda: all_are_found(resolver))
        registry_master(own_cluster).ask("FLUSHALL")
        again = {name: locations[name] for name in order}
        async with process(own_cluster.url, again, **settings) as resolver:
            await wait_until(lambda: all_are_found(resolver))
