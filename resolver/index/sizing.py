"""The number of buckets follows the number of images.

A bucket is compact up to 512 images, and shares its own 80 bytes among them. So the index begins
with few buckets and grows, by a rebuild while it is in use, when they hold more than 280 images
on average. Afterwards they hold 125 to 250. It never shrinks by itself.
"""

from __future__ import annotations

import random

import structlog

from resolver.errors import Conflict
from resolver.index.bucket_layout import BucketLayout
from resolver.index.rebuild import Rebuild
from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import total
from resolver.models import MAX_BITS

MAX_MEAN_IMAGES = 280
"""Images a bucket above which the index grows. More would take little less memory, and Redis
searches a bucket from its beginning. There is room for what is claimed until it has grown."""

NEW_MEAN_IMAGES = 250
"""Images a bucket at most after it has grown."""

SAMPLED_BUCKETS = 64
"""Buckets of each half whose images are counted, to estimate those of all."""

log = structlog.get_logger("index")


def wanted_bits(images: int, bits: int) -> int:
    """The bits that an index of ``1 << bits`` buckets should have for so many images. Those of both
    halves count together: usually one half has nearly all."""
    if images <= MAX_MEAN_IMAGES << bits:
        return bits
    while images > NEW_MEAN_IMAGES << bits and bits < MAX_BITS:
        bits += 1
    return bits


class Sizing:
    """Has the index grow."""

    def __init__(self, client: RedisClient, layout: BucketLayout, rebuild: Rebuild) -> None:
        self._client = client
        self._layout = layout
        self._rebuild = rebuild

    @property
    def may_grow(self) -> bool:
        """False where an operator chose the number of buckets, where the index is in this process,
        or while it is being rebuilt."""
        layout = self._layout
        return not (layout.has_configured_bits or self._client.embedded) and layout.next is None

    async def grow_if_needed(self, expected_images: int = 0, expected_growth: float = 1.0) -> bool:
        """Requests a rebuild with more buckets where there are too few. Returns whether it did.

        ``expected_images``: what is known of the number of images besides; sweeps know how many
        there will be before they have claimed them. ``expected_growth``: how many times as many as
        now there will soon be, so that an index that must grow has enough then. Nothing happens
        unless it `may_grow`.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        layout = self._layout
        if not self.may_grow or await self._rebuild.requested() is not None:
            return False
        bits = layout.current.bits
        counted = await self._count_images()
        images = max(expected_images, counted)
        if wanted_bits(images, bits) == bits or layout.current.bits != bits:
            return False
        wanted = wanted_bits(max(images, round(counted * expected_growth)), bits)
        try:
            await self._rebuild.request(wanted, keep_format=True)
        except Conflict:  # another process has requested one
            return False
        log.info("index grows", images=images, bits=bits, wanted=wanted)
        return True

    async def _count_images(self) -> int:
        """About how many images the index has."""
        buckets = self._layout.current
        sample = random.sample(range(buckets.half), min(SAMPLED_BUCKETS, buckets.half))
        halves = range(0, buckets.count, buckets.half)
        sizes = await self._client.pipeline(
            ("HLEN", buckets.key(half + bucket)) for half in halves for bucket in sample
        )
        return total(sizes) * buckets.half // len(sample)
