"""Figures about the whole index: how many images and claims, how full the buckets are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from resolver.errors import IndexUnavailable
from resolver.image_facts import differ
from resolver.index.buckets import Buckets
from resolver.index.claims import Claims
from resolver.index.codec import UNREADABLE, lookup_owners, summarize
from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import total

SAMPLED_BUCKETS = 64
"""Buckets whose memory is measured, to estimate that of all."""


@dataclass(frozen=True, slots=True)
class Census:
    """Figures of one walk through all buckets: not a snapshot, as changes meanwhile may count."""

    at: float
    """Unix time of its end."""
    seconds: float
    images: int
    claims: Mapping[int, int]
    """Claims by location number; those of removed locations too, until they are purged."""
    conflicts: int
    """Images that are known to have different bytes at some of their owners."""
    buckets: int
    """Buckets in use."""
    fullest: int
    """Images in the largest bucket."""
    bytes: int | None
    """Estimated Redis memory of all buckets; None where the server does not measure it."""


async def take_census(client: RedisClient, claims: Claims) -> Census:
    """Counts everything, a bounded batch at a time.

    Raises:
        IndexUnavailable: Redis does not answer.
    """
    while (census := await _take_census(client, claims, claims.buckets)) is None:
        pass
    return census


async def _take_census(client: RedisClient, claims: Claims, buckets: Buckets) -> Census | None:
    """None where the index got other buckets meanwhile."""
    begun = time.monotonic()
    values: Counter[bytes] = Counter()
    used: list[int] = []
    fullest = 0
    async for bucket, of_bucket in claims.read_values(buckets):
        values.update(map(summarize, of_bucket))  # there are few summaries, however many images
        used.append(bucket)
        fullest = max(fullest, len(of_bucket))
    if claims.buckets is not buckets:
        return None
    return Census(
        at=time.time(),
        seconds=time.monotonic() - begun,
        images=values.total(),
        claims=_claims_by_number(values),
        conflicts=sum(images for value, images in values.items() if _is_conflict(value)),
        buckets=len(used),
        fullest=fullest,
        bytes=await _estimate_memory(client, buckets, used),
    )


def _claims_by_number(values: Mapping[bytes, int]) -> dict[int, int]:
    """Claims by location number, from how many images have which value."""
    claims: Counter[int] = Counter()
    for value, images in values.items():
        for owner in lookup_owners(value):
            claims[owner.number] += images
    claims.pop(UNREADABLE[0].number, None)
    return dict(claims)


def _is_conflict(value: bytes) -> bool:
    return differ(owner.content for owner in lookup_owners(value))


async def _estimate_memory(client: RedisClient, buckets: Buckets, used: list[int]) -> int | None:
    if not used:
        return 0
    sample = used[:: max(1, len(used) // SAMPLED_BUCKETS)]
    try:
        sizes = await client.pipeline(("MEMORY", "USAGE", buckets.key(bucket)) for bucket in sample)
    except IndexUnavailable:  # the embedded server does not have the command
        return None
    return total(size or 0 for size in sizes) * len(used) // len(sample)
