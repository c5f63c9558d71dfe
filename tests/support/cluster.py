"""A real Redis Cluster for tests: processes on loopback, three masters and a replica of each."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.certificates import Files
from tests.support.redis import (
    ATTEMPTS,
    RedisMissingError,
    RedisServer,
    free_port,
    redis_binary,
)

SLOTS = 16384
START_NODE_TIMEOUT = 2000
"""Milliseconds; nodes with a short one meet sooner."""
MASTERS = 3
UP_TIMEOUT = 60.0
"""Seconds for the nodes to agree; it takes three on an idle machine."""
POLL = 0.02


def poll(met: Callable[[], Any], what: str, timeout: float = UP_TIMEOUT) -> Any:
    """What `met()` gives once it is true. Raises RedisMissingError that names `what`."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if value := met():
                return value
            why = ""
        except redis.RedisError as error:
            why = f": {error}"
        if time.monotonic() > deadline:
            raise RedisMissingError(f"not within {timeout:g} s: {what}{why}")
        time.sleep(POLL)


@dataclass(frozen=True)
class Tls:
    """What servers speak TLS with."""

    server: Files
    ca: Path
    """Who signs the certificates of their peers, and of clients."""
    clients: bool = False
    """Whether clients must have a certificate."""


def scheme(tls: Tls | None) -> str:
    return "rediss" if tls else "redis"


def login(password: str) -> str:
    """The part of a URL before its hosts."""
    return f":{quote(password, safe='')}@" if password else ""


class Server(RedisServer):
    """A server with options of its own, that logs to a file, may want a password, and can hang."""

    def __init__(
        self, directory: Path, *options: str, password: str = "", tls: Tls | None = None
    ) -> None:
        super().__init__()
        self.password = password
        self.directory = directory
        self.mode: list[str] = []
        """Arguments before all others."""
        self.tls = tls
        self.tls_port = 0
        self._more = list(options)

    @property
    def reach(self) -> int:
        """The port for those under test. The other, without TLS, is for the tests themselves."""
        return self.tls_port or self.port

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.reach}"

    @property
    def url(self) -> str:
        return f"{scheme(self.tls)}://{login(self.password)}{self.name}/0"

    def tls_options(self) -> tuple[str, ...]:
        if self.tls is None:
            return ()
        if not self.port or not self.tls_port:
            self.tls_port = free_port()
        files = self.tls.server
        return (
            *("--tls-port", str(self.tls_port), "--tls-ca-cert-file", str(self.tls.ca)),
            *("--tls-cert-file", str(files.cert), "--tls-key-file", str(files.key)),
            *("--tls-auth-clients", "yes" if self.tls.clients else "no"),
            *("--tls-replication", "yes"),
        )

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def options(self, port: int) -> list[str]:
        secret = ("--requirepass", self.password, "--masterauth", self.password)
        return [
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
            *("--logfile", str(self.directory / f"{port}.log"), "--save", ""),
            *(secret if self.password else ()),
            *self.tls_options(),
            *self._more,
        ]

    def start(self) -> Self:
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            process = subprocess.Popen(
                [redis_binary(), *self.mode, *self.options(port)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._process, before, self.port = process, self.port, port

            def answers(process: subprocess.Popen[bytes] = process) -> bool:
                return process.poll() is not None or bool(self.ask("PING"))

            poll(answers, "redis-server answers")
            if process.poll() is None:
                return self
            self._process, self.port = None, before
        raise RedisMissingError("redis-server does not start")

    def client(self) -> redis.Redis:
        retry = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, password=self.password or None, retry=retry, protocol=2)

    def ask(self, command: str, *args: Any) -> Any:
        """The plain reply to one command."""
        with self.client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command.split(), *args)

    def info(self) -> dict[str, str]:
        """INFO replication."""
        lines = self.ask("INFO", "replication").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def pause(self) -> None:
        """It hangs: connections stay, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Node(Server):
    """A node of a cluster. Killed and started again it knows the cluster, and has no data."""

    bus = 0

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER MYID").decode())

    def options(self, port: int) -> list[str]:
        if not self.port or not self.bus:
            self.bus = free_port()
        return [
            *super().options(port),
            *(("--tls-cluster", "yes") if self.tls else ()),
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus)),
            *("--cluster-config-file", f"nodes-{port}.conf"),
            *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
        ]


def synced(master: Server, replica: Server) -> bool:
    """Whether a replica has all that its master had at this moment."""
    written = int(master.info()["master_repl_offset"])
    seen = replica.info()
    return seen["role"] == "slave" and int(seen["slave_repl_offset"]) >= written


class RedisCluster:
    """Three masters with a replica each.

    `node_timeout` milliseconds without a word make a node a dead one. It is long unless a test
    kills nodes: a busy machine is no failure.
    """

    def __init__(
        self, *, node_timeout: int = 60_000, password: str = "", tls: Tls | None = None
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="glr-cluster-")
        self._node_timeout = node_timeout
        self.password = password
        options = ["--cluster-node-timeout", str(min(node_timeout, START_NODE_TIMEOUT))]
        # A replica takes over however long it has heard nothing of its master.
        options += ["--cluster-replica-validity-factor", "0"]
        options += ["--cluster-allow-replica-migration", "no"]
        directory = Path(self._directory.name)
        self._tls = tls
        self.nodes = [
            Node(directory, *options, password=password, tls=tls) for _ in range(2 * MASTERS)
        ]

    @property
    def url(self) -> str:
        nodes = ",".join(node.name for node in self.nodes)
        return f"{scheme(self._tls)}+cluster://{login(self.password)}{nodes}"

    def start(self) -> Self:
        """Returns once all nodes agree and the replicas follow. Again: the same cluster, empty.

        Raises:
            RedisMissingError: it does not come up.
        """
        new = not self.nodes[0].port
        try:
            for node in self.nodes:
                node.start()
            if new:
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
                node.ask("CLUSTER ADDSLOTSRANGE", edges[0], edges[1] - 1)
            if node is not first:
                node.ask("CLUSTER MEET", "127.0.0.1", first.port, first.bus)
        everybody = {node.id for node in self.nodes}
        for node in self.nodes:
            poll(lambda node=node: everybody <= set(self._seen_by(node)), "the nodes meet")
        for master, replica in zip(self.nodes[:MASTERS], self.nodes[MASTERS:], strict=False):
            replica.ask("CLUSTER REPLICATE", master.id)

    @staticmethod
    def _seen_by(node: Node) -> dict[str, list[str]]:
        """Id -> the other columns of CLUSTER NODES, without those it only shakes hands with."""
        rows = [line.split() for line in node.ask("CLUSTER NODES").decode().splitlines()]
        return {row[0]: row[1:] for row in rows if "handshake" not in row[2]}

    def wait(self) -> None:
        """Until all nodes run, agree on who has which slot, and the replicas are linked."""

        def whole() -> bool:
            views = set()
            for node in self.nodes:
                if b"cluster_state:ok" not in node.ask("CLUSTER INFO"):
                    return False
                info = node.info()
                if info["role"] == "slave" and info["master_link_status"] != "up":
                    return False
                seen = self._seen_by(node)
                if any("fail" in row[1] for row in seen.values()):
                    return False
                # Who it is, whom it follows, and its slots.
                views.add(tuple(sorted((i, row[2], *sorted(row[7:])) for i, row in seen.items())))
            return len(views) == 1

        poll(whole, "the cluster is whole")

    def masters(self) -> list[Node]:
        """Nodes that run and say that they are masters."""
        return [n for n in self.nodes if n.running and n.info()["role"] == "master"]

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

        node: Node = poll(found, f"slot {slot} has a master")
        return node

    def slot(self, key: bytes | str) -> int:
        return int(next(n for n in self.nodes if n.running).ask("CLUSTER KEYSLOT", key))

    def replica_of(self, master: Node) -> Node:
        for node in self.nodes:
            if node.running and node.info().get("master_port") == str(master.port):
                return node
        raise LookupError(f"{master.name} has no replica")

    def role(self, node: Node) -> str:
        return node.info()["role"]

    def synced(self) -> bool:
        """Whether each replica has all that its master had at this moment."""
        pairs = [(master, self.replica_of(master)) for master in self.masters()]
        return all(synced(master, replica) for master, replica in pairs)

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """From now on `source` sends commands for keys that it lacks on to `target`."""
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, keys: list[bytes], source: Node, target: Node) -> None:
        login = ("AUTH", self.password) if self.password else ()
        address = ("127.0.0.1", target.port)
        source.ask("MIGRATE", *address, "", 0, 10_000, *login, "KEYS", *keys)

    def end_move(self, slot: int, source: Node, target: Node) -> None:
        """Moves what is left, and tells the nodes who has the slot now."""
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            self.move_keys(keys, source, target)
        for node in (target, source):
            node.ask("CLUSTER SETSLOT", slot, "NODE", target.id)

    def flush(self) -> None:
        for node in self.masters():
            node.ask("FLUSHALL")
            node.ask("SCRIPT FLUSH")

    def client(self) -> Any:
        """A plain client, to look at what the code under test wrote."""
        node = redis.cluster.ClusterNode("127.0.0.1", self.nodes[0].port)
        return redis.RedisCluster(startup_nodes=[node], password=self.password or None)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def close(self) -> None:
        self.kill()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
