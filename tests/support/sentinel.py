"""A master with a replica, and three Sentinels that watch them: processes on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import redis

from tests.support.cluster import wait_for_servers
from tests.support.process import Startable
from tests.support.redis import (
    RedisServer,
    Tls,
    is_replicated,
    url_login,
    url_scheme,
)

SERVICE = "glr"
SENTINELS = 3
QUORUM = 2
DOWN_AFTER_MS = 1000
"""How long a server that does not answer counts as running."""
FAILOVER_TIMEOUT_MS = 5000
"""Sentinels begin no other failover of the same master within twice this time."""
SERVER_OPTIONS = (
    *("--save", "", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
)
ISOLATED_PASSWORD = "of an isolated server"
START_DOWN_AFTER_MS = 60_000
"""The same until all Sentinels know each other."""
PERIODS_MS = {"INFO-PERIOD": 300, "PING-PERIOD": 200, "PUBLISH-PERIOD": 500, "ASK-PERIOD": 200}
"""How often Sentinels do what they usually do every one or two seconds or, for INFO, every ten.
After four PUBLISH-PERIODs they turn an unexpected master into a replica."""
NO_TILT = {"TILT-TRIGGER": 60_000, "TILT-PERIOD": 1000}
"""A Sentinel that was not scheduled for two seconds would do nothing for thirty."""


class SentinelProcess(RedisServer):
    """One Sentinel. It rewrites its configuration file."""

    name = "sentinel"

    def prepare(self) -> None:
        (self.directory / f"sentinel-{self.port}.conf").touch()

    def _password_options(self) -> list[str]:
        return ["--requirepass", self.password] if self.password else []

    def command(self) -> list[str]:
        binary, *options = super().command()
        return [binary, str(self.directory / f"sentinel-{self.port}.conf"), "--sentinel", *options]


def to_dict(row: list[bytes]) -> dict[bytes, bytes]:
    """A reply of names and values in turns."""
    return dict(zip(row[::2], row[1::2], strict=True))


class Sentinels(Startable):
    """Two servers, one of them the master, behind three Sentinels."""

    def __init__(
        self,
        *,
        password: str = "",
        sentinel_password: str = "",
        tls: Tls | None = None,
        periods_ms: Mapping[str, int] = PERIODS_MS,
    ) -> None:
        """``periods_ms``: arguments of SENTINEL DEBUG. Without them a Sentinel makes an old master
        follow the new one only after ten seconds."""
        super().__init__()
        self._periods_ms = periods_ms
        self.password = password
        self._tls = tls
        self.servers = [
            RedisServer(self.directory, SERVER_OPTIONS, password=password, tls=tls)
            for _ in range(2)
        ]
        self.sentinels = [
            SentinelProcess(self.directory, (), password=sentinel_password, tls=tls)
            for _ in range(SENTINELS)
        ]

    @property
    def url(self) -> str:
        return self.url_with(self.password)

    def url_with(self, password: str) -> str:
        addresses = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"{url_scheme(self._tls)}+sentinel://{url_login(password)}{addresses}/{SERVICE}"

    def start(self) -> Self:
        """Returns once all Sentinels know each other."""
        try:
            for server in (*self.servers, *self.sentinels):
                server.start()
            master, replica = self.servers
            replica.ask("REPLICAOF", "127.0.0.1", master.public_port)
            wait_for_servers(
                lambda: replica.replication()["master_link_status"] == "up",
                "the replica is connected",
            )
            for sentinel in self.sentinels:
                self.configure(sentinel, master)
            self.wait()
            for sentinel in self.sentinels:
                sentinel.ask("SENTINEL SET", SERVICE, "down-after-milliseconds", DOWN_AFTER_MS)
        except BaseException:
            self.close()
            raise
        return self

    def configure(self, sentinel: SentinelProcess, master: RedisServer) -> None:
        """Has a Sentinel watch a master."""
        for name, milliseconds in {**self._periods_ms, **NO_TILT}.items():
            with suppress(redis.ResponseError):  # older than 7.0: it is only slower
                sentinel.ask("SENTINEL DEBUG", name, milliseconds)
        sentinel.ask("SENTINEL MONITOR", SERVICE, "127.0.0.1", master.public_port, QUORUM)
        settings: list[Any] = ["down-after-milliseconds", START_DOWN_AFTER_MS]
        settings += ["failover-timeout", FAILOVER_TIMEOUT_MS]
        if self.password:
            settings += ["auth-pass", self.password]
        sentinel.ask("SENTINEL SET", SERVICE, *settings)

    def wait(self) -> None:
        """Returns once every Sentinel knows the others, and they agree with the servers which one
        is the master."""
        wait_for_servers(self._is_whole, "the Sentinels know each other")

    def _is_whole(self) -> bool:
        if not all(self._knows_all(sentinel) for sentinel in self.sentinels):
            return False
        if len(self.named()) > 1:
            return False
        master = self.master()
        replica = self.other(master).replication()
        is_connected = replica.get("master_link_status") == "up"
        return master.replication()["role"] == "master" and is_connected

    @staticmethod
    def _knows_all(sentinel: SentinelProcess) -> bool:
        master = to_dict(sentinel.ask("SENTINEL MASTER", SERVICE))
        if (master[b"flags"], master[b"num-slaves"]) != (b"master", b"1"):
            return False
        if int(master[b"num-other-sentinels"]) != SENTINELS - 1:
            return False
        replica = to_dict(sentinel.ask("SENTINEL REPLICAS", SERVICE)[0])
        roles = (master[b"role-reported"], replica[b"role-reported"], replica[b"flags"])
        return roles == (b"master", b"slave", b"slave")

    def named(self) -> set[int]:
        """Ports of the masters that the Sentinels name: a single one when they agree."""
        running = [sentinel for sentinel in self.sentinels if sentinel.is_running]
        return {int(s.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) for s in running}

    def master(self) -> RedisServer:
        (port,) = self.named()
        return next(server for server in self.servers if server.public_port == port)

    def other(self, server: RedisServer) -> RedisServer:
        return next(s for s in self.servers if s is not server)

    def failover(self) -> None:
        """Begins a planned failover. A Sentinel refuses it until it has checked the replica."""
        wait_for_servers(
            lambda: self.sentinels[1].ask("SENTINEL FAILOVER", SERVICE), "a failover begins"
        )

    def isolate(self, server: RedisServer) -> None:
        """Cuts a server off from the other and from the Sentinels, which log in as the default
        user. Clients that log in as somebody else still reach it."""
        self._give_password(server, ISOLATED_PASSWORD)

    def rejoin(self, server: RedisServer) -> None:
        """Ends `isolate`."""
        self._give_password(server, self.password)

    @staticmethod
    def _give_password(server: RedisServer, password: str) -> None:
        server.ask("CONFIG SET", "requirepass", password)
        server.password = password
        server.ask("CLIENT KILL", "USER", "default")

    def is_replicated(self) -> bool:
        """Whether the replica has everything that the master had at this moment."""
        master = self.master()
        return is_replicated(master, self.other(master))

    def kill(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()
