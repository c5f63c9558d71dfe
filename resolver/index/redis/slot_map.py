"""The map of a cluster: which node is the master of which slot."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from redis.crc import key_slot

from resolver.index.redis.client import Address, Command
from resolver.index.redis.redis_errors import DECODE_ERRORS

UNKNOWN_HOST = "?"
"""In place of a host that a node does not know."""


class SlotMap(NamedTuple):
    """A map as one node gave it."""

    masters: dict[int, Address]
    """By slot."""
    nodes: list[Address]
    """Masters and replicas."""


def parse_cluster_slots(reply: Any, node: Address) -> SlotMap:
    """The map in the reply of ``node`` to CLUSTER SLOTS.

    Raises:
        ConnectionError: it is not such a reply, or the node belongs to no cluster.
    """
    masters: dict[int, Address] = {}
    nodes: dict[Address, None] = {}
    try:
        for first, last, *servers in reply:
            addresses = [_address_of(server, node) for server in servers]
            masters.update(dict.fromkeys(range(first, last + 1), addresses[0]))
            nodes.update(dict.fromkeys(addresses))
    except DECODE_ERRORS as error:
        raise ConnectionError(f"{node[0]}:{node[1]} sends no map of a cluster") from error
    if not masters:
        raise ConnectionError(f"{node[0]}:{node[1]} belongs to no cluster")
    return SlotMap(masters, list(nodes))


def _address_of(server: Any, node: Address) -> Address:
    """The address of one server in the map. Without a host it is that of ``node``. ``?`` stands for
    a server without the host name that ``cluster-preferred-endpoint-type`` asks for: then its
    address is among the metadata (Redis 7)."""
    host, port, *rest = server
    name = (host or b"").decode()
    if name == UNKNOWN_HOST:
        metadata = rest[1] if len(rest) > 1 else []
        pairs = dict(zip(metadata[::2], metadata[1::2], strict=False))
        name = pairs.get(b"ip", b"").decode()
    return name or node[0], port


def parse_address(text: str, node: Address) -> Address:
    """``host:port`` in a redirection by ``node``; without a host, or with ``?``, it means that of
    the node.

    Raises:
        ConnectionError: it is not an address.
    """
    host, _, port = text.rpartition(":")
    return node[0] if host in ("", UNKNOWN_HOST) else host, _int(port, node)


def parse_moved(text: str, node: Address) -> tuple[int, Address]:
    """Slot and new master in what follows the word MOVED.

    Raises:
        ConnectionError: it is not ``slot host:port``.
    """
    slot, _, address = text.partition(" ")
    return _int(slot, node), parse_address(address, node)


def _int(text: str, node: Address) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConnectionError(f"{node[0]}:{node[1]} redirects to nowhere") from error


@lru_cache(maxsize=1 << 16)
def slot_of(key: bytes | str) -> int:
    """The slot of a key."""
    return key_slot(key if isinstance(key, bytes) else key.encode())


def routing_key(command: Command) -> bytes | str | None:
    """The key that decides the slot of a command; None for a command without a key."""
    match command[0]:
        case "EVALSHA" | "EVAL":
            return command[3]  # type: ignore[no-any-return]
        case "MEMORY":
            return command[2]  # type: ignore[no-any-return]
        case "PING":
            return None
        case _:
            return command[1]  # type: ignore[no-any-return]
