"""What a location was seen to have or to lack, in the right order.

A listing or an answer shows the moment at which it was asked for. By the time it is written to the
index the image may be gone, and an event may have reported that. So a release first records the
departure of the image, and a claim is followed by a check for departures since the location was
asked. In whichever order these four steps run, the latest observation wins.

A server that has lost its database answers that each image is gone. So releases are counted, and
more than the shrink guard allows between two complete sweeps are refused. A sweep decides then.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from resolver.errors import ShrinkGuardTripped
from resolver.image_facts import ImageFacts
from resolver.index.claims import SCRIPT_IDS, Claims
from resolver.index.count import Count
from resolver.index.keys import Keys
from resolver.index.records import Records
from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import optional_int, parses_reply
from resolver.index.redis.scripts import load
from resolver.turns import parts_of

RECORD_DEPARTURES = load("record_departures")
DEPARTURES_SINCE = load("departures_since", read_only=True)

DEPARTURE_SECONDS = 600
"""How long a departure is remembered: longer than any answer takes from a server to the index."""

MIN_GUARDED_LOSS = 10
"""As many images may always be released, whatever share they are, so that small clouds can change;
but not all images of a location that has several."""

DEFAULT_SHRINK_GUARD = 0.2

TRANSIT_MARGIN_SECONDS = 1.0
"""Added to the age of an observation for the time that our writes take to reach Redis."""

log = structlog.get_logger()


class Observations:
    """Claims and releases that follow from what locations show."""

    def __init__(
        self,
        client: RedisClient,
        keys: Keys,
        claims: Claims,
        records: Records,
        shrink_guard: float = DEFAULT_SHRINK_GUARD,
    ) -> None:
        """``shrink_guard``: the share of a location's images that may be released between two
        complete sweeps."""
        self._client = client
        self._records = records
        self._shrink_guard = shrink_guard
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

    async def record_absent(
        self, number: int, ids: Collection[bytes], *, guarded: bool = True
    ) -> Count:
        """Location ``number`` no longer has these images. Returns how many claims were dropped.

        ``guarded``: claims are counted since the last complete sweep, and not dropped where they
        would be more than `MIN_GUARDED_LOSS` and the share that may be lost. A sweep has a guard of
        its own.

        Raises:
            ShrinkGuardTripped: they would be too many. Of these images, nothing was dropped but
                whole batches of `SCRIPT_IDS`.
            IndexUnavailable: Redis does not answer. Releases made so far stay.
        """
        image_ids = list(ids)
        dropped = Count(0)
        for batch in parts_of(image_ids, SCRIPT_IDS):
            claimed = await self._claimed(number, batch) if guarded else []
            if len(claimed) < len(batch):  # an older answer about these may still be on its way
                counted = set(claimed)
                await self._record_departures(number, [i for i in batch if i not in counted], 0)
            if claimed:
                await self._record_departures(number, claimed, len(claimed))
            left = await self._claims.release(number, batch)
            if left < len(claimed) and left.is_exact:  # others released, and counted, the rest
                await self._record_departures(number, (), left - len(claimed))
            dropped = dropped.plus(left)
        return dropped

    async def _record_departures(self, number: int, ids: Collection[bytes], claimed: int) -> None:
        """Records that images have left, ``claimed`` of which count for the guard; a negative
        number takes back what was counted.

        Raises:
            ShrinkGuardTripped: they are too many.
        """
        keys = self._keys
        if not await self._client.run(
            RECORD_DEPARTURES,
            [keys.departures(number), keys.released, keys.status],
            [number, DEPARTURE_SECONDS, claimed, repr(self._shrink_guard), MIN_GUARDED_LOSS, *ids],
        ):
            await self._trip_guard(number)
            raise ShrinkGuardTripped(
                "more of its images seem to be gone than RESOLVER_SHRINK_GUARD allows"
            )

    async def _claimed(self, number: int, ids: Sequence[bytes]) -> list[bytes]:
        """Those of these images that the location claims."""
        owners = (await self._claims.lookup(ids, foreground=False)).owners
        return [
            image_id
            for image_id, some in zip(ids, owners, strict=True)
            if any(owner.number == number for owner in some)
        ]

    async def _trip_guard(self, number: int) -> None:
        """From now on the location's "no" proves nothing, and a sweep is to find out why."""
        sweep = await self._records.sweep(number)
        if sweep.guarded is None:
            log.warning("shrink guard tripped", number=number, images=sweep.images)
            await self._records.set_sweep(number, replace(sweep, guarded=time.time()))
            if number not in await self._records.requested_sweeps():
                await self._records.request_sweep(number)

    async def released_since_sweep(self, number: int) -> int:
        """How many claims of the location were dropped since its last complete sweep, other than by
        sweeps and operators.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        return optional_int(await self._client.command("HGET", self._keys.released, number)) or 0

    async def reset_released(self, number: int) -> None:
        """A sweep of the location is complete."""
        await self._client.command("HDEL", self._keys.released, number)

    async def _departed(self, number: int, asked: float) -> set[bytes]:
        """Images that left since shortly before ``asked``."""
        seconds = time.monotonic() - asked + TRANSIT_MARGIN_SECONDS
        key = self._keys.departures(number)
        return _id_set(await self._client.run(DEPARTURES_SINCE, [key], [repr(seconds)]))


@parses_reply
def _id_set(reply: Any) -> set[bytes]:
    return set(reply)
