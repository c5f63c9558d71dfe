"""What a full cache may cost: nothing that the garbage collector follows, and no search."""

from __future__ import annotations

import gc

from resolver.index import ClaimCache
from resolver.index.codec import Buckets
from tests.support.ids import make_ids


def test_what_is_kept_is_nothing_to_the_garbage_collector() -> None:
    cache = ClaimCache(10_000, 60)
    for image_id in make_ids(5000):
        cache_bucket = image_id[0]
        cache.put(cache_bucket, cache.open(cache_bucket), image_id, bytes(bytearray(b"\x02\x04")))
    assert cache.count == 5000 + 256
    gc.collect()
    kept = cache._buckets
    assert not any(gc.is_tracked(cache_bucket) for cache_bucket in kept.values())
    values = {id(value) for cache_bucket in kept.values() for value in cache_bucket.values()}
    assert len(values) == 1  # one copy of the owners' bytes for all


def test_the_oldest_goes_first_however_many_went_before() -> None:
    cache = ClaimCache(100, 60)
    for cache_bucket in range(1000):
        image_id = cache_bucket.to_bytes(16, "big")
        cache.put(cache_bucket, cache.open(cache_bucket), image_id, b"\x02")
    assert list(cache._buckets) == list(range(950, 1000))


def test_opening_alone_is_bounded() -> None:
    cache = ClaimCache(100, 60)
    for cache_bucket in range(1000):
        cache.open(cache_bucket)
    assert (cache.count, len(cache._buckets)) == (100, 100)


def test_shelves_are_buckets_or_some_of_them_together() -> None:
    for bits in (4, 8, 13, 16, 17, 20, 28):
        buckets = Buckets(b"x:", bits)
        for image_id in make_ids(100):
            cache_bucket = buckets.cache_bucket(image_id)
            assert cache_bucket == buckets.number(image_id) >> buckets.coarse
            assert cache_bucket < 1 << min(bits, 16)
