"""A master with a replica, and three Sentinels that watch them: processes on loopback."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster import Server, Tls, login, poll, scheme, synced

SERVICE = "glr"
SENTINELS = 3
DOWN_AFTER = 1000
"""Milliseconds without an answer that make a server a dead one."""


class SentinelProcess(Server):
    """One Sentinel. It rewrites its configuration file."""

    def options(self, port: int) -> list[str]:
        file = self.directory / f"sentinel-{port}.conf"
        file.touch()
        log = str(self.directory / f"{port}.log")
        return [
            *(str(file), "--sentinel", "--port", str(port), "--bind", "127.0.0.1"),
            *("--logfile", log, "--dir", str(self.directory)),
            *self.tls_options(),
        ]


class Sentinels:
    """Two servers, one of them the master, behind three Sentinels."""

    def __init__(self, *, password: str = "", tls: Tls | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="glr-sentinel-")
        directory = Path(self._directory.name)
        options = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.password = password
        self._tls = tls
        self.servers = [Server(directory, *options, password=password, tls=tls) for _ in range(2)]
        self.sentinels = [SentinelProcess(directory, tls=tls) for _ in range(SENTINELS)]

    @property
    def url(self) -> str:
        sentinels = ",".join(one.name for one in self.sentinels)
        return f"{scheme(self._tls)}+sentinel://{login(self.password)}{sentinels}/{SERVICE}"

    def start(self) -> Self:
        """Returns once all know each other. Raises RedisMissingError."""
        try:
            for server in (*self.servers, *self.sentinels):
                server.start()
            master, replica = self.servers
            replica.ask("REPLICAOF", "127.0.0.1", master.reach)
            poll(lambda: replica.info()["master_link_status"] == "up", "the replica follows")
            for one in self.sentinels:
                one.ask("SENTINEL MONITOR", SERVICE, "127.0.0.1", master.reach, 2)
                settings = ["down-after-milliseconds", DOWN_AFTER, "failover-timeout", 5000]
                if self.password:
                    settings += ["auth-pass", self.password]
                one.ask("SENTINEL SET", SERVICE, *settings)
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def wait(self) -> None:
        """Until every Sentinel knows the others, and they agree with the servers who is what."""

        def whole() -> bool:
            for one in self.sentinels:
                row = one.ask("SENTINEL MASTER", SERVICE)
                seen = dict(zip(row[::2], row[1::2], strict=True))
                others = int(seen[b"num-other-sentinels"])
                if (seen[b"flags"], seen[b"num-slaves"]) != (b"master", b"1"):
                    return False
                if others != SENTINELS - 1:
                    return False
                row = one.ask("SENTINEL REPLICAS", SERVICE)[0]
                if dict(zip(row[::2], row[1::2], strict=True))[b"flags"] != b"slave":
                    return False
            if len(self.named()) > 1:
                return False
            master = self.master()
            follows = self.other(master).info()
            return (master.info()["role"], follows.get("master_link_status")) == ("master", "up")

        poll(whole, "the Sentinels know each other")

    def named(self) -> set[int]:
        """Ports of the masters that the Sentinels name: one, when they agree."""
        asked = [one for one in self.sentinels if one.running]
        return {int(s.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) for s in asked}

    def master(self) -> Server:
        (port,) = self.named()
        return next(server for server in self.servers if server.reach == port)

    def other(self, server: Server) -> Server:
        return next(s for s in self.servers if s is not server)

    def failover(self) -> None:
        """Lets the replica take over; a Sentinel refuses until it has heard from it lately."""
        poll(lambda: self.sentinels[1].ask("SENTINEL FAILOVER", SERVICE), "a failover begins")

    def synced(self) -> bool:
        """Whether the replica has all that the master had at this moment."""
        master = self.master()
        return synced(master, self.other(master))

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()
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
