"""Watches the Redis servers: what the login may do, and whether they drop keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import structlog

from resolver.errors import IndexUnavailable
from resolver.index.preflight import REACHABLE, Finding, preflight, unreachable
from resolver.index.redis.client import RedisClient
from resolver.index.server_state import eviction_finding, read_states
from resolver.problems import Problem

WATCH_SECONDS = 10.0
"""Between two looks at the eviction policy."""

PREFLIGHT_SECONDS = 60.0
"""Between two preflights: rights are changed by hand, and after a failover they may differ."""

log = structlog.get_logger()


class ServerWatch:
    """What this process knows of the servers."""

    def __init__(self, client: RedisClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._findings: dict[str, Finding] = {}
        """The last of each name."""
        self._preflight_at = float("-inf")
        """By `time.monotonic`."""
        self.may_evict = False
        """Whether the policy of a server lets it drop keys."""

    async def run(self) -> None:
        """Looks at the servers until the task is cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.check()
            except Exception:
                log.exception("server watch failed")

    async def check(self) -> list[Finding]:
        """Looks at the servers. Returns what was found, and logs what has changed. It never raises:
        a Redis that fails is what it finds."""
        found = await self.examine(is_full=self._is_preflight_due())
        for finding in found:
            self._report(finding)
        return found

    def _is_preflight_due(self) -> bool:
        return time.monotonic() - self._preflight_at >= PREFLIGHT_SECONDS

    async def examine(self, *, is_full: bool = True) -> list[Finding]:
        """The same without a word in the log. ``is_full``: with a preflight."""
        found = await preflight(self._client, self._prefix) if is_full else []
        if any(finding.required and not finding.ok for finding in found):
            return found
        try:
            states = await read_states(self._client, with_policy=True)
        except IndexUnavailable as error:
            return [*found, unreachable(error)]
        if is_full:
            self._preflight_at = time.monotonic()
        self.may_evict = any(state.may_evict for state in states)
        return [*found, eviction_finding(states)]

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
                yield Problem(code=finding.name, text=f"{finding.text}.", action=f"{finding.fix}.")
