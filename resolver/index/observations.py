"""What a location was seen to have, or to have lost, against what was seen meanwhile.

A listing or an answer is of the moment in which it was asked for. When it is written down, the
image may have gone, and an event have said so. So whoever releases an image first notes that it has
gone, and whoever claims one afterwards looks whether it has gone since it was asked for: in
whichever order the four steps come, what was learnt last stands.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from resolver.index.claims import SCRIPT_IDS, Claims
from resolver.index.keys import Keys
from resolver.index.redis.redis_errors import translate_decode_errors
from resolver.index.scripts import load

if TYPE_CHECKING:
    from resolver.index.redis.client import RedisClient

NOTE = load("gone_note")
SINCE = load("gone_since", reading=True)

KEPT = 600
"""Seconds that a departure is noted: longer than any answer takes from a server to the index."""

MARGIN = 1.0
"""Seconds more than were counted, for the way of what we write to Redis."""


class Observations:
    """Claims and releases that follow from what locations show."""

    def __init__(self, client: RedisClient, keys: Keys, claims: Claims) -> None:
        self._client = client
        self._keys = keys
        self._claims = claims

    async def record_present(
        self, number: int, letter_cases: Mapping[bytes, int], asked: float
    ) -> int:
        """Location ``number`` showed these images when it was asked at ``asked``
        (`time.monotonic`). Returns how many claims are new.

        Raises:
            IndexUnavailable: when Redis does not answer; claims made so far stay.
        """
        new = await self._claims.claim(number, letter_cases)
        if letter_cases and (gone := await self._gone_since(number, asked) & letter_cases.keys()):
            new -= await self._claims.release(number, gone)
        return max(new, 0)

    async def record_absent(self, number: int, ids: Collection[bytes]) -> int:
        """Location ``number`` no longer has these images. Returns how many claims went.

        Raises:
            IndexUnavailable: when Redis does not answer; releases made so far stay.
        """
        every = list(ids)
        for start in range(0, len(every), SCRIPT_IDS):
            some = every[start : start + SCRIPT_IDS]
            await self._client.run(NOTE, [self._keys.gone(number)], [KEPT, *some])
        return await self._claims.release(number, every)

    @translate_decode_errors()
    async def _gone_since(self, number: int, asked: float) -> set[bytes]:
        seconds = time.monotonic() - asked + MARGIN
        return set(await self._client.run(SINCE, [self._keys.gone(number)], [repr(seconds)]))
