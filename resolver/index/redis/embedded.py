"""``memory:``: an index inside this process, on fakeredis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resolver.errors import SettingsError, installing
from resolver.index.redis.client import (
    DEFAULT_TIMEOUTS,
    Command,
    RedisClient,
    RedisTimeouts,
    Server,
    may_write,
)


class EmbeddedStore:
    """The data of an index in this process, for clients that follow each other."""

    def __init__(self) -> None:
        self.server: Any = None
        """The `FakeServer`, once there is a client."""
        self.clients: list[EmbeddedClient] = []
        """Those that are open."""


class EmbeddedClient(RedisClient):
    """The index in this process. It is not shared with other processes, and lost at exit."""

    embedded = True

    def __init__(
        self, timeouts: RedisTimeouts = DEFAULT_TIMEOUTS, store: EmbeddedStore | None = None
    ) -> None:
        """``store``: data of an earlier client; None for an empty index.

        Raises:
            SettingsError: fakeredis is not installed.
        """
        super().__init__(timeouts)
        self._store = store = store or EmbeddedStore()
        try:
            from fakeredis import FakeAsyncRedis, FakeServer  # noqa: PLC0415 - optional, and heavy
        except ImportError as error:
            raise SettingsError(
                "an index in memory is not installed: set RESOLVER_REDIS_URL, or "
                f"{installing('memory')}"
            ) from error
        if store.server is None:
            store.server = FakeServer()
        # Without a time-out: `asyncio.wait_for` of Python 3.11 may swallow a cancellation.
        self._redis = FakeAsyncRedis(
            server=store.server, max_connections=2**31, socket_timeout=None
        )
        store.clients.append(self)

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        if written := [key for command in commands for key in _written_keys(command)]:
            for client in self._store.clients:
                client.invalidate(written)
        return replies

    def tracking_current(self) -> bool:
        return True

    async def servers(self) -> list[Server]:
        return []

    async def close(self) -> None:
        self._store.clients.remove(self)
        await self._redis.aclose()


def _written_keys(command: Command) -> Sequence[bytes]:
    """The keys that a command may have changed."""
    if not may_write(command):
        return ()
    keys = command[3 : 3 + command[2]] if command[0] in ("EVALSHA", "EVAL") else command[1:2]
    return [key if isinstance(key, bytes) else key.encode() for key in keys]
