"""Turns: all processes together ask a location no more often than its `rate` allows."""

from __future__ import annotations

from resolver.index.keys import Keys
from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import parses_reply
from resolver.index.redis.scripts import load

TAKE = load("take_turn")

MICROSECONDS = 1_000_000


class Turns:
    """The turns of each location, evenly spaced."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def take(
        self, number: int, rate: float, earliest: float, max_wait: float | None
    ) -> tuple[bool, float]:
        """Takes the next turn of location ``number``, of ``rate`` a second, in ``earliest`` seconds
        or later. Returns whether it was taken, and the seconds until then. One that is more than
        ``max_wait`` seconds away is not taken. None: it is now, and the next one after it.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        longest = -1 if max_wait is None else int(max_wait * MICROSECONDS)
        args = [int(MICROSECONDS / rate), int(earliest * MICROSECONDS), longest]
        return _turn(await self._client.run(TAKE, [self._keys.turn(number)], args))


@parses_reply
def _turn(reply: list[int]) -> tuple[bool, float]:
    taken, wait = reply
    return bool(taken), wait / MICROSECONDS
