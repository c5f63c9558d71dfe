"""Clusters whose nodes do not know the hosts that clients should use."""

from __future__ import annotations

import pytest

from resolver.index import open_index
from resolver.index.redis.slot_map import parse_address, parse_cluster_slots
from resolver.models import Owner
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids

NODE = ("asked.example", 7000)


@pytest.mark.redis
@pytest.mark.parametrize("kind", ["hostname", "unknown-endpoint", "ip"])
async def test_the_index_works_with_every_preferred_endpoint_type(
    own_cluster: RedisCluster, kind: str
) -> None:
    """Without a host name, a node of the kind ``hostname`` puts ``?`` into the map."""
    for node in own_cluster.masters():
        if not node.ask("CONFIG GET", "cluster-preferred-endpoint-type"):
            pytest.skip("Redis 6.2 has one kind of endpoint")
        node.ask("CONFIG SET", "cluster-preferred-endpoint-type", kind)
    ids = make_ids(300)
    async with open_index(own_cluster.url, bits=8) as index:
        await index.claims.claim(1, dict.fromkeys(ids, 0))
        found = await index.claims.lookup(ids)
        assert [owners[0].number for owners in found.owners] == [1] * len(ids)
        assert isinstance(found.owners[0][0], Owner)


def test_the_address_of_a_server_without_a_host_name_is_in_the_metadata() -> None:
    reply = [
        [0, 8191, [b"?", 7001, b"id1", [b"ip", b"10.9.0.1"]], [b"", 7002, b"id2", []]],
        [8192, 16383, [None, 7003, b"id3"], [b"r.example", 7004, b"id4", [b"ip", b"10.9.0.4"]]],
    ]
    slot_map = parse_cluster_slots(reply, NODE)
    assert slot_map.masters[0] == ("10.9.0.1", 7001)
    assert slot_map.masters[16383] == ("asked.example", 7003)
    assert slot_map.nodes[1] == ("asked.example", 7002)
    assert slot_map.nodes[3] == ("r.example", 7004)


@pytest.mark.parametrize("metadata", [[], [b"hostname"], [b"hostname", b"x"]])
def test_without_the_metadata_the_host_is_that_of_the_node_that_was_asked(
    metadata: list[bytes],
) -> None:
    reply = [[0, 16383, [b"?", 7001, b"id1", metadata]]]
    assert parse_cluster_slots(reply, NODE).masters[7] == ("asked.example", 7001)


def test_a_redirection_without_a_host_leads_to_the_same_host() -> None:
    assert parse_address("?:7001", NODE) == ("asked.example", 7001)
    assert parse_address(":7001", NODE) == ("asked.example", 7001)
    assert parse_address("fd00::1:7001", NODE) == ("fd00::1", 7001)
