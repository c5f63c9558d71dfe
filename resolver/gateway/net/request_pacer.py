"""Requests share the turns of the event loop, so that none waits behind those of thousands.

All that clients have sent by the beginning of a turn is read in it. Two thousand requests that must
be parsed, or that aiohttp answers, would hold up everybody else for 0.2 s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

OF_ONE_CONNECTION = 4
"""Requests of one connection that are answered before others have their turn. A hundred that send
many at once then keep the others waiting for some 4 ms a turn."""

PARSED_PER_TURN = 32
"""Requests that are parsed in one turn. One that aiohttp answers takes up to 150 µs in this turn
and the next."""


class RequestPacer:
    """Admits `PARSED_PER_TURN` requests in each turn. The others wait, first come, first served.
    Those that need no parsing are not paced."""

    def __init__(self) -> None:
        self._left = PARSED_PER_TURN
        self._waiting: deque[Callable[[], None]] = deque()
        self._turn_ends_soon = False

    def admits(self, resume: Callable[[], None]) -> bool:
        """Whether a request may be parsed now. If not, ``resume`` is called in a later turn, and
        has to ask again."""
        if not self._turn_ends_soon:
            self._turn_ends_soon = True
            asyncio.get_running_loop().call_soon(self._begin_turn)
        if not self._left:
            self._waiting.append(resume)
            return False
        self._left -= 1
        return True

    def _begin_turn(self) -> None:
        self._turn_ends_soon = False
        self._left = PARSED_PER_TURN
        while self._left and self._waiting:
            self._waiting.popleft()()
