"""Claims: which locations, by number, have which images. Image ids are 16 bytes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import lru_cache
from typing import Any, NamedTuple

from resolver.errors import IndexLost
from resolver.image_facts import NOTHING_KNOWN, Content, HashKind, ImageFacts
from resolver.index.audit import operation_id
from resolver.index.bucket_layout import BucketLayout
from resolver.index.buckets import Buckets
from resolver.index.cache import CacheBucket, ClaimCache
from resolver.index.claim_batch import ClaimBatch
from resolver.index.codec import (
    UNREADABLE_VALUE,
    OwnersList,
    decode_owners,
    stored_content,
    summarize,
)
from resolver.index.count import Count
from resolver.index.index_format import READ_WITH_CLAIMS, UPPERCASE
from resolver.index.keys import Keys
from resolver.index.redis.client import RedisClient, ScriptCall
from resolver.index.redis.redis_errors import DECODE_ERRORS, unreadable
from resolver.index.redis.replies import pairs, total
from resolver.index.redis.scripts import Script, load
from resolver.index.unowned_images import BATCH_IDS, claim_unowned
from resolver.models import Owner
from resolver.turns import in_turns, parts_of

CLAIM = load("claim_shared_images", "claim_images", "once", "owners")
RELEASE = load("release_images", "once", "owners")
PURGE = load("purge_bucket", "owners")

VALUES_PER_STEP = 16
"""Different owners that are read before others may have a turn: one takes up to 0.2 ms."""

SCRIPT_IDS = 256
"""Ids in one script call: each then takes less than a millisecond of Redis's only thread."""

BATCH_CALLS = 256
"""Script calls or bucket reads in one pipeline: bounds the memory on both sides."""

REFRESH_BUCKETS = 64 * BATCH_CALLS
"""Buckets that are read before the layout of the index is read again."""

PURGE_BUCKETS = 16
"""Buckets purged in one pipeline, for the same reason."""


class StoredClaim(NamedTuple):
    """A location's claim on an image, as the index has it."""

    letter_case: int
    facts: ImageFacts = NOTHING_KNOWN
    others: tuple[Owner, ...] = ()
    """The image's other owners. Only where there are some, the index keeps what its bytes are."""

    def conflicts_with(self, content: Content | None) -> bool:
        """Whether another owner is known to have other bytes than ``content``."""
        if content is None or not self.others:
            return False
        here = stored_content(content)
        return any(other.content and here.same_as(other.content) is False for other in self.others)

    def is_changed_by(self, letter_case: int, facts: ImageFacts) -> bool:
        """Whether a claim with this spelling and these facts would change what is stored. What
        `claim_images.lua` makes of it decides; this saves the writes that change nothing."""
        if letter_case != self.letter_case:
            return True
        status, content = facts
        if status is not None and status is not self.facts.status:
            return True
        if content is None or not self.others:
            return False
        known = self.facts.content
        if known is None or status is None:
            return known is None
        if content.kind is HashKind.CHECKSUM and known.kind is HashKind.OS_HASH:
            return False
        return stored_content(content) != known


ClaimsByBucket = AsyncIterator[tuple[int, dict[bytes, StoredClaim]]]
"""(bucket, {image id: claim}) for each bucket with claims of one location, in order."""


class Lookup(NamedTuple):
    """Owners of some ids, and the version of the registry at that moment."""

    identity: str
    """Of the index; versions of different indexes cannot be compared."""
    version: int
    owners: Sequence[tuple[Owner, ...]]


class Claims:
    """The claims of one index."""

    def __init__(
        self, client: RedisClient, keys: Keys, layout: BucketLayout, cache: ClaimCache
    ) -> None:
        self._client = client
        self._keys = keys
        self._meta = keys.meta.encode()
        self.layout = layout
        self.cache = cache
        client.on_invalidation(self._invalidated)

    @property
    def buckets(self) -> Buckets:
        """The buckets to read."""
        return self.layout.current

    def _invalidated(self, keys: Sequence[bytes] | None) -> None:
        if keys is None or self._meta in keys:
            self.cache.mark_suspect()
            return
        for key in keys:
            if (bucket := self.buckets.cache_bucket_of_key(key)) is not None:
                self.cache.drop(bucket)

    def cached(self, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """An image's owners (perhaps none) and their age in seconds, where this process has cached
        them and Redis would have reported a change."""
        if not self._client.tracking_current():
            return None
        bucket = self.layout.current.cache_bucket(image_id)
        return self.cache.get(bucket, image_id)

    def cached_stale(self, image_id: bytes) -> tuple[tuple[Owner, ...], float] | None:
        """The owners that this process read last, and how many seconds ago. For use while Redis
        does not answer."""
        return self.cache.get_stale(self.buckets.cache_bucket(image_id), image_id)

    async def lookup(
        self, ids: Sequence[bytes], *, cache: bool = False, foreground: bool = True
    ) -> Lookup:
        """Owners of each id, in the order of ``ids``, in one round trip. With ``cache`` they are
        cached for `cached`. ``foreground``: on the connection of requests.

        The version of the registry comes along, so that the caller can check that its location
        table belongs to these numbers. So do the format of the index, its number of buckets and its
        identity: a lookup in buckets that are no longer used is repeated.

        Raises:
            IndexLost: there is no index.
            IndexUnavailable: Redis does not answer, or has an index of another format.
        """
        while True:
            buckets = self.layout.current
            commands: list[Any] = [
                ("GET", self._keys.version),
                ("HMGET", self._keys.meta, *READ_WITH_CLAIMS, UPPERCASE),
            ]
            commands += self._hget_commands(buckets, ids)
            to_fill = self._open_cache_buckets(buckets, ids) if cache and self.cache.size else None
            identity, stored = self.layout.identity, self.layout.stored
            version, (*meta, uppercase), *values = await self._client.pipeline(
                commands, foreground=foreground, of_wrong_type=UNREADABLE_VALUE
            )
            if meta == stored:
                summary_of: dict[bytes | None, bytes] = {}
                try:
                    # Most images have the same owners, so each value is read once.
                    async for part in in_turns(parts_of([*set(values)], VALUES_PER_STEP)):
                        for value in part:
                            summary_of[value] = summarize(value or b"")
                    number = int(version or 0)
                except DECODE_ERRORS as error:
                    raise unreadable(error) from error
                self.layout.has_uppercase_ids = uppercase is not None
                summaries = [summary_of[value] for value in values]
                if to_fill is not None:
                    self._fill_cache(*to_fill, ids, summaries)
                return Lookup(identity, number, OwnersList(summaries))
            await self.layout.refresh()

    def _open_cache_buckets(
        self, buckets: Buckets, ids: Sequence[bytes]
    ) -> tuple[list[int], list[CacheBucket]]:
        """For each id its bucket in the cache, by number and as the object to fill."""
        numbers = [buckets.cache_bucket(image_id) for image_id in ids]
        if self._client.tracking_error():  # only stale values are put, which need none
            return numbers, [{} for _ in numbers]
        return numbers, self.cache.open(numbers)

    def _fill_cache(
        self,
        numbers: Sequence[int],
        opened: Sequence[CacheBucket],
        ids: Sequence[bytes],
        values: Sequence[bytes],
    ) -> None:
        if self._client.tracking_error():
            for number, image_id, value in zip(numbers, ids, values, strict=True):
                self.cache.put_stale(number, image_id, value)
        elif self._client.tracking_current():
            self.cache.put(numbers, opened, ids, values)

    def _hget_commands(self, buckets: Buckets, ids: Sequence[bytes]) -> list[Any]:
        if self._client.accepts_packed:
            return buckets.hget_packer.pack(ids)
        key = buckets.key
        return [("HGET", key(bucket), field) for bucket, field in map(buckets.locate, ids)]

    async def claim(
        self,
        number: int,
        ids: Mapping[bytes, int] | Iterable[bytes],
        facts: Mapping[bytes, ImageFacts] | None = None,
        *,
        exactly: bool = False,
    ) -> Count:
        """Location ``number`` has these images. A mapping gives each id's letter case. ``facts``:
        what is known of them there. What is not known leaves what is stored as it is.

        Returns how many claims are new. ``exactly``: also where a reply is lost and a batch is sent
        again; this costs a key in Redis for each bucket, for a minute.

        Raises:
            IndexUnavailable: Redis does not answer. Claims made so far stay.
        """
        letter_cases = ids if isinstance(ids, Mapping) else dict.fromkeys(ids, 0)
        claims = ClaimBatch(number, letter_cases, facts or {})

        async def write(buckets: Buckets) -> int:
            by_bucket = buckets.group(letter_cases)
            added = 0
            if not exactly:
                added = await claim_unowned(self._client, buckets, claims, by_bucket)
            entries = {
                bucket: claims.arguments(buckets, images) for bucket, images in by_bucket.items()
            }
            calls = self._script_calls(CLAIM, buckets, number, entries, 2, exactly=exactly)
            return added + await self._run(calls)

        if any(letter_cases.values()):
            await self.layout.record_uppercase_ids()
        claimed = await self._write(write, exactly=exactly) if letter_cases else Count(0)
        self.cache.drop_absent(letter_cases)  # no need to wait until Redis reports our own change
        return claimed

    async def release(self, number: int, ids: Iterable[bytes], *, exactly: bool = False) -> Count:
        """Location ``number`` no longer has these images. Returns how many claims were dropped;
        ``exactly`` as with `claim`.

        Raises:
            IndexUnavailable: Redis does not answer. Releases made so far stay.
        """
        image_ids = list(ids)

        async def write(buckets: Buckets) -> int:
            fields: dict[int, list[bytes]] = {}
            for image_id in image_ids:
                bucket, field = buckets.locate(image_id)
                fields.setdefault(bucket, []).append(field)
            calls = self._script_calls(RELEASE, buckets, number, fields, 1, exactly=exactly)
            return await self._run(calls)

        released = await self._write(write, exactly=exactly) if image_ids else Count(0)
        for image_id in image_ids:  # no need to wait until Redis reports our own change
            self.cache.drop(self.buckets.cache_bucket(image_id))
        return released

    async def purge(self, numbers: Sequence[int], *, pace: float = 0.0) -> int:
        """Drops all claims of removed locations, bucket by bucket. Returns how many. A rebuild that
        began meanwhile may have copied some, so its buckets follow.

        After each batch of buckets it pauses for ``pace`` times as long as the batch took, so that
        lookups stay fast meanwhile.

        Raises:
            IndexUnavailable: Redis does not answer. What was dropped stays dropped.
        """
        purged = 0
        done: set[int] = set()
        await self.layout.refresh()
        while todo := [b for b in self.layout.to_write() if b.code not in done]:
            for buckets in todo:
                for span in buckets.spans(PURGE_BUCKETS):
                    begun = time.monotonic()
                    calls = [(PURGE, [buckets.key(bucket)], list(numbers)) for bucket in span]
                    purged += total(await self._client.run_all(calls))
                    await asyncio.sleep(pace * (time.monotonic() - begun))
                done.add(buckets.code)
            await self.layout.refresh()
        return purged

    def _script_calls(
        self,
        script: Script,
        buckets: Buckets,
        number: int,
        entries: Mapping[int, list[bytes]],
        width: int,
        *,
        exactly: bool,
    ) -> Iterator[ScriptCall]:
        """One call for each bucket, and more only for a bucket with very many images. ``entries``
        has ``width`` arguments for each image."""
        for bucket, images in entries.items():
            key = buckets.key(bucket)
            for i in range(0, len(images), width * SCRIPT_IDS):
                keys = [key, self._keys.claim_result(key, operation_id())] if exactly else [key]
                yield script, keys, [number, *images[i : i + width * SCRIPT_IDS]]

    async def _write(self, write: Callable[[Buckets], Awaitable[int]], *, exactly: bool) -> Count:
        """Has ``write`` write to all buckets to write, each time returning how many claims changed.
        Returns that of the first. ``exactly``: the number is right also where replies are lost.

        The layout is read again after the writes. If a rebuild began meanwhile, it may have copied
        a bucket before our write, so the writes are made in its buckets too.
        """
        result: Count | None = None
        written: set[int] = set()
        # The scripts contain a location's number, which in another index may be another location.
        identity = self.layout.identity
        await self._refresh(identity)
        identity = identity or self.layout.identity
        while True:
            for buckets in self.layout.to_write():
                if buckets.code not in written:
                    resends = self._client.resends
                    changes = await write(buckets)
                    if result is None:
                        is_exact = exactly or resends == self._client.resends
                        result = Count(changes, is_exact=is_exact)
                    written.add(buckets.code)
            await self._refresh(identity)
            if all(buckets.code in written for buckets in self.layout.to_write()):
                return Count(0) if result is None else result

    async def _refresh(self, identity: str) -> None:
        """Reads the layout again. Raises IndexLost where the index no longer has this identity;
        empty: it may have any."""
        await self.layout.refresh()
        if identity and self.layout.identity != identity:
            raise IndexLost("Redis has lost the index that this was meant for")

    async def _run(self, calls: Iterable[ScriptCall]) -> int:
        """Runs scripts in bounded batches. Returns the sum of their results."""
        result = 0
        batch: list[ScriptCall] = []
        size = 0
        for call in calls:
            batch.append(call)
            size += len(call[2]) // (2 if call[0] is CLAIM else 1)
            if size >= BATCH_IDS or len(batch) >= BATCH_CALLS:
                result += total(await self._client.run_all(batch))
                batch, size = [], 0
        if batch:
            result += total(await self._client.run_all(batch))
        return result

    async def read(
        self, numbers: Iterable[int] | None = None, *, buckets: Buckets | None = None
    ) -> AsyncIterator[tuple[int, dict[bytes, bytes]]]:
        """(bucket, {field: owners' bytes}) of the buckets with these numbers that are not empty, in
        their order; by default of all.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        async for bucket, reply in self._read("HGETALL", numbers, buckets):
            yield bucket, pairs(reply)

    async def read_values(self, buckets: Buckets) -> AsyncIterator[tuple[int, list[bytes]]]:
        """(bucket, owners' bytes of each image) of the buckets that are not empty. It ends early
        when the index gets other buckets meanwhile.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        for numbers in buckets.spans(REFRESH_BUCKETS):
            async for bucket, reply in self._read("HVALS", numbers, buckets):
                yield bucket, reply
            # Some may have been read while they were dropped. And who writes a wrong number of them
            # into Redis could keep this going for an hour.
            await self.layout.refresh()
            if self.buckets is not buckets:
                return

    async def _read(
        self, command: str, numbers: Iterable[int] | None, buckets: Buckets | None
    ) -> AsyncIterator[tuple[int, Any]]:
        buckets = buckets or self.buckets
        remaining = iter(range(buckets.count) if numbers is None else numbers)
        while batch := list(itertools.islice(remaining, BATCH_CALLS)):
            replies = await self._client.pipeline(
                (command, buckets.key(bucket)) for bucket in batch
            )
            for bucket, reply in zip(batch, replies, strict=True):
                if reply:
                    yield bucket, reply

    async def of_location(
        self, number: int, numbers: Iterable[int] | None = None, *, buckets: Buckets | None = None
    ) -> ClaimsByBucket:
        """One location's claims in the buckets with these numbers; by default in all.

        Raises:
            IndexUnavailable: Redis does not answer, or a bucket has other contents than claims.
        """
        buckets = buckets or self.buckets
        async for bucket, fields in self.read(numbers, buckets=buckets):
            if claims := _claims_of(number, buckets, bucket, fields):
                yield bucket, claims

    async def stored(
        self, number: int, ids: Sequence[bytes], *, buckets: Buckets | None = None
    ) -> dict[bytes, StoredClaim]:
        """Those of these images that a location claims.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        buckets = buckets or self.buckets
        found: dict[bytes, StoredClaim] = {}
        for batch in parts_of(ids, BATCH_IDS):
            values = await self._client.pipeline(self._hget_commands(buckets, batch))
            claims = _claims_by_value(number, values)
            found |= {
                image_id: claim
                for image_id, value in zip(batch, values, strict=True)
                if (claim := claims[value])
            }
        return found


def _claims_of(
    number: int, buckets: Buckets, bucket: int, fields: Mapping[bytes, bytes]
) -> dict[bytes, StoredClaim]:
    """A location's claims in one bucket, by image id."""
    join = buckets.join
    claims = _claims_by_value(number, fields.values())
    return {
        join(bucket, field): claim for field, value in fields.items() if (claim := claims[value])
    }


def _claims_by_value(
    number: int, values: Iterable[bytes | None]
) -> dict[bytes | None, StoredClaim | None]:
    """A location's claim in each of these values. Most images have the same owners, so each value
    is read once."""
    return {value: _claim_of(number, value) for value in set(values)}


def _claim_of(number: int, value: bytes | None) -> StoredClaim | None:
    """A location's claim in the value of a field; none where there is no value, or it cannot be
    read."""
    if not value:
        return None
    try:
        owners = decode_owners(value)
    except ValueError:
        return None
    for owner in owners:
        if owner.number == number:
            others = tuple(other for other in owners if other.number != number)
            return _stored_claim(owner, others)
    return None


@lru_cache(maxsize=1024)
def _stored_claim(owner: Owner, others: tuple[Owner, ...]) -> StoredClaim:
    return StoredClaim(owner.letter_case, ImageFacts(owner.status, owner.content), others)
