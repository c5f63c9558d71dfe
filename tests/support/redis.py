"""A real Redis server for tests: a process on loopback."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.certificates import Files
from tests.support.process import ServerProcess, find_program, free_port

NOTHING_ON_DISK = ("--save", "", "--appendonly", "no")
EVERYTHING_ON_DISK = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


@dataclass(frozen=True)
class Tls:
    """What servers speak TLS with."""

    server: Files
    ca: Path
    """The authority that signs the certificates of their peers and of clients."""
    clients: bool = False
    """Whether clients must have a certificate."""


def url_scheme(tls: Tls | None) -> str:
    return "rediss" if tls else "redis"


def url_login(password: str) -> str:
    """The part of a URL before its hosts."""
    return f":{quote(password, safe='')}@" if password else ""


class RedisServer(ServerProcess):
    """One redis-server. Started again it has its data if `options` keep it on disk.

    It may require a password, and may speak TLS: then its URL names the TLS port, and the other
    port is for the tests themselves.
    """

    name = "redis-server"

    def __init__(
        self,
        directory: Path | None = None,
        options: Sequence[str] = NOTHING_ON_DISK,
        *,
        password: str = "",
        tls: Tls | None = None,
    ) -> None:
        super().__init__(directory)
        self.options = options
        """Changed ones count from the next start."""
        self.password = password
        self.tls = tls
        self.tls_port = 0

    @property
    def public_port(self) -> int:
        """The port for the code under test."""
        return self.tls_port or self.port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.public_port}"

    @property
    def url(self) -> str:
        return f"{url_scheme(self.tls)}://{url_login(self.password)}{self.address}/0"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}-{self.port}.log"

    def choose_ports(self) -> None:
        super().choose_ports()
        if self.tls:
            self.tls_port = free_port()

    def command(self) -> list[str]:
        binary = find_program("redis-server", "redis-server")
        return [binary, *self._network_options(), *self._password_options(), *self.options]

    def _network_options(self) -> list[str]:
        """Where it listens, and its directory."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        if self.tls is not None:
            files = self.tls.server
            options += ["--tls-port", str(self.tls_port), "--tls-replication", "yes"]
            options += ["--tls-ca-cert-file", str(self.tls.ca)]
            options += ["--tls-cert-file", str(files.cert), "--tls-key-file", str(files.key)]
            options += ["--tls-auth-clients", "yes" if self.tls.clients else "no"]
        return options

    def _password_options(self) -> list[str]:
        if not self.password:
            return []
        return ["--requirepass", self.password, "--masterauth", self.password]

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """A plain client without retries, to read what the code under test wrote."""
        return redis.Redis(
            port=self.port,
            password=self.password or None,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def ask(self, command: str, *args: Any) -> Any:
        """The reply to one command, not converted. Raises redis.RedisError.

        A client of redis-py takes ten times as long to make, and the tests ask thousands of times.
        """
        commands: list[Any] = [("AUTH", self.password)] if self.password else []
        commands.append((*command.split(), *args))
        reader = hiredis.Reader(replyError=redis.ResponseError)
        with self._connect() as connection:
            connection.sendall(b"".join(hiredis.pack_command(each) for each in commands))
            replies: list[Any] = []
            while len(replies) < len(commands):
                if not (received := connection.recv(1 << 16)):
                    raise redis.ConnectionError("Redis closed the connection")
                reader.feed(received)
                while (reply := reader.gets()) is not False:
                    replies.append(reply)
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
        return replies[-1]

    def _connect(self) -> socket.socket:
        try:
            return socket.create_connection(("127.0.0.1", self.port))
        except OSError as error:
            raise redis.ConnectionError(str(error)) from error

    def knows_acl_rule(self, rule: str) -> bool:
        """Whether this version can read a rule of an ACL."""
        try:
            self.ask("ACL SETUSER", "of-a-trial", "+@all", rule)
        except redis.ResponseError:
            return False
        return True

    def replication(self) -> dict[str, str]:
        """INFO replication."""
        lines = self.ask("INFO", "replication").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def flush(self) -> None:
        self.ask("FLUSHALL")


def is_replicated(master: RedisServer, replica: RedisServer) -> bool:
    """Whether a replica has everything that its master had at this moment."""
    written = int(master.replication()["master_repl_offset"])
    state = replica.replication()
    return state["role"] == "slave" and int(state["slave_repl_offset"]) >= written
