"""A real Redis server for tests: a process on loopback that keeps nothing on disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

NO_DISK = ["--save", "", "--appendonly", "no"]
STOP_TIMEOUT = 10.0
ATTEMPTS = 5
"""Somebody else may take the free port between our looking and Redis's listening."""


class RedisMissingError(Exception):
    """There is no redis-server on this machine, or it does not start."""


def redis_binary() -> str:
    """Path of redis-server. Raises RedisMissingError."""
    path = shutil.which("redis-server", path=f"{os.environ.get('PATH', '')}:/usr/bin")
    if path is None:
        raise RedisMissingError("no redis-server in PATH (Debian: apt install redis-server)")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One redis-server. Killed and started again it keeps its port, and its data where it has a
    folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.port = 0
        self.keeps = NO_DISK
        if folder is not None:
            self.keeps = ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Returns once it accepts connections. Raises RedisMissingError with what it said."""
        said = ""
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            options = ["--port", str(port), "--bind", "127.0.0.1", *self.keeps]
            process = subprocess.Popen(
                [redis_binary(), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            assert process.stdout is not None
            lines = []
            for line in process.stdout:  # ends when the process does
                lines.append(line.decode(errors="replace"))
                if b"Ready to accept connections" in line:
                    self.port, self._process = port, process
                    return self
            process.wait()
            process.stdout.close()
            said = "".join(lines)
        raise RedisMissingError(f"redis-server does not start:\n{said}")

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """Ends it as a crash would: nothing is said to its clients."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_TIMEOUT)
            if process.stdout is not None:
                process.stdout.close()

    def pause(self) -> None:
        """It keeps its connections and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A plain client, to look at what the code under test wrote."""
        return redis.Redis(port=self.port)

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
