"""Redis behind Sentinels: who is the master, and leaving one that no longer is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis, Sentinel
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from resolver.index.redis.client import (
    DEFAULT_TIMEOUTS,
    Address,
    Command,
    RedisTimeouts,
    SingleClient,
)
from resolver.index.redis.pipelined_connection import PipelinedConnection
from resolver.index.redis.redis_errors import DECODE_ERRORS, SentinelLoginError

MASTER_CHECK_SECONDS = 1.0
"""How often the Sentinels are asked for the master while the index is used."""

CONFIRMED_SECONDS = 2.0
"""How long the word of most Sentinels counts. They choose another master only when this one was
silent for their ``down-after-milliseconds``, by default 30 s."""

NO_MAJORITY = "Most Sentinels do not confirm which Redis is the master, so another may be by now"
"""Why the server that is used is doubted. Anybody may read it."""


class QuorumSentinel(Sentinel):
    """Asks most of the Sentinels: one that was cut off may still name the previous master."""

    async def discover_master(self, service_name: str) -> Address:
        """The master of the latest failover that any of the answers knows of.

        Raises:
            MasterNotFoundError: no Sentinel answers, or none knows a master that is up.
        """
        address, _ = await self.ask_most(service_name)
        return address

    async def ask_most(self, service_name: str) -> tuple[Address, bool]:
        """The same, and whether most Sentinels have answered. A failover needs most of them, so
        that one of these has taken part in it.

        Raises:
            MasterNotFoundError: as above.
        """
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(sentinel.sentinel_masters()) for sentinel in self.sentinels
        ]
        states: list[Any] = []
        reason = ""
        login_refused = is_most = False
        try:
            for answer in asyncio.as_completed(tasks):
                try:
                    states.append((await answer).get(service_name))
                except (RedisError, OSError, *DECODE_ERRORS) as error:  # redis-py parses it
                    reason = f": {error}"
                    login_refused |= isinstance(error, AuthenticationError | NoPermissionError)
                if is_most := len(states) > len(tasks) / 2:
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            usable = [s for s in states if s and self.check_master_state(s, service_name)]
            if usable:
                latest = max(usable, key=lambda state: int(state["config-epoch"]))
                return (latest["ip"], int(latest["port"])), is_most
        except DECODE_ERRORS as error:
            reason = f": {type(error).__name__}: {error}"
        kind = SentinelLoginError if login_refused else MasterNotFoundError
        raise kind(f"No master found for {service_name!r}{reason}")

    async def errors(self, service_name: str) -> dict[str, str]:
        """For each Sentinel, by ``host:port``, why it names no master; empty if it names one."""

        async def ask(sentinel: Redis) -> tuple[str, str]:
            at = sentinel.connection_pool.connection_kwargs
            error = ""
            try:
                if service_name not in await sentinel.sentinel_masters():
                    error = f"it knows no master {service_name!r}"
            except (RedisError, OSError, *DECODE_ERRORS) as failure:
                error = str(failure) or type(failure).__name__
            return f"{at['host']}:{at['port']}", error

        return dict(await asyncio.gather(*map(ask, self.sentinels)))


class SentinelClient(SingleClient):
    """The master that the Sentinels name.

    In a planned failover the old master accepts writes for some ten seconds, until it has to
    follow the new one; these writes are lost. So the Sentinels are asked again while the client is
    used, and a connection to another server is closed.

    A master that is cut off from its replica and from most Sentinels does not know that it has been
    replaced. Clients on its side of the network still reach it. So nothing is written to a server
    that most Sentinels did not confirm within `CONFIRMED_SECONDS`: it would be lost.
    """

    own_commands: Mapping[str, Command] = {"role": ("ROLE",)}

    def __init__(
        self,
        redis: Redis,
        sentinel: QuorumSentinel,
        service: str,
        timeouts: RedisTimeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        super().__init__(redis, timeouts, self._require_master)
        self._sentinel = sentinel
        self._service = service
        self._check: asyncio.Task[None] | None = None
        self._next_check = 0.0
        self._confirmed_at = float("-inf")
        """When the last check was begun in which most Sentinels answered, by the loop's clock."""
        self._failed_at = float("-inf")
        """When the last check ended that found no majority."""

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        self._check_master_soon()
        return await super().send(commands, foreground=foreground)

    def tracking_current(self) -> bool:
        """Checks the master too: when everything is cached, nothing is sent."""
        self._check_master_soon()
        return super().tracking_current()

    def _check_master_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_check and (self._check is None or self._check.done()):
            self._next_check = now + MASTER_CHECK_SECONDS
            self._check = asyncio.create_task(self._leave_old_master())

    def master_is_confirmed(self) -> bool:
        return asyncio.get_running_loop().time() - self._confirmed_at < CONFIRMED_SECONDS

    async def master_doubt(self) -> str:
        """Waits for the Sentinels, unless they were asked a moment ago to no avail."""
        if not self.master_is_confirmed():
            self._check_master_soon()
            since = asyncio.get_running_loop().time() - self._failed_at
            if self._check is not None and since > CONFIRMED_SECONDS:
                await asyncio.wait([self._check])
        return "" if self.master_is_confirmed() else NO_MAJORITY

    async def _leave_old_master(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            address, is_confirmed = await self._sentinel.ask_most(self._service)
        except (RedisError, OSError):
            self._failed_at = asyncio.get_running_loop().time()
            return  # no Sentinel knows better
        await self.leave_servers_other_than(address)
        if is_confirmed:
            self._confirmed_at = asked_at
        else:
            self._failed_at = asyncio.get_running_loop().time()

    async def _require_master(self, connection: PipelinedConnection) -> None:
        """Sentinels that do not know of a failover yet name the old master, which may answer reads.

        Raises:
            ConnectionError: the server is a replica.
        """
        async with asyncio.timeout(self.timeouts.reply):
            (role,) = await connection.call(hiredis.pack_command(("ROLE",)), 1)
        # An error reply says nothing about the role: the login may not be allowed to ask.
        if isinstance(role, list) and role[0] != b"master":
            raise ConnectionError("the server that Sentinel named is a replica")

    async def sentinel_errors(self) -> dict[str, str]:
        return await self._sentinel.errors(self._service)

    async def close(self) -> None:
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])
        await super().close()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()
