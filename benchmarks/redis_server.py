"""A Redis for one benchmark."""

from __future__ import annotations

import subprocess
import time
from typing import Any, Self

import redis

from benchmarks.machine import (
    START_TIMEOUT_SECONDS,
    MissingError,
    find_program,
    on_core,
    stop_process,
)
from tests.support.process import free_port

SETTLE_SECONDS = 0.3
"""After which replies and deletions that are under way no longer change the memory in use."""


class RedisServer:
    """A redis-server of its own on loopback, on one core, without persistence.

    Raises:
        MissingError: redis-server is not installed.
    """

    def __init__(self, core: int = 0) -> None:
        self.port = free_port()
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        binary = find_program("redis-server", "redis-server")
        self.process = subprocess.Popen(
            [*on_core(core), binary, "--port", str(self.port), *options], stdout=subprocess.DEVNULL
        )
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, socket_timeout=60)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            try:
                self.client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    stop_process(self.process)
                    raise
                time.sleep(0.02)
            else:
                return

    def flush(self) -> None:
        self.client.flushall()

    def info(self, section: str) -> dict[str, Any]:
        return dict(self.client.info(section))

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        return redis_cpu_seconds(self.client)

    def memory(self) -> dict[str, int]:
        """Bytes in use, as ``used_memory`` and ``used_memory_rss``."""
        time.sleep(SETTLE_SECONDS)
        usage = self.info("memory")
        return {name: int(usage[name]) for name in ("used_memory", "used_memory_rss")}

    def compact_limit(self) -> tuple[str, int]:
        """The setting, named as in this version, for the most fields that a compact hash can have,
        and its value.

        Raises:
            MissingError: this Redis has no such setting.
        """
        for name in ("hash-max-listpack-entries", "hash-max-ziplist-entries"):
            if value := self.client.config_get(name).get(name):
                return name, int(value)
        raise MissingError("this Redis has no limit for compact hashes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.client.close()
        stop_process(self.process)


def redis_cpu_seconds(client: redis.Redis) -> float:
    """Processor time that the Redis of a client has used."""
    usage = client.info("cpu")
    return float(usage["used_cpu_user"] + usage["used_cpu_sys"])
