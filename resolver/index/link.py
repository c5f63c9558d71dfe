"""How the index talks to Redis: batches of commands and scripts, on each kind of server.

Every failure of Redis or the network is one `IndexUnavailable`. Requests and background work have
a connection each, so that a lookup never waits behind a batch of claims.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisError

from resolver.errors import IndexUnavailable
from resolver.index.scripts import Script
from resolver.index.wire import PATIENCE, Lane

Command = tuple[Any, ...]

Call = tuple[Script, Sequence[bytes | str], Sequence[bytes | str | int]]
"""One run of a script: it, its keys, its arguments."""

AT_ONCE = 32
"""Commands that were sent to the wrong node of a cluster and are sent again at the same time."""


def unavailable(error: BaseException) -> IndexUnavailable:
    why = str(error) or type(error).__name__
    return IndexUnavailable(f"Redis did not answer: {why}", headers={"Retry-After": "2"})


def pairs(reply: Any) -> dict[bytes, bytes]:
    """A hash as HGETALL gives it: flat on the wire and from scripts, a dict from redis-py."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


class Link(ABC):
    """A Redis, of whatever kind."""

    embedded = False
    """Whether it lives in this process and dies with it."""

    @abstractmethod
    async def send(self, commands: Sequence[Command], *, quick: bool) -> list[Any]:
        """The replies, errors in their place. Raises what its kind of connection raises."""

    @abstractmethod
    async def close(self) -> None:
        """Lets go of all connections."""

    async def replies(self, commands: Iterable[Command], *, quick: bool = False) -> list[Any]:
        """The replies to several commands sent together; those that are errors as exceptions.

        ``quick``: somebody waits for it.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.send(list(commands), quick=quick)
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def pipeline(self, commands: Iterable[Command], *, quick: bool = False) -> list[Any]:
        """The replies to several commands sent together.

        Raises:
            IndexUnavailable: when Redis does not answer or refuses one.
        """
        replies = await self.replies(commands, quick=quick)
        for reply in replies:
            if isinstance(reply, Exception):
                raise unavailable(reply) from reply
        return replies

    async def command(self, *command: Any, quick: bool = False) -> Any:
        """The reply to one command.

        Raises:
            IndexUnavailable: when Redis does not answer or refuses it.
        """
        return (await self.pipeline([command], quick=quick))[0]

    async def run_all(self, calls: Sequence[Call], *, quick: bool = False) -> list[Any]:
        """The results of several scripts sent together; each is atomic by itself.

        Raises:
            IndexUnavailable: when Redis does not answer or a script fails.
        """
        commands = [
            ("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in calls
        ]
        replies = await self.replies(commands, quick=quick)
        missing = [i for i, reply in enumerate(replies) if _no_script(reply)]
        if missing:  # a new, restarted or flushed server: EVAL also teaches it the script
            again = [("EVAL", calls[i][0].text, *commands[i][2:]) for i in missing]
            for i, reply in zip(missing, await self.replies(again, quick=quick), strict=True):
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
        quick: bool = False,
    ) -> Any:
        """The result of one script."""
        return (await self.run_all([(script, keys, args)], quick=quick))[0]


def _no_script(reply: Any) -> bool:
    return isinstance(reply, NoScriptError) or (
        isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
    )


class EmbeddedLink(Link):
    """The index in this process."""

    embedded = True

    def __init__(self) -> None:
        from fakeredis import FakeAsyncRedis, FakeServer  # noqa: PLC0415 - only this kind needs it

        self._client = FakeAsyncRedis(server=FakeServer())

    async def send(self, commands: Sequence[Command], *, quick: bool) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies

    async def close(self) -> None:
        await self._client.aclose()


class SingleLink(Link):
    """One server, or the master that Sentinel names."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        connect = client.connection_pool.make_connection
        self._lanes = {True: Lane(connect), False: Lane(connect)}

    async def send(self, commands: Sequence[Command], *, quick: bool) -> list[Any]:
        lane = self._lanes[quick]
        replies = await lane.call(commands)
        if any(isinstance(r, hiredis.ReplyError) and str(r)[:8] == "READONLY" for r in replies):
            await lane.close()  # it was master: find the one that is
            replies = await lane.call(commands)
        return replies

    async def close(self) -> None:
        for lane in self._lanes.values():
            await lane.close()
        await self._client.aclose()


class ClusterLink(Link):
    """Redis Cluster: each command to the node of its key, one batch a node."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._lanes: dict[tuple[str, bool], Lane] = {}

    async def send(self, commands: Sequence[Command], *, quick: bool) -> list[Any]:
        await self._client.initialize()
        nodes: dict[str, list[int]] = {}
        by_name: dict[str, ClusterNode] = {}
        for i, command in enumerate(commands):
            node = self._node(command)
            nodes.setdefault(node.name, []).append(i)
            by_name[node.name] = node
        replies: list[Any] = [None] * len(commands)
        again: list[int] = []

        async def ask(name: str, indexes: list[int]) -> None:
            try:
                found = await self._lane(by_name[name], quick).call([commands[i] for i in indexes])
            except (OSError, RedisError) as error:
                found = [error] * len(indexes)
            for i, reply in zip(indexes, found, strict=True):
                replies[i] = reply
                if _elsewhere(reply):
                    again.append(i)

        await asyncio.gather(*(ask(name, indexes) for name, indexes in nodes.items()))
        if again:
            await self._again(commands, again, replies)
        return replies

    def _node(self, command: Command) -> ClusterNode:
        key = _key(command)
        if key is None:
            return self._client.get_random_node()
        slot = key_slot(key if isinstance(key, bytes) else key.encode())
        return self._client.nodes_manager.get_node_from_slot(slot)

    def _lane(self, node: ClusterNode, quick: bool) -> Lane:
        lane = self._lanes.get((node.name, quick))
        if lane is None:
            self._lanes[node.name, quick] = lane = Lane(
                lambda: node.connection_class(**node.connection_kwargs)
            )
        return lane

    async def _again(
        self, commands: Sequence[Command], indexes: list[int], replies: list[Any]
    ) -> None:
        """Sends what a node would not take through redis-py, which follows MOVED and ASK and
        learns who is master now."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(i: int) -> None:
            async with room:
                try:
                    replies[i] = await self._client.execute_command(*commands[i])
                except RedisError as error:
                    replies[i] = error

        await asyncio.gather(*(one(i) for i in indexes))

    async def close(self) -> None:
        for lane in self._lanes.values():
            await lane.close()
        await self._client.aclose()


def _key(command: Command) -> bytes | str | None:
    """The key that decides the slot; None for a command without."""
    match command[0]:
        case "EVALSHA" | "EVAL":
            return command[3]  # type: ignore[no-any-return]
        case "MEMORY":
            return command[2]  # type: ignore[no-any-return]
        case "PING":
            return None
        case _:
            return command[1]  # type: ignore[no-any-return]


def _elsewhere(reply: Any) -> bool:
    """Whether another node, or the same one a little later, would have answered."""
    if isinstance(reply, hiredis.ReplyError):
        return str(reply).startswith(
            ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN")
        )
    return isinstance(reply, Exception)
