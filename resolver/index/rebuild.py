"""Giving a live index another number of buckets, without a wrong answer meanwhile.

From the moment that ``next`` is in the index's meta, every writer writes to the old buckets and
then to the new. The old ones are then copied, each until it is read unchanged after it was
written, so that no write that crossed with the copy is lost or undone. When all are copied, one
script makes the new ones those that are read; the old ones are dropped a little later, when nobody
reads them any more. A rebuild that was killed begins its copying anew, which does no harm.

One crossing is not covered: two writers that claim and release the same image at the same location
within the same few milliseconds may leave the new bucket as the other order would have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from resolver.errors import Conflict
from resolver.index.claims import BATCH_CALLS, Claims
from resolver.index.codec import Buckets
from resolver.index.keys import Keys
from resolver.index.redis.client import Command, pairs
from resolver.index.redis.redis_errors import translate_decode_errors
from resolver.index.scripts import load

if TYPE_CHECKING:
    from resolver.index.redis.client import RedisClient

BEGIN = load("rebuild_begin", "version")
END = load("rebuild_end", "version")

COPY_BATCH = 64
"""Buckets copied together: some thousands of images."""

DROP_AFTER = 5.0
"""Seconds that the old buckets stay: longer than any lookup in them may take."""

Hash = dict[bytes, bytes]


class Rebuild:
    """Changes the number of buckets of one index."""

    def __init__(self, client: RedisClient, keys: Keys, claims: Claims) -> None:
        self._client = client
        self._keys = keys
        self._claims = claims

    @translate_decode_errors()
    async def requested(self) -> int | None:
        """The bits that were asked for and are not there yet."""
        wanted = await self._client.command("HGET", self._keys.meta, "wanted")
        return int(wanted) if wanted else None

    @translate_decode_errors()
    async def request(self, bits: int) -> None:
        """Asks the indexers to rebuild with ``1 << bits`` buckets.

        Raises:
            Conflict: it is being rebuilt with others.
        """
        wanted, following = await self._client.command("HMGET", self._keys.meta, "wanted", "next")
        for other in (wanted, following):
            if other and int(other) != bits:
                raise Conflict(
                    f"the index is being rebuilt with --bits {int(other)}: wait until it is done"
                )
        await self._client.command("HSET", self._keys.meta, "wanted", bits)

    @translate_decode_errors()
    async def progress(self) -> tuple[int, float] | None:
        """(bits, share of the buckets copied) of a rebuild asked for or under way."""
        wanted, at = await self._client.command("HMGET", self._keys.meta, "wanted", "at")
        if not wanted:
            return None
        return int(wanted), int(at or 0) / self._claims.buckets.count

    @translate_decode_errors()
    async def run(self, bits: int, report: Callable[[], Awaitable[None]]) -> bool:
        """Rebuilds; whether there was anything to do. ``report`` is called often and may raise.

        Raises:
            Conflict: it is being rebuilt with others.
            IndexUnavailable: Redis failed; run it again.
        """
        layout = self._claims.layout
        await self._drop_old(report)
        state = await self._client.run(BEGIN, [self._keys.meta, self._keys.version], [bits])
        if not state:
            raise Conflict("the index is being rebuilt with other --bits")
        await layout.refresh()
        if state == 1:
            old, new = layout.current, layout.of(bits)
            # What a killed rebuild left there may have been released since.
            await self._drop(new, report)
            for span in old.spans(COPY_BATCH):
                await self._copy(old, new, span)
                await self._client.command("HSET", self._keys.meta, "at", span.start)
                await report()
            await self._client.run(END, [self._keys.meta, self._keys.version], [bits])
            await layout.refresh()
            for _ in range(int(DROP_AFTER)):
                await asyncio.sleep(1)
                await report()
            await self._drop_old(report)
        await self._client.command("HDEL", self._keys.meta, "wanted")
        return bool(state == 1)

    async def _copy(self, old: Buckets, new: Buckets, batch: range) -> None:
        """Makes the new buckets have what these old ones have, until a read proves it."""
        copied: dict[int, Hash] = {bucket: {} for bucket in batch}
        todo = list(batch)
        while todo:
            replies = await self._client.pipeline(("HGETALL", old.key(bucket)) for bucket in todo)
            commands: list[Command] = []
            changed = []
            for bucket, reply in zip(todo, replies, strict=True):
                there = pairs(reply)
                if there != copied[bucket]:
                    commands += _difference(old, new, bucket, copied[bucket], there)
                    copied[bucket] = there
                    changed.append(bucket)
            for start in range(0, len(commands), BATCH_CALLS):
                await self._client.pipeline(commands[start : start + BATCH_CALLS])
            todo = changed

    async def _drop_old(self, report: Callable[[], Awaitable[None]]) -> None:
        """Deletes the buckets that the last rebuild left behind."""
        bits = await self._client.command("HGET", self._keys.meta, "old")
        if not bits:
            return
        await self._drop(self._claims.layout.of(int(bits)), report)
        await self._client.command("HDEL", self._keys.meta, "old")

    async def _drop(self, buckets: Buckets, report: Callable[[], Awaitable[None]]) -> None:
        for span in buckets.spans(BATCH_CALLS):
            await self._client.pipeline(("UNLINK", buckets.key(bucket)) for bucket in span)
            await report()


def _difference(old: Buckets, new: Buckets, bucket: int, before: Hash, now: Hash) -> list[Command]:
    """Commands that turn what was copied of an old bucket into what it has now."""
    puts: dict[int, list[bytes]] = {}
    drops: dict[int, list[bytes]] = {}
    for field, value in now.items():
        if before.get(field) != value:
            image_id = old.join(bucket, field)
            puts.setdefault(new.number(image_id), []).extend((new.field(image_id), value))
    for field in before.keys() - now.keys():
        image_id = old.join(bucket, field)
        drops.setdefault(new.number(image_id), []).append(new.field(image_id))
    return [
        *(("HSET", new.key(number), *entries) for number, entries in puts.items()),
        *(("HDEL", new.key(number), *fields) for number, fields in drops.items()),
    ]
