"""What a location was seen to have or to lack, in the right order.

A listing or an answer shows the moment at which it was asked for. By the time it is written to the
index the image may be gone, and an event may have reported that. So a release first records the
departure of the image, and a claim is followed by a check for departures since the location was
asked. In whichever order these four steps run, the latest observation wins.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from resolver.image_facts import ImageFacts
from resolver.index.claims import SCRIPT_IDS, Claims
from resolver.index.count import Count
from resolver.index.keys import Keys
from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import parses_reply
from resolver.index.redis.scripts import load

RECORD_DEPARTURES = load("record_departures")
DEPARTURES_SINCE = load("departures_since", read_only=True)

DEPARTURE_SECONDS = 600
"""How long a departure is remembered: longer than any answer takes from a server to the index."""

TRANSIT_MARGIN_SECONDS = 1.0
"""Added to the age of an observation for the time that our writes take to reach Redis."""


class Observations:
    """Claims and releases that follow from what locations show."""

    def __init__(self, client: RedisClient, keys: Keys, claims: Claims) -> None:
        self._client = client
        self._keys = keys
        self._claims = claims

    async def record_present(
        self,
        number: int,
        letter_cases: Mapping[bytes, int],
        asked: float,
        facts: Mapping[bytes, ImageFacts] | None = None,
    ) -> Count:
        """Location ``number`` showed these images when it was asked at ``asked``
        (`time.monotonic`). ``facts``: what else it showed of them. Returns how many claims are new.

        Raises:
            IndexUnavailable: Redis does not answer. Claims made so far stay.
        """
        new = await self._claims.claim(number, letter_cases, facts)
        if letter_cases and (gone := await self._departed(number, asked) & letter_cases.keys()):
            left = await self._claims.release(number, gone)
            new = Count(max(new - left, 0), is_exact=new.is_exact and left.is_exact)
        return new

    async def record_absent(self, number: int, ids: Collection[bytes]) -> Count:
        """Location ``number`` no longer has these images. Returns how many claims were dropped.

        Raises:
            IndexUnavailable: Redis does not answer. Releases made so far stay.
        """
        image_ids = list(ids)
        key = self._keys.departures(number)
        for start in range(0, len(image_ids), SCRIPT_IDS):
            batch = image_ids[start : start + SCRIPT_IDS]
            await self._client.run(RECORD_DEPARTURES, [key], [DEPARTURE_SECONDS, *batch])
        return await self._claims.release(number, image_ids)

    async def _departed(self, number: int, asked: float) -> set[bytes]:
        """Images that left since shortly before ``asked``."""
        seconds = time.monotonic() - asked + TRANSIT_MARGIN_SECONDS
        key = self._keys.departures(number)
        return _id_set(await self._client.run(DEPARTURES_SINCE, [key], [repr(seconds)]))


@parses_reply
def _id_set(reply: Any) -> set[bytes]:
    return set(reply)
