"""Claims images that have no owner yet with a command each.

That costs half of what a script for one or two images of a bucket does, and four fifths of what one
for a hundred does. Where an image has an owner the command is wasted. So a sample of the images is
claimed first, and the others in the same way only where nearly all of the sample had no owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resolver.index.buckets import Buckets
from resolver.index.claim_batch import ClaimBatch
from resolver.index.redis.client import RedisClient
from resolver.turns import parts_of

FEW_IDS = 32
"""Up to so many images of a bucket are claimed in this way."""

SAMPLED_IDS = 32
"""About so many images are claimed first."""

MOSTLY_UNOWNED = 0.75
"""Share of the sample without an owner above which the others are claimed too. A script for half of
the images of a bucket costs nearly as much as one for all."""

BATCH_IDS = 1000
"""Ids in one pipeline. Redis runs a pipeline that has arrived whole without a pause, so
a lookup may have to wait for this many: some 2 ms."""


async def claim_unowned(
    client: RedisClient,
    buckets: Buckets,
    claims: ClaimBatch,
    by_bucket: dict[int, list[bytes]],
) -> int:
    """Claims images that have no owner yet, in buckets of which there are few, and removes these
    from ``by_bucket``. Returns how many. It may leave some to the script that have no owner.

    Raises:
        IndexUnavailable: Redis does not answer. Claims made so far stay.
    """
    few = [bucket for bucket, images in by_bucket.items() if len(images) <= FEW_IDS]
    left = [image_id for bucket in few for image_id in by_bucket[bucket]]
    step = max(1, len(left) // SAMPLED_IDS)
    sample = left[::step]
    del left[::step]
    sample_left = await _claim(client, buckets, claims, sample)
    added = len(sample) - len(sample_left)
    if added > MOSTLY_UNOWNED * len(sample):
        others = len(left)
        left = await _claim(client, buckets, claims, left)
        added += others - len(left)
    if added:
        for bucket in few:
            del by_bucket[bucket]
        by_bucket.update(buckets.group(sample_left + left))
    return added


async def _claim(
    client: RedisClient, buckets: Buckets, claims: ClaimBatch, ids: Sequence[bytes]
) -> list[bytes]:
    """Claims those of these images that have no owner. Returns the others."""
    left: list[bytes] = []
    for batch in parts_of(ids, BATCH_IDS):
        values = claims.sole_values(batch)
        commands: list[Any]
        if client.accepts_packed:
            commands = list(buckets.hsetnx_packer.pack_values(batch, values))
        else:
            commands = [
                ("HSETNX", buckets.key(bucket), field, value)
                for (bucket, field), value in zip(map(buckets.locate, batch), values, strict=True)
            ]
        replies = await client.pipeline(commands)
        left += [image_id for image_id, is_new in zip(batch, replies, strict=True) if not is_new]
    return left
