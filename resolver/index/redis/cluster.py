"""Redis Cluster: which node has which slot, and what becomes of a command that one will not take.

Each command goes to the master of its key's slot, one batch a node. MOVED, ASK and TRYAGAIN are
followed in batches too, so that a slot on its way between two nodes costs a few more round trips.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import hiredis
from redis.crc import key_slot
from redis.exceptions import RedisError

from resolver.index.redis.client import Address, Command, RedisClient
from resolver.index.redis.pipelined_connection import LazyConnection, shared
from resolver.index.redis.redis_errors import DECODE_ERRORS

RECOVERY = 4.0
"""Seconds in which a command is sent again while the cluster has no node that takes it. Less than
`PATIENCE`, so that the cluster's own words are told in the end."""

PAUSES = (0.02, 0.3)
"""Seconds, first and longest, until such a command is sent again."""

SUSPECT = 0.2
"""Seconds that a caller waited before it gave up, after which the map of the cluster is doubted."""

MAP_TIMEOUT = 2.0
"""Seconds that a node has for telling the map of the cluster."""

ASKED = 3
"""Nodes that are asked for it at the same time; the first answer will do."""


class ClusterClient(RedisClient):
    """Redis Cluster: each command to the master of its key's slot, one batch a node.

    It keeps its own map of the slots. redis-py's client for clusters reads its replies one by one,
    gives them other shapes than the wire has, and sends what was redirected one by one too.
    """

    def __init__(self, seeds: Sequence[Address], connect: Callable[[Address], Any]) -> None:
        """``connect`` makes a connection of redis-py's to an address, not opened yet."""
        super().__init__()
        self._seeds = list(seeds)
        self._connect = connect
        self._masters: dict[int, Address] = {}
        """By slot."""
        self._nodes: list[Address] = []
        """Masters and replicas."""
        self._lanes: dict[tuple[Address, bool], LazyConnection] = {}
        self._stale = True
        """Whether something speaks against the map."""
        self._first_asked: list[Address] = []
        """Those that were said to know better."""
        self._learning: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        now = asyncio.get_running_loop().time
        until = now() + RECOVERY
        pause, longest = PAUSES
        replies: list[Any] = [None] * len(commands)
        todo: dict[int, Address | None] = dict.fromkeys(range(len(commands)))
        turn = 0
        while todo:
            if self._stale:
                await self._learn()
            todo, wait = await self._ask_all(commands, todo, replies, foreground)
            turn += 1
            if now() >= until or self._closed:
                break
            if wait or (todo and turn > 2):  # else it is known where to go
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, longest)
        return replies

    async def _ask_all(
        self,
        commands: Sequence[Command],
        todo: Mapping[int, Address | None],
        replies: list[Any],
        foreground: bool,
    ) -> tuple[dict[int, Address | None], bool]:
        """Sends the commands ``todo`` (by index) and sets their ``replies``.

        Returns which to send again, to a node that one was sent on to or else to the master of the
        slot, and whether to wait before that.
        """
        batches: dict[Address, list[int]] = {}
        again: dict[int, Address | None] = {}
        wait = False
        for i, node in todo.items():
            node = node or self._master(commands[i])  # noqa: PLW2901 - None means this
            if node is None:
                replies[i] = ConnectionError("the cluster has no node for the slot")
                again[i], wait = None, True
                self._stale = True
            else:
                batches.setdefault(node, []).append(i)

        async def ask(node: Address, indexes: list[int]) -> None:
            nonlocal wait
            found = await self._ask(
                node, [(commands[i], bool(todo[i])) for i in indexes], foreground
            )
            for i, reply in zip(indexes, found, strict=True):
                replies[i] = reply
                if isinstance(reply, Exception) and (way := self._way(reply, node)) is not None:
                    again[i] = way.node
                    wait = wait or way.wait

        await asyncio.gather(*(ask(node, indexes) for node, indexes in batches.items()))
        return again, wait

    async def _ask(
        self, node: Address, commands: list[tuple[Command, bool]], foreground: bool
    ) -> list[Any]:
        """One node's replies; where it gives none, the reason instead of each."""
        batch: list[Command] = []
        places = []
        for command, sent_on in commands:
            if sent_on:  # the node takes the next command for a slot that it still gets
                batch.append(("ASKING",))
            places.append(len(batch))
            batch.append(command)
        begun = asyncio.get_running_loop().time()
        try:
            replies = await self._lane(node, foreground).call(batch)
        except (OSError, RedisError) as error:
            self._stale = True
            return [error] * len(commands)
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() - begun > SUSPECT:
                self._stale = True  # it may hang, and another be master by now
            raise
        return [replies[at] for at in places]

    def _way(self, error: Exception, node: Address) -> _Way | None:
        """What to do about an error; None: it is the reply."""
        if not isinstance(error, hiredis.ReplyError):
            return _Way(None, wait=True)
        word, _, rest = str(error).partition(" ")
        match word:
            case "MOVED":
                slot, _, text = rest.partition(" ")
                owner = _address(text, node)
                if self._masters.get(int(slot)) != owner:
                    self._masters[int(slot)] = owner
                    self.changed(None)
                self._stale = True
                if owner not in self._first_asked:
                    self._first_asked.append(owner)
                return _Way(None, wait=False)
            case "ASK":
                return _Way(_address(rest.partition(" ")[2], node), wait=False)
            case "TRYAGAIN":
                return _Way(None, wait=True)
            case "CLUSTERDOWN" | "READONLY" | "LOADING" | "MASTERDOWN":
                self._stale = True
                return _Way(None, wait=True)
            case _:
                return None

    def _master(self, command: Command) -> Address | None:
        key = _key(command)
        if key is None:
            return random.choice(list(set(self._masters.values())) or [None])
        return self._masters.get(_slot(key))

    def _lane(self, node: Address, foreground: bool) -> LazyConnection:
        lane = self._lanes.get((node, foreground))
        if lane is None:
            if self._closed:
                raise ConnectionError("closed")
            changed = self.changed if foreground else None
            self._lanes[node, foreground] = lane = LazyConnection(
                lambda: self._connect(node), changed=changed
            )
        return lane

    def tracking_current(self) -> bool:
        """Of every node that something was read from: one that may have been replaced, unnoticed,
        by another makes all of it unsure."""
        now = asyncio.get_running_loop().time()
        lanes = [
            lane for (_, foreground), lane in self._lanes.items() if foreground and not lane.unused
        ]
        return not self._stale and all(lane.tracking_current(now) for lane in lanes)

    async def _learn(self) -> None:
        """Reads the map of the cluster anew. Callers share one attempt.

        Raises:
            OSError, RedisError: no node tells it.
        """
        if self._learning is None:
            if self._closed:
                raise ConnectionError("closed")
            self._learning = asyncio.create_task(self._read_map())
            self._learning.add_done_callback(self._learnt_or_not)
        await shared(self._learning)

    def _learnt_or_not(self, task: asyncio.Task[None]) -> None:
        self._learning = None
        if not task.cancelled():
            task.exception()  # seen, even if all who asked have given up

    async def _read_map(self) -> None:
        first, self._first_asked = self._first_asked, []
        others = random.sample(self._nodes, len(self._nodes))
        nodes = list(dict.fromkeys([*first, *others, *self._seeds]))
        why: Exception = ConnectionError("the cluster has no nodes")
        for start in range(0, len(nodes), ASKED):
            asked = [
                asyncio.create_task(self._map_of(node)) for node in nodes[start : start + ASKED]
            ]
            try:
                for answer in asyncio.as_completed(asked):
                    try:
                        masters, known = await answer
                    except (OSError, RedisError, hiredis.ReplyError) as error:
                        why = error
                        continue
                    self._stale = False
                    if masters != self._masters:  # the masters of before may tell nothing now
                        self.changed(None)
                    self._masters, self._nodes = masters, known
                    await self._forget_others()
                    return
            finally:
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
        raise ConnectionError(f"no node of the cluster tells its slots: {why}") from why

    async def _map_of(self, node: Address) -> tuple[dict[int, Address], list[Address]]:
        async with asyncio.timeout(MAP_TIMEOUT):
            (reply,) = await self._lane(node, foreground=True).call([("CLUSTER", "SLOTS")])
        if isinstance(reply, Exception):
            raise reply
        masters: dict[int, Address] = {}
        known: dict[Address, None] = {}
        try:
            for first, last, *there in reply:
                addresses = [((host or b"").decode() or node[0], port) for host, port, *_ in there]
                masters.update(dict.fromkeys(range(first, last + 1), addresses[0]))
                known.update(dict.fromkeys(addresses))
        except DECODE_ERRORS as error:
            raise ConnectionError(f"{node[0]}:{node[1]} tells no map of a cluster") from error
        if not masters:
            raise ConnectionError(f"{node[0]}:{node[1]} belongs to no cluster")
        return masters, list(known)

    async def _forget_others(self) -> None:
        """Closes lanes to nodes that have failed or left."""
        for node, foreground in list(self._lanes):
            if node not in self._nodes:
                await self._lanes.pop((node, foreground)).close()

    async def close(self) -> None:
        self._closed = True
        if self._learning is not None:
            learning = self._learning
            learning.cancel()
            await asyncio.wait([learning])
        for lane in self._lanes.values():
            await lane.close()


class _Way(NamedTuple):
    """Where a command goes that was not taken; None: to the master of its slot."""

    node: Address | None
    wait: bool


def _address(text: str, teller: Address) -> Address:
    """``host:port`` as a node tells it; without a host it means its own."""
    host, _, port = text.rpartition(":")
    return host or teller[0], int(port)


@lru_cache(maxsize=1 << 16)
def _slot(key: bytes | str) -> int:
    return key_slot(key if isinstance(key, bytes) else key.encode())


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
