"""Requests in flight, so that a shutdown can wait for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

IDLE_GRACE_SECONDS = 0.5
"""How long idle connections stay open at a shutdown."""

POLL_SECONDS = 0.025


TRACKED = "resolver.in_flight"
"""``get_extra_info`` of a transport whose requests are counted already."""

REFUSED_STATUS = "resolver.refused_status"
"""``get_extra_info`` of a transport that was closed because its request cannot be read: the status
that the client got."""


class InFlight:
    """Counts the requests that are being answered."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = False
        """Whether this process will stop, and load balancers should send it nothing more."""
        self.stopping = False
        """Whether a shutdown has begun: every response closes its connection."""
        self._stop_begins = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @contextlib.contextmanager
    def track(self, *, already: bool = False) -> Iterator[None]:
        """A request is being answered. ``already``: it is counted where it arrived."""
        if already:
            yield
            return
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        if not self.count:
            self._none.clear()
        self.count += 1

    def release(self) -> None:
        self.count -= 1
        if not self.count:
            self._none.set()

    async def stops_within(self, seconds: float) -> bool:
        """Waits for a shutdown to begin, for streams that have no end of their own. Whether it has
        begun within these seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_begins.wait()
        return self.stopping

    async def drain(
        self,
        timeout: float,  # noqa: ASYNC109 - a bound, not a deadline
        open_connections: Callable[[], int] = lambda: 0,
    ) -> None:
        """Waits until no request is in flight, at most ``timeout`` seconds.

        Clients of idle connections first get `IDLE_GRACE_SECONDS` for another request, which may be
        on its way already. Its response closes the connection.
        """
        self.stopping = True
        self._stop_begins.set()
        loop = asyncio.get_running_loop()
        until = loop.time() + min(IDLE_GRACE_SECONDS, timeout)
        while open_connections() and loop.time() < until:  # noqa: ASYNC110 - no event for each
            await asyncio.sleep(POLL_SECONDS)
        try:
            async with asyncio.timeout(timeout):
                while self.count:
                    await self._none.wait()
        except TimeoutError:
            pass
