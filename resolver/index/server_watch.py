"""Watches the Redis servers: what the login may do, and what they may have lost.

Redis loses claims without a word when it evicts keys, when it is restarted with less than it had,
and when a replica becomes master without the last writes. `absent` must not be concluded from what
is missing then. So the index's meta has the state of the servers when it was last looked at, and a
number, ``losses``, that grows when another state is found. Sweeps store the number of when they
began: they prove absence as long as it is the current one. And a process that concludes `absent`
from the index asks the servers for their state afterwards (`ServerWatch.loss_doubt`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import structlog

from resolver.errors import IndexUnavailable
from resolver.index.keys import Keys
from resolver.index.preflight import REACHABLE, Finding, preflight, unreachable
from resolver.index.redis.client import Command, RedisClient
from resolver.index.redis.replies import optional_int
from resolver.index.redis.scripts import load
from resolver.index.server_state import eviction_finding, loss_state, read_states
from resolver.problems import Problem

WATCH_SECONDS = 10.0
"""Between two checks of the eviction policy."""

DOUBT_SECONDS = 1.0
"""The same while it is doubted which server is the master: a failover takes seconds."""

PREFLIGHT_SECONDS = 60.0
"""Between two preflights: rights are changed by hand, and after a failover they may differ."""

RECORD_LOSS = load("record_loss", "grow_version")

FOREIGN_KEYS = "redis-foreign-keys"
"""Name of the finding whether the keys of the registry have their types."""

MASTER = "redis-master"
"""Name of the finding whether the server that is used is the master."""

log = structlog.get_logger()


class ServerWatch:
    """What this process knows of the servers."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._findings: dict[str, Finding] = {}
        """The last of each name."""
        self._preflight_at = float("-inf")
        """By `time.monotonic`."""
        self.may_evict = False
        """Whether the policy of a server lets it drop keys."""
        self._next_state: asyncio.Task[str | None] | None = None
        """A question for the state of the servers that has not been sent yet."""
        self._look_now = asyncio.Event()

    async def run(self) -> None:
        """Looks at the servers until the task is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DOUBT_SECONDS if self._knows_doubt() else WATCH_SECONDS):
                    await self._look_now.wait()
            self._look_now.clear()
            try:
                await self.check()
            except Exception:
                log.exception("server watch failed")

    async def check(self) -> list[Finding]:
        """Looks at the servers. Returns what was found, and logs what has changed. It never raises:
        a Redis that fails is what it finds."""
        found = await self.examine(is_full=self._is_preflight_due())
        with contextlib.suppress(IndexUnavailable):  # is tried again, and reported by others
            await self.record_losses()
        for finding in found:
            self._report(finding)
        return found

    def _is_preflight_due(self) -> bool:
        return time.monotonic() - self._preflight_at >= PREFLIGHT_SECONDS

    async def examine(self, *, is_full: bool = True) -> list[Finding]:
        """The same without a word in the log. ``is_full``: with a preflight."""
        found = await preflight(self._client, self._keys.prefix) if is_full else []
        if any(finding.required and not finding.ok for finding in found):
            return found
        try:
            states = await read_states(self._client, with_policy=True)
            types = await _types_finding(self._client, self._keys)
        except IndexUnavailable as error:
            return [*found, unreachable(error)]
        if is_full:
            self._preflight_at = time.monotonic()
        self.may_evict = any(state.may_evict for state in states)
        found += [eviction_finding(states), types]
        if (doubt := await self._client.master_doubt()) or MASTER in self._findings:
            found.append(_master_finding(doubt))
        return found

    async def losses(self) -> int:
        """How often Redis may have lost claims by now.

        Raises:
            IndexUnavailable: a server does not answer, or this process must not write.
        """
        await self.record_losses()
        return optional_int(await self._client.command("HGET", self._keys.meta, "losses")) or 0

    async def record_losses(self) -> None:
        """Records the state of the servers, and a loss where it is another one than before.

        Raises:
            IndexUnavailable: a server does not answer, or this process must not write.
        """
        state = loss_state(await read_states(self._client))
        if state and await self._client.run(
            RECORD_LOSS, [self._keys.meta, self._keys.version], [state]
        ):
            log.warning("redis may have lost claims: keys evicted, or a server restarted")

    async def loss_doubt(self, known_state: str) -> str:
        """Why claims that were read before this call may have been missing although nobody released
        them; empty where that cannot be. Callers of one turn of the loop share one question.

        ``known_state``: the state of the servers that belongs to the location table.

        Raises:
            IndexUnavailable: a server does not answer.
        """
        if self._client.embedded:
            return ""
        if self._next_state is None:
            self._next_state = asyncio.create_task(self._read_loss_state())
            self._next_state.add_done_callback(_retrieve_exception)
        state = await asyncio.shield(self._next_state)
        if state is None:
            return "Redis does not say whether it has lost anything"
        if state != known_state:
            self._look_now.set()
            return "Redis may have lost claims"
        return ""

    async def _read_loss_state(self) -> str | None:
        self._next_state = None  # this task sends now: who comes later needs another
        return loss_state(await read_states(self._client, foreground=True))

    def master_is_confirmed(self) -> bool:
        """Whether the server that is used is certainly the one to which others write, as far as is
        known without asking."""
        return self._client.master_is_confirmed()

    async def master_doubt(self) -> str:
        """Why others may write to another server by now, such as register locations; empty where
        they do not. Nothing is absent then. Callers bound how long they wait."""
        doubt = await self._client.master_doubt()
        if doubt and not self._knows_doubt():
            self._look_now.set()
        return doubt

    def _knows_doubt(self) -> bool:
        """Whether the last check found a doubt which server is the master."""
        known = self._findings.get(MASTER)
        return known is not None and not known.ok

    def _report(self, finding: Finding) -> None:
        if finding.name == REACHABLE:
            return  # reported by those who use the index
        before = self._findings.get(finding.name)
        if not finding.ok and (before is None or before.ok or before.text != finding.text):
            log.warning(
                "redis check failed", check=finding.name, reason=finding.text, fix=finding.fix
            )
        if finding.ok and before is not None and not before.ok:
            log.info("redis check passed again", check=finding.name)
        self._findings[finding.name] = finding

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        for finding in self._findings.values():
            if not finding.ok:
                yield Problem(
                    code=finding.name, text=f"{finding.text.rstrip('.')}.", action=f"{finding.fix}."
                )


_READS: dict[str, Callable[[str], Command]] = {
    "hash": lambda key: ("HGET", key, ""),
    "list": lambda key: ("LRANGE", key, 0, 0),
    "set": lambda key: ("SSCAN", key, 0),
    "sorted set": lambda key: ("ZRANGEBYSCORE", key, 1, 0),
    "string": lambda key: ("GET", key),
}
"""A command by type that reads little, and fails where the key has another type."""


async def _types_finding(client: RedisClient, keys: Keys) -> Finding:
    """Whether something else has written keys of the registry.

    Raises:
        IndexUnavailable: Redis does not answer.
    """
    types = {key: kind for kind, of_kind in keys.by_type().items() for key in of_kind}
    replies = await client.replies(_READS[kind](key) for key, kind in types.items())
    wrong = [
        f"{key} is not of type {kind}"
        for (key, kind), reply in zip(types.items(), replies, strict=True)
        if isinstance(reply, Exception) and str(reply).startswith("WRONGTYPE")
    ]
    if not wrong:
        return Finding(name=FOREIGN_KEYS, ok=True, text="nothing else writes to the registry")
    return Finding(
        name=FOREIGN_KEYS,
        ok=False,
        text=f"something else has written keys of the resolver: {', '.join(wrong)}",
        fix=f"delete or rename them in Redis, and give what wrote them another prefix than "
        f"{keys.prefix} or another database",
        required=False,
    )


def _master_finding(doubt: str) -> Finding:
    if not doubt:
        return Finding(name=MASTER, ok=True, text="most Sentinels name it", required=False)
    return Finding(
        name=MASTER,
        ok=False,
        text=f"{doubt}. Known images resolve; no image is absent, and nothing is written",
        fix="check the Sentinels that RESOLVER_REDIS_URL names, and the network to them",
        required=False,
    )


def _retrieve_exception(task: asyncio.Task[str | None]) -> None:
    """Keeps asyncio from reporting an exception of a task that every caller has given up."""
    if not task.cancelled():
        task.exception()
