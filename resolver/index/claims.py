"""Claims: which locations (by number) have which images."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from resolver.errors import IndexUnavailable
from resolver.index.codec import Buckets, decode_owners
from resolver.index.keys import Keys
from resolver.index.link import pairs
from resolver.index.scripts import load
from resolver.models import Owner

if TYPE_CHECKING:
    from resolver.index.link import Call, Link

CLAIM = load("claim", "owners")
RELEASE = load("release", "owners")
PURGE = load("purge", "owners")

SCRIPT_IDS = 256
"""Ids in one script call: keeps each under a millisecond of Redis's only thread."""

BATCH_CALLS = 256
"""Script calls or bucket reads in one pipeline: bounds memory on both sides."""

SAMPLE = 64
"""Buckets whose memory is asked for to estimate that of all."""


class Lookup(NamedTuple):
    """Owners of some ids, and the registry's version at that moment."""

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


class Claims:
    """The claims of one index. Ids are 16 bytes."""

    def __init__(self, link: Link, keys: Keys, buckets: Buckets) -> None:
        self._link = link
        self._version_key = keys.version
        self.buckets = buckets

    async def lookup(self, ids: Sequence[bytes]) -> Lookup:
        """Owners of each id, in the order of ``ids``, in one round trip.

        The registry's version comes along, so that the caller can tell whether the location table
        it holds still is the one that these numbers belong to.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        buckets = self.buckets
        commands: list[tuple[bytes | str, ...]] = [("GET", self._version_key)]
        commands += [("HGET", buckets.key(buckets.number(raw)), buckets.field(raw)) for raw in ids]
        version, *values = await self._link.pipeline(commands, quick=True)
        return Lookup(int(version or 0), [decode_owners(v) if v else () for v in values])

    async def claim(self, number: int, ids: Mapping[bytes, int] | Iterable[bytes]) -> int:
        """Location ``number`` has these images. A mapping gives each id's letter case.

        Returns how many claims are new.

        Raises:
            IndexUnavailable: when Redis does not answer; claims made so far stay.
        """
        cases = ids if isinstance(ids, Mapping) else dict.fromkeys(ids, 0)
        grouped: dict[int, list[bytes]] = {}
        field = self.buckets.field
        for raw, case in cases.items():
            entry = field(raw) + case.to_bytes(4, "big") if case else field(raw)
            grouped.setdefault(self.buckets.number(raw), []).append(entry)
        head = (number, self.buckets.width)
        return await self._run_grouped(
            (CLAIM, [self.buckets.key(bucket)], [*head, *entries[i : i + SCRIPT_IDS]])
            for bucket, entries in grouped.items()
            for i in range(0, len(entries), SCRIPT_IDS)
        )

    async def release(self, number: int, ids: Iterable[bytes]) -> int:
        """Location ``number`` no longer has these images. Returns how many claims went.

        Raises:
            IndexUnavailable: when Redis does not answer; releases made so far stay.
        """
        grouped: dict[int, list[bytes]] = {}
        for raw in ids:
            grouped.setdefault(self.buckets.number(raw), []).append(self.buckets.field(raw))
        return await self._run_grouped(
            (RELEASE, [self.buckets.key(bucket)], [number, *fields[i : i + SCRIPT_IDS]])
            for bucket, fields in grouped.items()
            for i in range(0, len(fields), SCRIPT_IDS)
        )

    async def purge(self, numbers: Sequence[int]) -> int:
        """Drops all claims of locations that were removed, bucket by bucket."""
        return await self._run_grouped(
            (PURGE, [self.buckets.key(bucket)], list(numbers))
            for bucket in range(self.buckets.count)
        )

    async def _run_grouped(self, calls: Iterable[Call]) -> int:
        total = 0
        calls = iter(calls)
        while batch := list(islice(calls, BATCH_CALLS)):
            total += sum(await self._link.run_all(batch))
        return total

    async def read(
        self, first: int = 0, last: int | None = None
    ) -> AsyncIterator[tuple[int, dict[bytes, bytes]]]:
        """(bucket, {field: owners' bytes}) of the non-empty buckets from ``first`` to ``last``."""
        stop = self.buckets.count if last is None else last + 1
        for start in range(first, stop, BATCH_CALLS):
            batch = range(start, min(start + BATCH_CALLS, stop))
            replies = await self._link.pipeline(
                ("HGETALL", self.buckets.key(bucket)) for bucket in batch
            )
            for bucket, reply in zip(batch, replies, strict=True):
                if reply:
                    yield bucket, pairs(reply)

    async def of_location(
        self, number: int, first: int = 0, last: int | None = None
    ) -> AsyncIterator[tuple[int, dict[bytes, int]]]:
        """(bucket, {id: letter case}) of one location's claims, bucket by bucket."""
        join = self.buckets.join
        async for bucket, fields in self.read(first, last):
            claims = {
                join(bucket, field): owner.case
                for field, value in fields.items()
                for owner in decode_owners(value)
                if owner.number == number
            }
            if claims:
                yield bucket, claims

    async def census(self) -> Census:
        """Counts everything, a bounded batch at a time.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        begun = time.monotonic()
        values: Counter[bytes] = Counter()
        used: list[int] = []
        fullest = 0
        async for bucket, fields in self.read():
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
            bytes=await self._memory(used),
        )

    async def _memory(self, used: list[int]) -> int | None:
        if not used:
            return 0
        sample = used[:: max(1, len(used) // SAMPLE)]
        try:
            sizes = await self._link.pipeline(
                ("MEMORY", "USAGE", self.buckets.key(bucket)) for bucket in sample
            )
        except IndexUnavailable:  # the embedded server does not know the command
            return None
        return sum(size or 0 for size in sizes) * len(used) // len(sample)
