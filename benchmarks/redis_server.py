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

SETTLE_SECONDS = 1.2
"""Redis looks once a second at the buffers of its connections, and shrinks those that are idle."""

SETTLE_CHECKS = 12


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
        """Bytes in use, as ``used_memory`` and ``used_memory_rss``, once they no longer change, or
        after `SETTLE_CHECKS`. The buffers of a connection that was closed, and keys that were
        unlinked, are freed later; on a busy machine much later. What Redis keeps of commands (the
        latency of each as a histogram, and the slow ones) is dropped: it is no part of the data."""
        self.client.config_resetstat()
        self.client.slowlog_reset()
        before: dict[str, Any] = {}
        for _ in range(SETTLE_CHECKS):
            usage = self.info("memory")
            settling = ("used_memory", "lazyfree_pending_objects")
            if all(usage[name] == before.get(name) for name in settling):
                break
            before = usage
            time.sleep(SETTLE_SECONDS)
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
