"""Announces this process to the others, and notices when they are of several versions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator

from resolver import __version__
from resolver.errors import IndexUnavailable
from resolver.index import Index, ProcessInfo
from resolver.problems import Problem

ANNOUNCE_INTERVAL_SECONDS = 20.0
"""A third of the time for which an announcement counts, so that one may fail."""

LEAVE_TIMEOUT_SECONDS = 1.0
"""How long the end of this process waits for Redis. Without an answer its announcement expires."""


class ProcessWatch:
    """This process among those that use the index."""

    def __init__(
        self,
        index: Index,
        role: str,
        *,
        version: str = __version__,
        interval: float = ANNOUNCE_INTERVAL_SECONDS,
    ) -> None:
        """``interval``: between two announcements, in seconds."""
        self._processes = index.processes
        self._interval = interval
        self.info = ProcessInfo(
            id=secrets.token_hex(8),
            role=role,
            version=version,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=time.time(),
        )
        self._versions: list[str] = []
        self._mixed_since = 0.0

    async def run(self) -> None:
        """Announces this process until it is cancelled. Then it leaves."""
        try:
            while True:
                await self.announce()
                await asyncio.sleep(self._interval)
        finally:
            with contextlib.suppress(IndexUnavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT_SECONDS):
                    await self._processes.leave(self.info)

    async def announce(self) -> None:
        """Announces this process once. Without Redis, and where this version must not write,
        nothing changes."""
        with contextlib.suppress(IndexUnavailable):
            self._versions = await self._processes.announce(self.info)
        if len(self._versions) < 2:
            self._mixed_since = 0.0
        elif not self._mixed_since:
            self._mixed_since = time.time()

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        if len(self._versions) > 1:
            yield Problem(
                code="mixed-versions",
                text=f"Processes of several versions use this index: {', '.join(self._versions)}.",
                action="`glance-resolver members` lists them. Finish the upgrade; during one this "
                "is as it should be.",
                since=self._mixed_since,
            )
