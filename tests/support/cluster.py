"""A real Redis Cluster for tests: processes on loopback, three masters and a replica of each."""

from __future__ import annotations

from typing import Any, Self

import redis

from tests.support.process import HIGHEST_PORT, ServerUnavailableError, Startable, is_free
from tests.support.redis import (
    RedisServer,
    Tls,
    is_replicated,
    url_login,
    url_scheme,
)
from tests.support.wait import wait_until_blocking

SLOTS = 16384
BUS_PORT_OFFSET = 10_000
"""From a node's port to the one for other nodes. Redis 6.2 cannot have it elsewhere."""
MEETING_NODE_TIMEOUT_MS = 2000
"""Nodes with a short timeout meet sooner."""
MASTERS = 3
UP_TIMEOUT_SECONDS = 60.0
"""For the nodes to agree; it takes three on an idle machine."""
NODE_OPTIONS = (
    *("--save", "", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
    # A replica takes over however long it has lost the contact with its master.
    *("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"),
)


def wait_for_servers(condition: Any, what: str) -> Any:
    """Waits for a condition about running servers. Raises ServerUnavailableError."""
    try:
        return wait_until_blocking(
            condition, UP_TIMEOUT_SECONDS, what, ignored=(redis.RedisError, OSError)
        )
    except AssertionError as error:
        raise ServerUnavailableError(str(error)) from error


class Node(RedisServer):
    """A node of a cluster. Killed and started again it knows the cluster, and has no data."""

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER MYID").decode())

    def choose_ports(self) -> None:
        while True:
            super().choose_ports()
            bus_port = self.public_port + BUS_PORT_OFFSET
            if bus_port < HIGHEST_PORT and is_free(bus_port):
                return

    def command(self) -> list[str]:
        return [
            *super().command(),
            *(("--tls-cluster", "yes") if self.tls else ()),
            *("--cluster-enabled", "yes"),
            *("--cluster-config-file", f"nodes-{self.port}.conf"),
        ]


class RedisCluster(Startable):
    """Three masters with a replica each.

    A node without an answer for `node_timeout` milliseconds counts as failed. The time is long
    unless a test kills nodes: a busy machine is no failure.
    """

    def __init__(
        self, *, node_timeout: int = 60_000, password: str = "", tls: Tls | None = None
    ) -> None:
        super().__init__()
        self._node_timeout = node_timeout
        self.password = password
        self._tls = tls
        timeout = str(min(node_timeout, MEETING_NODE_TIMEOUT_MS))
        options = [*NODE_OPTIONS, "--cluster-node-timeout", timeout]
        self.nodes = [
            Node(self.directory, options, password=password, tls=tls) for _ in range(2 * MASTERS)
        ]

    @property
    def url(self) -> str:
        nodes = ",".join(node.address for node in self.nodes)
        return f"{url_scheme(self._tls)}+cluster://{url_login(self.password)}{nodes}"

    def start(self) -> Self:
        """Returns once all nodes agree and the replicas follow. Started again it is the same
        cluster without data."""
        is_new = not self.nodes[0].port
        try:
            for node in self.nodes:
                node.start()
            if is_new:
                self._join()
            self.wait()
            for node in self.nodes:
                node.ask("CONFIG SET", "cluster-node-timeout", self._node_timeout)
        except BaseException:
            self.close()
            raise
        return self

    def _join(self) -> None:
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            if number < MASTERS:
                edges = [SLOTS * n // MASTERS for n in (number, number + 1)]
                node.ask("CLUSTER ADDSLOTS", *range(*edges))
            if node is not first:
                node.ask("CLUSTER MEET", "127.0.0.1", first.public_port)
        all_ids = {node.id for node in self.nodes}

        def have_met() -> bool:
            return all(all_ids <= set(self._seen_by(node)) for node in self.nodes)

        wait_for_servers(have_met, "the nodes meet")
        for master, replica in zip(self.nodes[:MASTERS], self.nodes[MASTERS:], strict=False):
            replica.ask("CLUSTER REPLICATE", master.id)

    @staticmethod
    def _seen_by(node: Node) -> dict[str, list[str]]:
        """Id -> the other columns of CLUSTER NODES, without nodes in a handshake."""
        rows = [line.split() for line in node.ask("CLUSTER NODES").decode().splitlines()]
        return {row[0]: row[1:] for row in rows if "handshake" not in row[2]}

    def wait(self) -> None:
        """Returns once all nodes run and agree on the slots, and the replicas are connected."""

        def is_whole() -> bool:
            views = set()
            for node in self.nodes:
                if b"cluster_state:ok" not in node.ask("CLUSTER INFO"):
                    return False
                info = node.replication()
                if info["role"] == "slave" and info["master_link_status"] != "up":
                    return False
                seen = self._seen_by(node)
                if any("fail" in row[1] for row in seen.values()):
                    return False
                # Its id, its master and its slots.
                views.add(tuple(sorted((i, row[2], *sorted(row[7:])) for i, row in seen.items())))
            return len(views) == 1

        wait_for_servers(is_whole, "the cluster is whole")

    def masters(self) -> list[Node]:
        """Running nodes whose role is master."""
        return [n for n in self.nodes if n.is_running and n.replication()["role"] == "master"]

    def master_of(self, key: bytes | str) -> Node:
        """The master of a key's slot."""
        slot = self.slot(key)

        def found() -> Node | None:
            for node in self.masters():
                rows = node.ask("CLUSTER SLOTS")
                ports = [row[2][1] for row in rows if row[0] <= slot <= row[1]]
                if node.port in ports:
                    return node
            return None

        node: Node = wait_for_servers(found, f"slot {slot} has a master")
        return node

    def slot(self, key: bytes | str) -> int:
        return int(next(n for n in self.nodes if n.is_running).ask("CLUSTER KEYSLOT", key))

    def replica_of(self, master: Node) -> Node:
        for node in self.nodes:
            if node.is_running and node.replication().get("master_port") == str(master.port):
                return node
        raise LookupError(f"{master.address} has no replica")

    def role(self, node: Node) -> str:
        return node.replication()["role"]

    def is_replicated(self) -> bool:
        """Whether each replica has everything that its master had at this moment."""
        pairs = [(master, self.replica_of(master)) for master in self.masters()]
        return all(is_replicated(master, replica) for master, replica in pairs)

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """Makes `source` redirect commands for keys that it lacks to `target`."""
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, keys: list[bytes], source: Node, target: Node) -> None:
        login = ("AUTH", self.password) if self.password else ()
        address = ("127.0.0.1", target.port)
        source.ask("MIGRATE", *address, "", 0, 10_000, *login, "KEYS", *keys)

    def end_move(self, slot: int, source: Node, target: Node) -> None:
        """Moves the remaining keys, and announces the slot's new node."""
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            self.move_keys(keys, source, target)
        for node in (target, source):
            node.ask("CLUSTER SETSLOT", slot, "NODE", target.id)

    def flush(self) -> None:
        for node in self.masters():
            node.ask("FLUSHALL")
            node.ask("SCRIPT FLUSH")

    def client(self) -> Any:
        """A plain client, to read what the code under test wrote."""
        node = redis.cluster.ClusterNode("127.0.0.1", self.nodes[0].port)  # type: ignore[no-untyped-call]
        return redis.RedisCluster(startup_nodes=[node], password=self.password or None)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()
