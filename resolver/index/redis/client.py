"""How the index talks to Redis: batches of commands and scripts, on each kind of server.

Every failure of Redis or the network is one `IndexUnavailable`. Requests and background work have
a connection each, so that a lookup never waits behind a batch of claims.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from resolver.index import scripts
from resolver.index.redis.pipelined_connection import (
    PATIENCE,
    Changed,
    LazyConnection,
    PipelinedConnection,
)
from resolver.index.redis.redis_errors import DECODE_ERRORS, unavailable
from resolver.index.scripts import Script

Command = tuple[Any, ...]

Call = tuple[Script, Sequence[bytes | str], Sequence[bytes | str | int]]
"""One run of a script: it, its keys, its arguments."""

Address = tuple[str, int]
"""Host and port of a node."""

SENTINEL_CHECK = 1.0
"""Seconds after which the Sentinels are asked again who is master, while the index is used."""


def pairs(reply: Any) -> dict[bytes, bytes]:
    """A hash as HGETALL gives it: flat on the wire and from scripts, a dict from redis-py."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


class RedisClient(ABC):
    """A Redis, of whatever kind."""

    embedded = False
    """Whether it lives in this process and dies with it."""

    takes_packed = False
    """Whether a command may come as the bytes that go over the wire."""

    def __init__(self) -> None:
        self._invalidation_callbacks: list[Changed] = []

    def on_invalidation(self, callback: Changed) -> None:
        """Has ``callback`` called with the keys that were read quickly and have changed since."""
        self._invalidation_callbacks.append(callback)

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """Tells all who hear of changes; None: any key may have changed."""
        for callback in self._invalidation_callbacks:
            callback(keys)

    @abstractmethod
    def tracking_current(self) -> bool:
        """Whether every change that was made a second ago or earlier has been told."""

    def oldest_reply_age(self) -> float:
        """For how many seconds a reply has been awaited that others come behind."""
        return 0.0

    @abstractmethod
    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        """The replies, errors in their place. Raises what its kind of connection raises."""

    @abstractmethod
    async def close(self) -> None:
        """Lets go of all connections."""

    async def replies(self, commands: Iterable[Command], *, foreground: bool = False) -> list[Any]:
        """The replies to several commands sent together; those that are errors as exceptions.

        ``foreground``: somebody waits for it.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.send(list(commands), foreground=foreground)
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def pipeline(self, commands: Iterable[Command], *, foreground: bool = False) -> list[Any]:
        """The replies to several commands sent together.

        Raises:
            IndexUnavailable: when Redis does not answer or refuses one.
        """
        replies = await self.replies(commands, foreground=foreground)
        for reply in replies:
            if isinstance(reply, Exception):
                raise unavailable(reply) from reply
        return replies

    async def command(self, *command: Any, foreground: bool = False) -> Any:
        """The reply to one command.

        Raises:
            IndexUnavailable: when Redis does not answer or refuses it.
        """
        return (await self.pipeline([command], foreground=foreground))[0]

    async def run_all(self, calls: Sequence[Call], *, foreground: bool = False) -> list[Any]:
        """The results of several scripts sent together; each is atomic by itself.

        Raises:
            IndexUnavailable: when Redis does not answer or a script fails.
        """
        commands = [
            ("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in calls
        ]
        replies = await self.replies(commands, foreground=foreground)
        missing = [i for i, reply in enumerate(replies) if _no_script(reply)]
        if missing:  # a new, restarted or flushed server: EVAL also teaches it the script
            again = [("EVAL", calls[i][0].text, *commands[i][2:]) for i in missing]
            for i, reply in zip(
                missing, await self.replies(again, foreground=foreground), strict=True
            ):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise unavailable(reply) from reply
        return replies

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes | str],
        args: Sequence[bytes | str | int] = (),
        *,
        foreground: bool = False,
    ) -> Any:
        """The result of one script."""
        return (await self.run_all([(script, keys, args)], foreground=foreground))[0]


def _no_script(reply: Any) -> bool:
    return isinstance(reply, NoScriptError) or (
        isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
    )


READING = frozenset({"GET", "HGET", "HMGET", "HGETALL", "SMEMBERS", "SSCAN", "PING", "MEMORY"})
"""Commands that change nothing."""


class EmbeddedClient(RedisClient):
    """The index in this process."""

    embedded = True

    def __init__(self) -> None:
        super().__init__()
        from fakeredis import FakeAsyncRedis, FakeServer  # noqa: PLC0415 - only this kind needs it

        self._client = FakeAsyncRedis(server=FakeServer(), max_connections=2**31)

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        if written := [key for command in commands for key in _written(command)]:
            self.changed(written)
        return replies

    def tracking_current(self) -> bool:
        return True

    async def close(self) -> None:
        await self._client.aclose()


def _written(command: Command) -> Sequence[bytes]:
    """The keys that a command may have changed."""
    if command[0] in READING or (command[0] == "EVALSHA" and command[1] in scripts.READING):
        return ()
    keys = command[3 : 3 + command[2]] if command[0] in ("EVALSHA", "EVAL") else command[1:2]
    return [key if isinstance(key, bytes) else key.encode() for key in keys]


class SingleClient(RedisClient):
    """One server."""

    takes_packed = True

    def __init__(
        self, client: Redis, greet: Callable[[PipelinedConnection], Awaitable[None]] | None = None
    ) -> None:
        super().__init__()
        self._client = client
        connect = client.connection_pool.make_connection
        self._lanes = {
            True: LazyConnection(connect, greet, self.changed),
            False: LazyConnection(connect, greet),
        }

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        lane = self._lanes[foreground]
        replies = await lane.call(commands)
        if any(isinstance(r, hiredis.ReplyError) and str(r)[:8] == "READONLY" for r in replies):
            await lane.reset()  # it was master: find the one that is
            replies = await lane.call(commands)
        return replies

    def tracking_current(self) -> bool:
        return self._lanes[True].tracking_current(time.monotonic())  # the clock of the loop

    def oldest_reply_age(self) -> float:
        return self._lanes[True].oldest_reply_age(time.monotonic())

    async def close(self) -> None:
        for lane in self._lanes.values():
            await lane.close()
        await self._client.aclose()


class SentinelClient(SingleClient):
    """The master that Sentinel names.

    In a planned failover the old master stays a master for some ten seconds, until it is told to
    follow: what it takes is lost. So the Sentinels are asked again while the link is used.
    """

    def __init__(self, client: Redis, sentinel: Any) -> None:
        super().__init__(client, _must_be_master)
        self._sentinel = sentinel
        self._check: asyncio.Task[None] | None = None
        self._next_check = 0.0

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        self._ask_again()
        return await super().send(commands, foreground=foreground)

    def tracking_current(self) -> bool:
        """Also while all that is asked for is kept, and nothing sent."""
        self._ask_again()
        return super().tracking_current()

    def _ask_again(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_check and (self._check is None or self._check.done()):
            self._next_check = now + SENTINEL_CHECK
            self._check = asyncio.create_task(self._leave_old_master())

    async def _leave_old_master(self) -> None:
        try:
            host, port = await self._client.connection_pool.get_master_address()  # type: ignore[attr-defined]
            for lane in self._lanes.values():
                if lane.peer not in (None, (host, int(port))):
                    await lane.reset()
        except (RedisError, OSError, *DECODE_ERRORS):
            pass  # no Sentinel knows better

    async def close(self) -> None:
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])
        await super().close()
        for one in self._sentinel.sentinels:
            await one.aclose()


async def _must_be_master(wire: PipelinedConnection) -> None:
    """Sentinels that have not heard of a failover name the old master, which may answer reads.

    Raises:
        ConnectionError: the server is a replica.
    """
    async with asyncio.timeout(PATIENCE):
        (role,) = await wire.call(hiredis.pack_command(("ROLE",)), 1)
    # An error is no role: a user may not be allowed to ask.
    if isinstance(role, list) and role[0] != b"master":
        raise ConnectionError("the server that Sentinel named is a replica")
