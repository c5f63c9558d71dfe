"""``memory:``: an index inside this process, on fakeredis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resolver.errors import SettingsError
from resolver.index.redis.client import (
    DEFAULT_TIMEOUTS,
    Command,
    RedisClient,
    RedisTimeouts,
    Server,
    may_write,
)


class EmbeddedClient(RedisClient):
    """The index in this process. It is not shared with other processes, and lost at exit."""

    embedded = True

    def __init__(self, timeouts: RedisTimeouts = DEFAULT_TIMEOUTS) -> None:
        """Raises SettingsError where fakeredis is not installed."""
        super().__init__(timeouts)
        try:
            from fakeredis import FakeAsyncRedis, FakeServer  # noqa: PLC0415 - optional, and heavy
        except ImportError as error:
            raise SettingsError(
                "RESOLVER_REDIS_URL is not set and the embedded index is not installed: "
                "pip install 'glance-resolver[memory]' or set RESOLVER_REDIS_URL"
            ) from error
        self._redis = FakeAsyncRedis(server=FakeServer(), max_connections=2**31)

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        if written := [key for command in commands for key in _written_keys(command)]:
            self.invalidate(written)
        return replies

    def tracking_current(self) -> bool:
        return True

    async def servers(self) -> list[Server]:
        return []

    async def close(self) -> None:
        await self._redis.aclose()


def _written_keys(command: Command) -> Sequence[bytes]:
    """The keys that a command may have changed."""
    if not may_write(command):
        return ()
    keys = command[3 : 3 + command[2]] if command[0] in ("EVALSHA", "EVAL") else command[1:2]
    return [key if isinstance(key, bytes) else key.encode() for key in keys]
