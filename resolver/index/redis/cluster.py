"""Redis Cluster: each command goes to the master of its key's slot, one batch a node.

MOVED, ASK and TRYAGAIN are followed in batches too, so a slot that is migrating between two nodes
costs a few more round trips.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import hiredis
from redis.exceptions import RedisError

from resolver.index.redis.client import (
    DEFAULT_TIMEOUTS,
    Address,
    Command,
    RedisClient,
    RedisTimeouts,
    Server,
)
from resolver.index.redis.lazy_connection import LazyConnection, shared
from resolver.index.redis.redis_errors import unavailable
from resolver.index.redis.slot_map import (
    SlotMap,
    parse_address,
    parse_cluster_slots,
    parse_moved,
    routing_key,
    slot_of,
)
from resolver.turns import parts_of

RETRY_SECONDS = 4.0
"""For so long a command is sent again while no node of the cluster accepts it. Less than the reply
timeout, so that the cluster's own error is reported in the end."""

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.02, 0.3
"""Pauses before such a command is sent again."""

SUSPECT_AFTER_SECONDS = 0.2
"""A caller that gave up after waiting longer than this makes the slot map stale."""

MAP_TIMEOUT_SECONDS = 2.0
"""For one node to send the slot map."""

MAP_REQUESTS = 3
"""Nodes that are asked for the slot map at the same time; the first answer is used."""


class ClusterClient(RedisClient):
    """Redis Cluster, with a slot map of its own.

    redis-py's client for clusters reads its replies one by one, changes their shape, and sends
    redirected commands one by one too.
    """

    one_slot_commands = True
    own_commands: Mapping[str, Command] = {
        "cluster|slots": ("CLUSTER", "SLOTS"),
        "asking": ("ASKING",),
    }

    def __init__(
        self,
        seeds: Sequence[Address],
        connect: Callable[[Address], Any],
        timeouts: RedisTimeouts = DEFAULT_TIMEOUTS,
        user: str = "default",
    ) -> None:
        """``connect`` makes a connection of redis-py to an address, not opened yet. ``user`` is the
        name that it logs in with."""
        super().__init__(timeouts)
        self.user = user
        self._seeds = list(seeds)
        self._connect = connect
        self.slot_map = SlotMap({}, [])
        """The map in use."""
        self._connections: dict[tuple[Address, bool], LazyConnection] = {}
        """By node and whether for the foreground."""
        self._map_is_stale = True
        self._redirect_targets: list[Address] = []
        """Nodes that a MOVED named since the map was read; they are asked for the map first."""
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        now = asyncio.get_running_loop().time
        until = now() + RETRY_SECONDS
        backoff = FIRST_BACKOFF_SECONDS
        replies: list[Any] = [None] * len(commands)
        pending: dict[int, Address | None] = dict.fromkeys(range(len(commands)))
        attempts = 0
        while pending:
            if self._map_is_stale:
                await self._refresh_map()
            pending, must_wait = await self._send_pending(commands, pending, replies, foreground)
            attempts += 1
            if now() >= until or self._closed:
                break
            if must_wait or (pending and attempts > 2):  # else the next node is known
                await asyncio.sleep(backoff * random.uniform(0.5, 1))
                backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
        return replies

    async def _send_pending(
        self,
        commands: Sequence[Command],
        pending: Mapping[int, Address | None],
        replies: list[Any],
        foreground: bool,
    ) -> tuple[dict[int, Address | None], bool]:
        """Sends the commands ``pending`` (by index) and sets their ``replies``.

        Returns which to send again, by index: to the node that an ASK named, or with None to the
        master of the slot; and whether to wait before that.
        """
        batches: dict[Address, list[int]] = {}
        retries: dict[int, Address | None] = {}
        must_wait = False
        for index, asked in pending.items():
            node = asked or self._master_for(commands[index])
            if node is None:
                replies[index] = ConnectionError("the cluster has no node for the slot")
                retries[index], must_wait = None, True
                self._map_is_stale = True
            else:
                batches.setdefault(node, []).append(index)

        async def send_to(node: Address, indexes: list[int]) -> None:
            nonlocal must_wait
            batch = [(commands[index], bool(pending[index])) for index in indexes]
            found = await self._send_to(node, batch, foreground)
            for index, reply in zip(indexes, found, strict=True):
                replies[index] = reply
                retry = self._retry_for(reply, node) if isinstance(reply, Exception) else None
                if retry is not None:
                    retries[index] = retry.node
                    must_wait = must_wait or retry.must_wait

        await asyncio.gather(*(send_to(node, indexes) for node, indexes in batches.items()))
        return retries, must_wait

    async def _send_to(
        self, node: Address, commands: list[tuple[Command, bool]], foreground: bool
    ) -> list[Any]:
        """One node's replies; where it gives none, the exception in place of each. The boolean of
        a command says whether an ASK named this node for it."""
        batch: list[Command] = []
        positions = []
        for command, after_ask in commands:
            if after_ask:  # the node then accepts the next command for a slot it is importing
                batch.append(("ASKING",))
            positions.append(len(batch))
            batch.append(command)
        begun = asyncio.get_running_loop().time()
        try:
            replies = await self._connection(node, foreground).call(batch)
        except (OSError, RedisError) as error:
            self._map_is_stale = True
            return [error] * len(commands)
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() - begun > SUSPECT_AFTER_SECONDS:
                self._map_is_stale = True  # the node may hang, and another be master by now
            raise
        return [replies[position] for position in positions]

    def _retry_for(self, error: Exception, node: Address) -> _Retry | None:
        """What to do about an error; None: it is the reply.

        Raises:
            ConnectionError: the node redirects to what is not an address.
        """
        if not isinstance(error, hiredis.ReplyError):
            self.count_resend()
            return _Retry(None, must_wait=True)
        word, _, rest = str(error).partition(" ")
        match word:
            case "MOVED":
                self._slot_moved(*parse_moved(rest, node))
                return _Retry(None, must_wait=False)
            case "ASK":
                return _Retry(parse_address(rest.partition(" ")[2], node), must_wait=False)
            case "TRYAGAIN":
                return _Retry(None, must_wait=True)
            case "CLUSTERDOWN" | "READONLY" | "LOADING" | "MASTERDOWN":
                self._map_is_stale = True
                return _Retry(None, must_wait=True)
            case _:
                return None

    def _slot_moved(self, slot: int, master: Address) -> None:
        if self.slot_map.masters.get(slot) != master:
            self.slot_map.masters[slot] = master
            self.invalidate(None)
        self._map_is_stale = True
        if master not in self._redirect_targets:
            self._redirect_targets.append(master)

    def _master_for(self, command: Command) -> Address | None:
        key = routing_key(command)
        if key is None:
            return random.choice(list(set(self.slot_map.masters.values())) or [None])
        return self.slot_map.masters.get(slot_of(key))

    def _connection(self, node: Address, foreground: bool) -> LazyConnection:
        connection = self._connections.get((node, foreground))
        if connection is None:
            if self._closed:
                raise ConnectionError("closed")
            self._connections[node, foreground] = connection = LazyConnection(
                lambda: self._connect(node),
                on_invalidation=self.invalidate if foreground else None,
                on_resend=self.count_resend,
                reply_timeout=self.timeouts.reply,
            )
        return connection

    async def servers(self) -> list[Server]:
        try:
            if self._map_is_stale:
                await self._refresh_map()
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        masters = self.slot_map.masters
        count = len(set(masters.values()))  # of all slots: once, and not for each number below
        tags: dict[Address, str] = {}
        for number in itertools.count():
            node = masters.get(slot_of(str(number)))
            if node is not None:
                tags.setdefault(node, str(number))
            if len(tags) == count:
                break
        return [Server(f"{host}:{port}", tag) for (host, port), tag in sorted(tags.items())]

    async def ask(
        self, server: Server, commands: Sequence[Command], *, foreground: bool = False
    ) -> list[Any]:
        host, _, port = server.name.rpartition(":")
        try:
            async with asyncio.timeout(self.timeouts.reply):
                return await self._connection((host, int(port)), foreground).call(commands)
        except (RedisError, OSError, TimeoutError) as error:
            self._map_is_stale = True
            raise unavailable(error) from error

    def tracking_error(self) -> str:
        errors = (
            connection.tracking_error
            for (_, foreground), connection in self._connections.items()
            if foreground and connection.is_open
        )
        return next(filter(None, errors), "")

    def tracking_current(self) -> bool:
        """Of every node that something was read from: where one may have been replaced by another
        without our knowledge, nothing is certain."""
        now = asyncio.get_running_loop().time()
        return not self._map_is_stale and all(
            connection.tracking_current(now)
            for (_, foreground), connection in self._connections.items()
            if foreground and connection.is_open
        )

    async def _refresh_map(self) -> None:
        """Reads the slot map. Callers share one attempt.

        Raises:
            OSError, RedisError: no node sends it.
        """
        if self._refreshing is None:
            if self._closed:
                raise ConnectionError("closed")
            self._refreshing = asyncio.create_task(self._read_map())
            self._refreshing.add_done_callback(self._refreshing_done)
        await shared(self._refreshing)

    def _refreshing_done(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # retrieved, also if every caller has given up

    async def _read_map(self) -> None:
        first, self._redirect_targets = self._redirect_targets, []
        known = random.sample(self.slot_map.nodes, len(self.slot_map.nodes))
        nodes = list(dict.fromkeys([*first, *known, *self._seeds]))
        reason: Exception = ConnectionError("the cluster has no nodes")
        for some in parts_of(nodes, MAP_REQUESTS):
            tasks = [asyncio.create_task(self._map_of(node)) for node in some]
            try:
                for answer in asyncio.as_completed(tasks):
                    try:
                        slot_map = await answer
                    except (OSError, RedisError, hiredis.ReplyError) as error:
                        reason = error
                        continue
                    await self.use_slot_map(slot_map)
                    return
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        raise ConnectionError(f"no node of the cluster sends its slots: {reason}") from reason

    async def _map_of(self, node: Address) -> SlotMap:
        async with asyncio.timeout(MAP_TIMEOUT_SECONDS):
            (reply,) = await self._connection(node, foreground=True).call([("CLUSTER", "SLOTS")])
        if isinstance(reply, Exception):
            raise reply
        return parse_cluster_slots(reply, node)

    async def use_slot_map(self, slot_map: SlotMap) -> None:
        """Replaces the map, and closes connections to nodes that are not in it."""
        self._map_is_stale = False
        if slot_map.masters != self.slot_map.masters:
            self.invalidate(None)  # previous masters may report no more changes
        self.slot_map = slot_map
        for node, foreground in list(self._connections):
            if node not in slot_map.nodes:
                await self._connections.pop((node, foreground)).close()

    async def close(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            refreshing = self._refreshing
            refreshing.cancel()
            await asyncio.wait([refreshing])
        for connection in self._connections.values():
            await connection.close()


class _Retry(NamedTuple):
    """A command to send again."""

    node: Address | None
    """Where; None: to the master of its slot."""
    must_wait: bool
