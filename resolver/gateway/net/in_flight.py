"""Which requests are being answered, so that an end can wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager

LINGER = 0.5
"""Seconds until an idle connection is closed at the end."""


class InFlight:
    """Counts the requests in flight.

    aiohttp's own shutdown stops reading from every connection at once, so that a request whose
    body was still arriving is never answered. Waiting here first lets it arrive.
    """

    def __init__(self) -> None:
        self.count = 0
        self.stopping = False
        """Answers now close their connections."""
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A request is being answered."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        self.count += 1
        self._quiet.clear()

    def end(self) -> None:
        self.count -= 1
        if not self.count:
            self._quiet.set()

    async def drain(
        self,
        timeout: float,  # noqa: ASYNC109 - a bound, not a deadline
        connections: Callable[[], Sized] = tuple,
    ) -> None:
        """Waits until no request is in flight, at most ``timeout`` seconds.

        Before that, clients of connections that are idle get `LINGER` seconds for another request,
        whose answer tells them to open another connection: it may be on its way already.
        """
        self.stopping = True
        loop = asyncio.get_running_loop()
        until = loop.time() + min(LINGER, timeout)
        while connections() and loop.time() < until:  # noqa: ASYNC110 - nobody tells of each
            await asyncio.sleep(LINGER / 20)
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            pass
