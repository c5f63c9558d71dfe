"""A master with a replica, and three Sentinels that watch them: processes on loopback."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster import Server, poll

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
        ]


class Sentinels:
    """Two servers, one of them the master, behind three Sentinels."""

    def __init__(self, *, password: str = "") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="glr-sentinel-")
        directory = Path(self._directory.name)
        options = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.password = password
        self.servers = [Server(directory, *options, password=password) for _ in range(2)]
        self.sentinels = [SentinelProcess(directory) for _ in range(SENTINELS)]

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis+sentinel://{login}{','.join(s.name for s in self.sentinels)}/{SERVICE}"

    def start(self) -> Self:
        """Returns once all know each other. Raises RedisMissingError."""
        try:
            for server in (*self.servers, *self.sentinels):
                server.start()
            master, replica = self.servers
            replica.ask("REPLICAOF", "127.0.0.1", master.port)
            poll(lambda: replica.info()["master_link_status"] == "up", "the replica follows")
            for one in self.sentinels:
                one.ask("SENTINEL MONITOR", SERVICE, "127.0.0.1", master.port, 2)
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
        """Until every Sentinel knows the others and all that run are well."""

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
            return True

        poll(whole, "the Sentinels know each other")

    def named(self) -> set[int]:
        """Ports of the masters that the Sentinels name: one, when they agree."""
        asked = [one for one in self.sentinels if one.running]
        return {int(s.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) for s in asked}

    def master(self) -> Server:
        (port,) = self.named()
        return next(server for server in self.servers if server.port == port)

    def other(self, server: Server) -> Server:
        return next(s for s in self.servers if s is not server)

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
