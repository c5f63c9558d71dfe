"""Claims: which locations (by number) have which images."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from resolver.errors import IndexLost, IndexUnavailable, SettingsError
from resolver.index.cache import ClaimCache, Kept
from resolver.index.codec import Buckets, decode_owners
from resolver.index.keys import Keys
from resolver.index.redis.client import pairs
from resolver.index.redis.redis_errors import DECODE_ERRORS, translate_decode_errors, unreadable
from resolver.index.scripts import Script, load
from resolver.models import Owner

if TYPE_CHECKING:
    from resolver.index.redis.client import Call, RedisClient

CLAIM = load("claim", "owners")
RELEASE = load("release", "owners")
PURGE = load("purge", "owners")

FORMAT = 1
"""Of keys and values; an index of another format is refused."""

DEFAULT_BITS = 16
"""65,536 buckets: compact up to some 25 million images."""

MEMORY_BITS = 8
"""The embedded index gains nothing from many buckets."""

SCRIPT_IDS = 256
"""Ids in one script call: keeps each under a millisecond of Redis's only thread."""

BATCH_CALLS = 256
"""Script calls or bucket reads in one pipeline: bounds memory on both sides."""

BATCH_IDS = 1000
"""Ids in one pipeline of scripts. Redis runs a pipeline that has arrived in one go, so this is
what a lookup may have to wait for: some 2 ms."""

PURGE_BUCKETS = 16
"""Buckets purged in one pipeline, likewise."""

SAMPLE = 64
"""Buckets whose memory is asked for to estimate that of all."""


class Lookup(NamedTuple):
    """Owners of some ids, and the registry's version at that moment."""

    identity: str
    """Of the index; versions of different ones have nothing to do with each other."""
    version: int
    owners: list[tuple[Owner, ...]]


@dataclass(frozen=True, slots=True)
class Census:
    """Figures of a walk through all buckets. It is no snapshot: changes during it may count."""

    at: float
    seconds: float
    images: int
    claims: Mapping[int, int]
    """Claims by location number; removed locations too until they are collected."""
    buckets: int
    """Buckets in use."""
    fullest: int
    bytes: int | None
    """Estimated Redis memory of all buckets; None where the server cannot tell."""


class BucketLayout:
    """Which index there is in Redis and how many buckets it has, as this process knows it.

    While the index is rebuilt with other buckets, what is written goes to both, and reads use the
    old ones until the new are whole.

    An index has an identity, made with it, which every lookup brings along. A Redis that has none
    has lost its data: what was read before is of no use beside what is read afterwards, since
    locations get their numbers anew.
    """

    def __init__(
        self, client: RedisClient, keys: Keys, bits: int | None, cache: ClaimCache
    ) -> None:
        """``bits`` None: as they are, or the default."""
        self._client = client
        self._keys = keys
        self._cache = cache
        self._wanted = bits
        self._made: dict[int, Buckets] = {}
        self.current = self.of(bits or (MEMORY_BITS if client.embedded else DEFAULT_BITS))
        self.next: Buckets | None = None
        self.identity = ""
        """Empty while the index has not been seen."""

    def of(self, bits: int) -> Buckets:
        if bits not in self._made:
            self._made[bits] = Buckets(self._keys.bucket_prefix(bits), bits)
        return self._made[bits]

    @translate_decode_errors()
    async def refresh(self) -> None:
        """Reads it anew.

        Raises:
            IndexLost: there is no index.
            IndexUnavailable: when Redis does not answer, or has an index that goes not with ours.
        """
        form, bits, following, identity = await self._client.command(
            "HMGET", self._keys.meta, "format", "bits", "next", "identity"
        )
        if form is None or bits is None or identity is None:
            raise IndexLost("Redis has lost the index", headers={"Retry-After": "2"})
        try:
            self._check(int(form), int(bits))
        except SettingsError as error:
            raise IndexUnavailable(error.detail, headers={"Retry-After": "30"}) from error
        buckets = self.of(int(bits))
        if self.identity != identity.decode() or self.current is not buckets:
            self._cache.clear()
        self.current, self.identity = buckets, identity.decode()
        self.next = self.of(int(following)) if following else None

    def _check(self, form: int, bits: int) -> None:
        if form != FORMAT:
            raise SettingsError(
                f"the index in Redis has format {form} and this version reads {FORMAT}: "
                "run the version that made it, or give another RESOLVER_PREFIX"
            )
        # Of one that we know it may have been changed since.
        if not self.identity and self._wanted not in (None, bits):
            raise SettingsError(
                f"the index in Redis was made with RESOLVER_INDEX_BITS={bits}, not "
                f"{self._wanted}: leave the setting out, or give another RESOLVER_PREFIX for a "
                "new index"
            )

    @translate_decode_errors()
    async def make(self) -> None:
        """Makes the index where there is none, and reads how it was made.

        Raises:
            SettingsError: it goes not with ours.
            IndexUnavailable: when Redis does not answer, or takes no writes.
        """
        meta = self._keys.meta
        ours = {
            "format": FORMAT,
            "bits": self.current.bits,
            "identity": secrets.token_hex(4),  # the last: with it the index is there
        }
        there = await self._client.command("HMGET", meta, *ours)
        if None in there:
            await self._client.pipeline(("HSETNX", meta, name, ours[name]) for name in ours)
            there = await self._client.command("HMGET", meta, *ours)
        self._check(int(there[0]), int(there[1]))
        await self.refresh()

    def to_write(self) -> list[Buckets]:
        return [self.current] if self.next is None else [self.current, self.next]


class LayoutView:
    """The buckets as they were when this view was made, also if the index is rebuilt meanwhile.

    It reads claims in the order of ids: buckets follow each other in UUID order.
    """

    def __init__(self, claims: Claims, buckets: Buckets) -> None:
        self._claims = claims
        self._buckets = buckets
        self.count = buckets.count
        """Buckets, empty ones included."""
        self.bucket = buckets.number
        """The bucket of an image id."""

    def of_location(
        self, number: int, first: int = 0, last: int | None = None
    ) -> AsyncIterator[tuple[int, dict[bytes, int]]]:
        """(bucket, {image id: letter case}) of a location's claims in the buckets from ``first``
        to ``last``, both included."""
        return self._claims.of_location(number, first, last, buckets=self._buckets)


class Claims:
    """The claims of one index. Ids are 16 bytes."""

    def __init__(
        self, client: RedisClient, keys: Keys, bits: int | None, cache: ClaimCache
    ) -> None:
        self._client = client
        self._keys = keys
        self._meta = keys.meta.encode()
        self.layout = BucketLayout(client, keys, bits, cache)
        self.cache = cache
        client.on_invalidation(self._changed)

    def _changed(self, keys: Sequence[bytes] | None) -> None:
        if keys is None or self._meta in keys:
            self.cache.doubt()
            return
        for key in keys:
            if (bucket := self.buckets.bucket_of(key)) is not None:
                self.cache.drop(bucket >> self.buckets.coarse)

    def cached(self, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners, and the seconds for which they have been known, where this process
        has read them lately and would have been told of a change."""
        if not self._client.tracking_current():
            return None
        return self.cache.get(self.buckets.cache_bucket(image_id), image_id)

    def cached_stale(self, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """The owners that this process knew last, and how many seconds ago it read them."""
        return self.cache.stale(self.buckets.cache_bucket(image_id), image_id)

    @property
    def buckets(self) -> Buckets:
        """The buckets that are read."""
        return self.layout.current

    def layout_view(self) -> LayoutView:
        """The buckets of now, for a walk along a listing."""
        return LayoutView(self, self.buckets)

    async def lookup(self, ids: Sequence[bytes], *, cache: bool = False) -> Lookup:
        """Owners of each id, in the order of ``ids``, in one round trip. ``cache``: keep
        them for `cached`.

        The registry's version comes along, so that the caller can tell whether the location table
        it holds still is the one that these numbers belong to; and which index this is and how many
        buckets it has, so that a lookup in those of yesterday is done again.

        Raises:
            IndexLost: there is no index.
            IndexUnavailable: when Redis does not answer.
        """
        while True:
            buckets = self.layout.current
            commands: list[Any] = [
                ("GET", self._keys.version),
                ("HMGET", self._keys.meta, "bits", "identity"),
            ]
            commands += self._questions(buckets, ids)
            places = self._opened(buckets, ids) if cache and self.cache.size else []
            identity = self.layout.identity
            version, made, *values = await self._client.pipeline(commands, foreground=True)
            if identity and made == [b"%d" % buckets.bits, identity.encode()]:
                try:
                    owners = [decode_owners(v) if v else () for v in values]
                    number = int(version or 0)
                except DECODE_ERRORS as error:
                    raise unreadable(error) from error
                if places and self._client.tracking_current():
                    for (bucket, kept), image_id, value in zip(places, ids, values, strict=True):
                        if value:
                            self.cache.put(bucket, kept, image_id, value)
                        else:
                            self.cache.none(bucket, image_id)
                return Lookup(identity, number, owners)
            await self.layout.refresh()

    def _opened(self, buckets: Buckets, ids: Sequence[bytes]) -> list[tuple[int, Kept]]:
        """For each id its shelf in the cache, and what of it a read that begins now may fill."""
        numbers = [buckets.cache_bucket(image_id) for image_id in ids]
        return [(number, self.cache.open(number)) for number in numbers]

    def _questions(self, buckets: Buckets, ids: Sequence[bytes]) -> list[Any]:
        """A command for each id, packed where the link takes it so: that is the hottest loop."""
        shift, cut = buckets.shift, buckets.cut
        if not self._client.takes_packed:
            key = buckets.key
            return [
                ("HGET", key(int.from_bytes(image_id[:4], "big") >> shift), image_id[cut:])
                for image_id in ids
            ]
        made, make = buckets.questions, buckets.question
        return [
            (made.get(bucket := int.from_bytes(image_id[:4], "big") >> shift) or make(bucket))
            + image_id[cut:]
            + b"\r\n"
            for image_id in ids
        ]

    async def claim(self, number: int, ids: Mapping[bytes, int] | Iterable[bytes]) -> int:
        """Location ``number`` has these images. A mapping gives each id's letter case.

        Returns how many claims are new.

        Raises:
            IndexUnavailable: when Redis does not answer; claims made so far stay.
        """
        letter_cases = ids if isinstance(ids, Mapping) else dict.fromkeys(ids, 0)

        def calls(buckets: Buckets) -> Iterator[Call]:
            entries: dict[int, list[bytes]] = {}
            shift, cut = buckets.shift, buckets.cut  # `number` and `field`, without a call an id
            for image_id, letter_case in letter_cases.items():
                entry = (
                    image_id[cut:] + letter_case.to_bytes(4, "big")
                    if letter_case
                    else image_id[cut:]
                )
                bucket = int.from_bytes(image_id[:4], "big") >> shift
                if bucket in entries:
                    entries[bucket].append(entry)
                else:
                    entries[bucket] = [entry]
            return _calls(CLAIM, buckets, (number, buckets.width), entries)

        return await self._write(calls) if letter_cases else 0

    async def release(self, number: int, ids: Iterable[bytes]) -> int:
        """Location ``number`` no longer has these images. Returns how many claims went.

        Raises:
            IndexUnavailable: when Redis does not answer; releases made so far stay.
        """
        gone = list(ids)

        def calls(buckets: Buckets) -> Iterator[Call]:
            fields: dict[int, list[bytes]] = {}
            for image_id in gone:
                fields.setdefault(buckets.number(image_id), []).append(buckets.field(image_id))
            return _calls(RELEASE, buckets, (number,), fields)

        released = await self._write(calls) if gone else 0
        for image_id in gone:  # what this process did, Redis need not tell it first
            self.cache.drop(self.buckets.cache_bucket(image_id))
        return released

    @translate_decode_errors()
    async def purge(self, numbers: Sequence[int], *, pace: float = 0.0) -> int:
        """Drops all claims of locations that were removed, bucket by bucket.

        After each few buckets it rests ``pace`` times as long as they took, so that lookups
        meanwhile are as quick as ever. Returns how many claims went.
        """
        total = 0
        for buckets in self.layout.to_write():
            for span in buckets.spans(PURGE_BUCKETS):
                begun = time.monotonic()
                total += sum(
                    await self._client.run_all(
                        [(PURGE, [buckets.key(bucket)], list(numbers)) for bucket in span]
                    )
                )
                await asyncio.sleep(pace * (time.monotonic() - begun))
        return total

    async def _write(self, calls: Callable[[Buckets], Iterable[Call]]) -> int:
        """Runs what ``calls`` makes for the buckets there are; the sum of the first results.

        The layout is read after the writes: had a rebuild begun before they were done, which does
        not copy them then, they are made in its buckets too.
        """
        total: int | None = None
        done: set[int] = set()
        # What follows bears a location's number, which in another index may be another's.
        identity = self.layout.identity
        await self.layout.refresh()
        identity = identity or self.layout.identity
        while True:
            if self.layout.identity != identity:
                raise IndexLost("Redis has lost the index that this was meant for")
            for buckets in self.layout.to_write():
                if buckets.bits not in done:
                    count = await self._run(calls(buckets))
                    total = count if total is None else total
                    done.add(buckets.bits)
            await self.layout.refresh()
            if all(buckets.bits in done for buckets in self.layout.to_write()):
                return total or 0

    @translate_decode_errors()
    async def _run(self, calls: Iterable[Call]) -> int:
        total = 0
        batch: list[Call] = []
        size = 0
        for call in calls:
            batch.append(call)
            size += len(call[2])
            if size >= BATCH_IDS or len(batch) >= BATCH_CALLS:
                total += sum(await self._client.run_all(batch))
                batch, size = [], 0
        if batch:
            total += sum(await self._client.run_all(batch))
        return total

    async def read(
        self, first: int = 0, last: int | None = None, *, buckets: Buckets | None = None
    ) -> AsyncIterator[tuple[int, dict[bytes, bytes]]]:
        """(bucket, {field: owners' bytes}) of the non-empty buckets from ``first`` to ``last``."""
        buckets = buckets or self.buckets
        for batch in buckets.spans(BATCH_CALLS, first, None if last is None else last + 1):
            replies = await self._client.pipeline(
                ("HGETALL", buckets.key(bucket)) for bucket in batch
            )
            for bucket, reply in zip(batch, replies, strict=True):
                if reply:
                    yield bucket, pairs(reply)

    async def of_location(
        self,
        number: int,
        first: int = 0,
        last: int | None = None,
        *,
        buckets: Buckets | None = None,
    ) -> AsyncIterator[tuple[int, dict[bytes, int]]]:
        """(bucket, {id: letter case}) of one location's claims, bucket by bucket."""
        buckets = buckets or self.buckets
        join = buckets.join
        async for bucket, fields in self.read(first, last, buckets=buckets):
            claims = {
                join(bucket, field): owner.letter_case
                for field, value in fields.items()
                for owner in decode_owners(value)
                if owner.number == number
            }
            if claims:
                yield bucket, claims

    @translate_decode_errors()
    async def census(self) -> Census:
        """Counts everything, a bounded batch at a time.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        begun = time.monotonic()
        buckets = self.buckets
        values: Counter[bytes] = Counter()
        used: list[int] = []
        fullest = 0
        async for bucket, fields in self.read(buckets=buckets):
            values.update(fields.values())
            used.append(bucket)
            fullest = max(fullest, len(fields))
        claims: Counter[int] = Counter()
        for value, images in values.items():
            for owner in decode_owners(value):
                claims[owner.number] += images
        return Census(
            at=time.time(),
            seconds=time.monotonic() - begun,
            images=values.total(),
            claims=dict(claims),
            buckets=len(used),
            fullest=fullest,
            bytes=await self._memory(buckets, used),
        )

    async def _memory(self, buckets: Buckets, used: list[int]) -> int | None:
        if not used:
            return 0
        sample = used[:: max(1, len(used) // SAMPLE)]
        try:
            sizes = await self._client.pipeline(
                ("MEMORY", "USAGE", buckets.key(bucket)) for bucket in sample
            )
        except IndexUnavailable:  # the embedded server does not know the command
            return None
        return sum(size or 0 for size in sizes) * len(used) // len(sample)


def _calls(
    script: Script, buckets: Buckets, head: tuple[int, ...], entries: Mapping[int, list[bytes]]
) -> Iterator[Call]:
    """The script once a bucket, more often only where a bucket has very many entries."""
    for bucket, some in entries.items():
        for i in range(0, len(some), SCRIPT_IDS):
            yield script, [buckets.key(bucket)], [*head, *some[i : i + SCRIPT_IDS]]
