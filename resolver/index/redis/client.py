"""What the index needs of Redis: batches of commands and scripts, and word of changed keys.

Every failure of Redis or of the network is one `IndexUnavailable`. Requests of clients
(*foreground*) and background work have a connection each, so that a lookup never waits behind a
batch of claims.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import hiredis
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from resolver.errors import IndexReadOnly, IndexUnavailable
from resolver.index.redis.field_packer import PACKED_READ
from resolver.index.redis.lazy_connection import LazyConnection, OnConnect
from resolver.index.redis.pipelined_connection import REPLY_TIMEOUT_SECONDS, InvalidationCallback
from resolver.index.redis.redis_errors import unavailable
from resolver.index.redis.scripts import READ_ONLY_SCRIPTS, Script
from resolver.latency import new_row, observe_seconds

Command = tuple[Any, ...]
"""Name and arguments; or, where the client accepts it, the packed bytes of both."""

ScriptCall = tuple[Script, Sequence[bytes | str], Sequence[bytes | str | int]]
"""One run of a script: the script, its keys, its arguments."""

READ_COMMANDS = frozenset(
    {
        "GET",
        "HGET",
        "HMGET",
        "HGETALL",
        "HVALS",
        "HLEN",
        "SMEMBERS",
        "SCAN",
        "SSCAN",
        "ZRANGEBYSCORE",
        "LRANGE",
        "PING",
        "MEMORY",
    }
)
"""Commands that change nothing."""

Address = tuple[str, int]
"""Host and port of a server."""


class Server(NamedTuple):
    """One server that has a part of the index."""

    name: str
    """``host:port``; empty where it is the only one."""
    hash_tag: str
    """Keys with this hash tag are on it."""


ONLY_SERVER = Server("", "reg")


class RedisTimeouts(NamedTuple):
    """How long to wait for Redis, in seconds."""

    connect: float = 2.0
    """For a connection to open, and for it to close at the end."""
    reply: float = REPLY_TIMEOUT_SECONDS
    """For the replies to one batch."""


DEFAULT_TIMEOUTS = RedisTimeouts()


class RedisClient(ABC):
    """A Redis of any kind."""

    embedded = False
    """Whether the data lives in this process and is lost with it."""

    one_slot_commands = False
    """Whether all keys of a command must lie in one slot."""

    accepts_packed = False
    """Whether a command may also be given as the bytes that go over the wire."""

    user = "default"
    """The name that it logs in with."""

    own_commands: Mapping[str, Command] = {}
    """Commands that this kind of client needs in addition to those of the index, by the name that
    an ACL rule has for each."""

    def __init__(self, timeouts: RedisTimeouts = DEFAULT_TIMEOUTS) -> None:
        self.timeouts = timeouts
        self.read_only_because = ""
        """Why this process must not write; empty where it may. Every command that could change
        something is then refused here, whichever part of the program sends it."""
        self.reply_seconds = new_row()
        """How long Redis took to answer batches, those that failed left out."""
        self.failures = 0
        """Batches without an answer."""
        self._resends = 0
        self._invalidation_callbacks: list[InvalidationCallback] = []

    @property
    def resends(self) -> int:
        """Batches that were sent again because their replies were lost, so that Redis may have run
        them twice. A call during which this grows may have been one of them."""
        return self._resends

    def count_resend(self) -> None:
        """A batch is sent again."""
        self._resends += 1

    def on_invalidation(self, callback: InvalidationCallback) -> None:
        """Calls ``callback`` with the keys that were read in the foreground and have changed."""
        self._invalidation_callbacks.append(callback)

    def invalidate(self, keys: Sequence[bytes] | None) -> None:
        """Reports changed keys to all callbacks; None: any key may have changed."""
        for callback in self._invalidation_callbacks:
            callback(keys)

    @abstractmethod
    def tracking_current(self) -> bool:
        """Whether every change made a second ago or earlier has been reported."""

    def tracking_error(self) -> str:
        """Why Redis does not report changes on the connections that are open; empty if it does."""
        return ""

    def oldest_reply_age(self) -> float:
        """Seconds for which the oldest foreground batch has been without its replies."""
        return 0.0

    async def servers(self) -> list[Server]:
        """The servers that have the index now: in a cluster all masters; none where it is in this
        process.

        Raises:
            IndexUnavailable: no node of the cluster sends its slot map.
        """
        return [ONLY_SERVER]

    async def ask(
        self, server: Server, commands: Sequence[Command], *, foreground: bool = False
    ) -> list[Any]:
        """The replies of one of the `servers`; error replies come as exceptions. For commands about
        the server, not about the index, so that a process that must not write may ask too.

        Raises:
            IndexUnavailable: it does not answer.
        """
        try:
            async with asyncio.timeout(self.timeouts.reply):
                return await self.send(commands, foreground=foreground)
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def sentinel_errors(self) -> dict[str, str]:
        """For each Sentinel, by ``host:port``, why it is of no help; empty if it names a master."""
        return {}

    def master_is_confirmed(self) -> bool:
        """Whether no other server can have taken over from the one that is used, a few seconds ago
        or earlier, as far as is known without asking."""
        return True

    async def master_doubt(self) -> str:
        """Why another server may have taken over from the one that is used, so that what others
        write goes there; empty where none can have. Callers bound how long they wait."""
        return ""

    @abstractmethod
    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        """The replies, with error replies in their place. Raises what the connection raises."""

    @abstractmethod
    async def close(self) -> None:
        """Closes all connections permanently."""

    async def close_in_time(self) -> None:
        """The same, but waits for it no longer than a connection may take: a server that hangs
        delays nobody. The rest is closed afterwards, while this process runs."""
        closing = asyncio.create_task(self.close(), name="close redis")
        _closing.add(closing)
        closing.add_done_callback(_closed)
        await asyncio.wait([closing], timeout=self.timeouts.connect)

    async def replies(self, commands: Iterable[Command], *, foreground: bool = False) -> list[Any]:
        """The replies to several commands sent together; error replies come as exceptions.

        Raises:
            IndexUnavailable: Redis does not answer, or one of them writes, and another server may
                have taken over.
            IndexReadOnly: one of them writes, and this process must not.
        """
        batch = list(commands)
        if self.read_only_because and any(map(may_write, batch)):
            raise IndexReadOnly(f"{self.read_only_because}: upgrade this process")
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.timeouts.reply):
                if not self.master_is_confirmed() and any(map(may_write, batch)):
                    await self._refuse_where_doubted()
                found = await self.send(batch, foreground=foreground)
        except (RedisError, OSError, TimeoutError) as error:
            self.failures += 1
            raise unavailable(error) from error
        observe_seconds(self.reply_seconds, time.monotonic() - started)
        return found

    async def _refuse_where_doubted(self) -> None:
        """Raises IndexUnavailable where what is written now may be lost."""
        if doubt := await self.master_doubt():
            raise IndexUnavailable(
                f"{doubt}. Nothing is written until they do", headers={"Retry-After": "2"}
            )

    async def pipeline(
        self,
        commands: Iterable[Command],
        *,
        foreground: bool = False,
        of_wrong_type: bytes | None = None,
    ) -> list[Any]:
        """The replies to several commands sent together.

        ``of_wrong_type``: in place of the error about a key that is not a hash, so that one key
        that something else has written does not fail the others. None: it is an error.

        Raises:
            IndexUnavailable: Redis does not answer, or refuses one of them.
        """
        replies = await self.replies(commands, foreground=foreground)
        return _without_errors(replies, of_wrong_type)

    async def command(self, *command: Any, foreground: bool = False) -> Any:
        """The reply to one command.

        Raises:
            IndexUnavailable: Redis does not answer, or refuses it.
        """
        return (await self.pipeline([command], foreground=foreground))[0]

    async def run_all(self, calls: Sequence[ScriptCall], *, foreground: bool = False) -> list[Any]:
        """The results of several scripts sent together; each script is atomic by itself.

        Raises:
            IndexUnavailable: Redis does not answer, or a script fails.
        """
        commands = [
            ("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in calls
        ]
        replies = await self.replies(commands, foreground=foreground)
        missing = [i for i, reply in enumerate(replies) if _is_no_script(reply)]
        if missing:  # a new, restarted or flushed server: EVAL also loads the script
            evals = [("EVAL", calls[i][0].text, *commands[i][2:]) for i in missing]
            results = await self.replies(evals, foreground=foreground)
            for i, reply in zip(missing, results, strict=True):
                replies[i] = reply
        return _without_errors(replies)

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes | str],
        args: Sequence[bytes | str | int] = (),
        *,
        foreground: bool = False,
    ) -> Any:
        """The result of one script. Raises as `run_all`."""
        return (await self.run_all([(script, keys, args)], foreground=foreground))[0]


_closing: set[asyncio.Task[None]] = set()
"""Those under way; the event loop alone would not keep them."""


def _closed(task: asyncio.Task[None]) -> None:
    _closing.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved: nobody uses this server any more


def may_write(command: Command | bytes) -> bool:
    """Whether a command may change something."""
    if isinstance(command, bytes):
        return not command.startswith(PACKED_READ)
    if command[0] in ("EVALSHA", "EVAL"):
        return command[1] not in READ_ONLY_SCRIPTS
    return command[0] not in READ_COMMANDS


def _without_errors(replies: list[Any], of_wrong_type: bytes | None = None) -> list[Any]:
    """The replies, with ``of_wrong_type`` in place of the error that a key is of another type.
    Raises IndexUnavailable for the first other error."""
    if not has_error(replies):
        return replies
    for position, reply in enumerate(replies):
        if isinstance(reply, Exception):
            if of_wrong_type is None or not str(reply).startswith("WRONGTYPE"):
                raise unavailable(reply) from reply
            replies[position] = of_wrong_type
    return replies


def has_error(replies: Iterable[Any]) -> bool:
    """Whether one of them is an error. Replies are of few types, so these are looked at."""
    return any(issubclass(kind, Exception) for kind in set(map(type, replies)))


def _is_no_script(reply: Any) -> bool:
    return isinstance(reply, NoScriptError) or (
        isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
    )


def _is_read_only(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY")


class SingleClient(RedisClient):
    """One server."""

    accepts_packed = True

    def __init__(
        self,
        redis: Redis,
        timeouts: RedisTimeouts = DEFAULT_TIMEOUTS,
        on_connect: OnConnect | None = None,
    ) -> None:
        """``redis`` opens the connections; ``on_connect`` is awaited with each of them."""
        super().__init__(timeouts)
        self._redis = redis
        connect = redis.connection_pool.make_connection
        reply = timeouts.reply
        login = redis.connection_pool.connection_kwargs
        self.user = login.get("username") or "default"
        if database := login.get("db"):
            self.own_commands = {**self.own_commands, "select": ("SELECT", database)}
        resend = self.count_resend
        self._foreground = LazyConnection(
            connect, on_connect, self.invalidate, on_resend=resend, reply_timeout=reply
        )
        self._background = LazyConnection(
            connect, on_connect, on_resend=resend, reply_timeout=reply
        )

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        connection = self._foreground if foreground else self._background
        replies = await connection.call(commands)
        if has_error(replies) and any(map(_is_read_only, replies)):
            await connection.reset()  # the server was master once: find the new one
            replies = await connection.call(commands)
        return replies

    def tracking_current(self) -> bool:
        return self._foreground.tracking_current(time.monotonic())  # the clock of the loop

    def tracking_error(self) -> str:
        return self._foreground.tracking_error

    def oldest_reply_age(self) -> float:
        return self._foreground.oldest_reply_age(time.monotonic())

    async def leave_servers_other_than(self, address: Address) -> None:
        """Closes connections that lead elsewhere; the next call opens new ones."""
        for connection in (self._foreground, self._background):
            if connection.peer not in (None, address):
                await connection.reset()

    async def close(self) -> None:
        await self._foreground.close()
        await self._background.close()
        await self._redis.aclose()
