"""Gives an index in use another number of buckets, with right answers all the time.

From the moment that ``next`` is set in the index's meta, every writer writes to the old and then to
the new buckets. The old ones are then copied, each until it is read unchanged after it was copied,
so that no write that races with the copy is lost or undone. When all are copied, one script has
reads use the new buckets. The old ones are dropped a little later, when no read uses them any more.
A rebuild that was killed copies from the start again, which is harmless.

Where an older version has made the index, ids that are not random lie as all others. A rebuild that
an operator requests spreads them (`resolver.index.buckets`); from its beginning, older versions
neither read nor write the index. Growth leaves that as it is.

One race is not covered: two writers that claim and release the same image at the same location
within the same few milliseconds may leave the new bucket as the other order would have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from resolver.errors import Conflict
from resolver.index.bucket_layout import BucketLayout
from resolver.index.buckets import SPREAD_CODE, Buckets
from resolver.index.claims import BATCH_CALLS
from resolver.index.index_format import OLDEST_READER, SPREAD_FORMAT
from resolver.index.keys import Keys
from resolver.index.redis.client import Command, RedisClient
from resolver.index.redis.replies import optional_int, pairs, parses_reply
from resolver.index.redis.scripts import load
from resolver.turns import parts_of

BEGIN = load("rebuild_begin", "grow_version")
END = load("rebuild_end", "grow_version")

COPY_BUCKETS = 16
"""Buckets copied together: some thousands of images, several times as many where sweeps have filled
the buckets before the index could grow. Their fields are in memory twice meanwhile."""

Report = Callable[[], Awaitable[None]]
"""Called often during a rebuild; raises to stop it."""

Fields = dict[bytes, bytes]


class Rebuild:
    """Changes the number of buckets of one index."""

    def __init__(self, client: RedisClient, keys: Keys, layout: BucketLayout) -> None:
        self._client = client
        self._keys = keys
        self._layout = layout

    async def request(self, bits: int, *, keep_format: bool = False) -> None:
        """Asks the indexers to rebuild with ``1 << bits`` buckets.

        ``keep_format``: older versions can use the index afterwards as they can now. Otherwise ids
        that are not random are spread from now on.

        Raises:
            Conflict: it is being rebuilt with another number.
            IndexUnavailable: Redis does not answer.
        """
        spreads = self._layout.current.spreads or not keep_format
        code = self._layout.of(bits, spreads=spreads).code
        for other in await self._meta("wanted", "next"):
            if other is not None and other != code:
                raise Conflict(
                    f"the index is being rebuilt with --bits {other % SPREAD_CODE}: "
                    "wait until it is done"
                )
        await self._client.command("HSET", self._keys.meta, "wanted", code)

    async def requested(self) -> int | None:
        """The bits that were asked for and are not in use yet.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        (code,) = await self._meta("wanted")
        return None if code is None else code % SPREAD_CODE

    async def progress(self) -> tuple[int, float] | None:
        """(bits, share of the buckets copied) of a rebuild that is requested or under way.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        code, copied = await self._meta("wanted", "at")
        if code is None:
            return None
        return code % SPREAD_CODE, (copied or 0) / self._layout.current.count

    async def run(
        self,
        bits: int,
        report: Report,
        *,
        copy_buckets: int = COPY_BUCKETS,
        drop_after: int,
    ) -> bool:
        """Rebuilds the index, as it was requested. Returns whether there was anything to do.

        ``drop_after``: seconds that the old buckets stay, longer than any lookup in them may take.

        Raises:
            Conflict: it is being rebuilt with another number.
            IndexUnavailable: Redis does not answer; run it again.
            Exception: what ``report`` raises.
        """
        new = await self._target(bits)
        await self._drop_old(report)
        oldest_format = SPREAD_FORMAT if new.spreads else OLDEST_READER
        state = await self._client.run(
            BEGIN, [self._keys.meta, self._keys.version], [new.code, oldest_format]
        )
        if not state:
            raise Conflict("the index is being rebuilt with other --bits")
        await self._layout.refresh()
        if state == 1:
            await self._copy_all(new, report, copy_buckets)
            await self._client.run(END, [self._keys.meta, self._keys.version], [new.code])
            await self._layout.refresh()
            for _ in range(drop_after):
                await asyncio.sleep(1)
                await report()
            await self._drop_old(report)
        await self._client.command("HDEL", self._keys.meta, "wanted")
        return bool(state == 1)

    async def _target(self, bits: int) -> Buckets:
        """The buckets to make: those requested, and without a request of the kind that there is."""
        (code,) = await self._meta("wanted")
        if code is None or code % SPREAD_CODE != bits:
            code = bits + SPREAD_CODE * self._layout.current.spreads
        return self._layout.of_stored(code)

    async def _meta(self, *names: str) -> list[int | None]:
        """Numbers in the index's meta; None for those that are not set."""
        reply = await self._client.command("HMGET", self._keys.meta, *names)
        return _optional_ints(reply, len(names))

    async def _copy_all(self, new: Buckets, report: Report, copy_buckets: int) -> None:
        old = self._layout.current
        # What a killed rebuild left in the new buckets may have been released since.
        await self._drop(new, report)
        for span in old.spans(copy_buckets):
            await self._copy(old, new, span)
            await self._client.command("HSET", self._keys.meta, "at", span.start)
            await report()

    async def _copy(self, old: Buckets, new: Buckets, span: range) -> None:
        """Gives the new buckets what these old ones have, until a read finds nothing new."""
        copied: dict[int, Any] = {}
        """The replies that were copied, by bucket."""
        todo = list(span)
        while todo:
            replies = await self._client.pipeline(("HGETALL", old.key(bucket)) for bucket in todo)
            commands: list[Command] = []
            changed = []
            for bucket, reply in zip(todo, replies, strict=True):
                before = copied.get(bucket, ())
                if reply == before or not (reply or before):
                    continue
                copied[bucket] = reply  # perhaps the same fields in another order
                if difference := _difference(old, new, bucket, pairs(before), pairs(reply)):
                    commands += difference
                    changed.append(bucket)
            for part in parts_of(commands, BATCH_CALLS):
                await self._client.pipeline(part)
            todo = changed

    async def _drop_old(self, report: Report) -> None:
        """Deletes the buckets that the last rebuild left behind."""
        (code,) = await self._meta("old")
        if code is None:
            return
        await self._drop(self._layout.of_stored(code), report)
        await self._client.command("HDEL", self._keys.meta, "old")

    async def _drop(self, buckets: Buckets, report: Report) -> None:
        for span in buckets.spans(BATCH_CALLS):
            await self._client.pipeline(("UNLINK", buckets.key(bucket)) for bucket in span)
            await report()


@parses_reply
def _optional_ints(reply: Any, count: int) -> list[int | None]:
    values = [optional_int(value) for value in reply]
    if len(values) != count:
        raise ValueError(f"{len(values)} values in place of {count}")
    return values


@parses_reply
def _difference(
    old: Buckets, new: Buckets, bucket: int, before: Fields, now: Fields
) -> list[Command]:
    """Commands that turn what was copied of an old bucket into what it has now."""
    place = _places(old, new, bucket)
    puts: dict[int, list[bytes]] = {}
    drops: dict[int, list[bytes]] = {}
    for field, value in now.items():
        if before.get(field) != value:
            number, new_field = place(field)
            if number in puts:
                puts[number] += (new_field, value)
            else:
                puts[number] = [new_field, value]
    for field in before.keys() - now.keys():
        number, new_field = place(field)
        drops.setdefault(number, []).append(new_field)
    return [
        *(("HSET", new.key(number), *entries) for number, entries in puts.items()),
        *(("HDEL", new.key(number), *fields) for number, fields in drops.items()),
    ]


def _places(old: Buckets, new: Buckets, bucket: int) -> Callable[[bytes], tuple[int, bytes]]:
    """Finds the new bucket and field of a field of this old bucket."""
    if old.spreads != new.spreads:
        return lambda field: new.locate(old.join(bucket, field))
    head, shift, cut = old.stored_head(bucket), new.shift, new.cut
    half = 0 if bucket < old.half else new.half

    def place(field: bytes) -> tuple[int, bytes]:
        stored = head + field
        return half | int.from_bytes(stored[:4], "big") >> shift, stored[cut:]

    return place
