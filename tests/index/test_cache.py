"""The cache of claims by itself: its bounds, its ages, and its cost for the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterable

from resolver.index import ClaimCache
from resolver.index.buckets import Buckets
from resolver.index.cache import MAX_ABSENT, CacheBucket
from resolver.index.codec import encode_owners
from resolver.models import Owner
from tests.support.ids import make_ids

A, B, *MORE = make_ids(40)
NO_OWNERS = b""
ONE, TWO = encode_owners([Owner(1)]), encode_owners([Owner(2)])


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def open_one(cache: ClaimCache, bucket: int) -> CacheBucket:
    (images,) = cache.open([bucket])
    return images


def put(cache: ClaimCache, bucket: int, images: CacheBucket, image_id: bytes, value: bytes) -> None:
    cache.put([bucket], [images], [image_id], [value])


def fill(cache: ClaimCache, bucket: int, ids: Iterable[bytes], value: bytes = ONE) -> None:
    for image_id in ids:
        put(cache, bucket, open_one(cache, bucket), image_id, value)


def test_the_garbage_collector_does_not_follow_what_is_cached() -> None:
    cache = ClaimCache(10_000, 60)
    for image_id in make_ids(5000):
        fill(cache, image_id[0], [image_id], bytes(bytearray(b"\x02\x04")))
    assert cache.count == 5000 + 256
    gc.collect()
    buckets = cache.open(range(256))
    assert not any(gc.is_tracked(images) for images in buckets)
    values = {id(value) for images in buckets for value in images.values()}
    assert len(values) == 1, "one copy of the owners' bytes serves all images"


def test_the_oldest_bucket_is_evicted_first() -> None:
    cache = ClaimCache(100, 60)
    ids = [bucket.to_bytes(16, "big") for bucket in range(1000)]
    for bucket, image_id in enumerate(ids):
        fill(cache, bucket, [image_id])
    found = [cache.get(bucket, image_id) is not None for bucket, image_id in enumerate(ids)]
    assert found == [False] * 950 + [True] * 50


def test_the_cache_never_exceeds_its_size() -> None:
    cache = ClaimCache(100, 60)
    for image_id in make_ids(1000):
        fill(cache, image_id[0], [image_id])
        assert cache.count <= 100
    assert cache.count > 50
    cache.clear()
    assert cache.count == 0


def test_empty_buckets_count_towards_the_cache_size() -> None:
    """Requests for many unknown ids open each bucket there is."""
    cache = ClaimCache(100, 60)
    for bucket in range(1000):
        open_one(cache, bucket)
    assert (cache.count, cache.bucket_count) == (100, 100)


def test_a_cache_of_size_zero_holds_nothing() -> None:
    cache = ClaimCache(0, 0)
    for bucket, image_id in enumerate(MORE):
        fill(cache, bucket, [image_id])
        assert cache.get(bucket, image_id) is None
    open_one(cache, 1)
    assert cache.bucket_count == 0


def test_a_read_that_began_before_an_invalidation_caches_nothing() -> None:
    cache = ClaimCache(100, 60)
    before = open_one(cache, 7)
    put(cache, 7, before, A, ONE)
    cache.drop(7)
    put(cache, 7, before, B, ONE)
    assert (cache.get(7, A), cache.get(7, B), cache.count) == (None, None, 0)
    after = open_one(cache, 7)
    put(cache, 7, before, A, ONE)
    assert cache.get(7, A) is None
    put(cache, 7, after, A, TWO)
    found = cache.get(7, A)
    assert found is not None
    assert found[0] == (Owner(2),)


def test_nothing_is_cached_for_longer_than_its_time_to_live() -> None:
    clock = Clock()
    cache = ClaimCache(100, 10, clock=clock)
    first = open_one(cache, 7)
    put(cache, 7, first, A, ONE)
    clock.now += 9
    fill(cache, 7, [B])
    found = cache.get(7, B)
    assert found is not None
    assert found[1] == 9, "the bucket is as old as its first image"
    clock.now += 2
    put(cache, 7, first, B, ONE)  # a read that took long
    assert (cache.get(7, A), cache.get(7, B)) == (None, None)
    assert cache.count == 0


def test_expired_claims_are_stale_until_their_time_is_over() -> None:
    clock = Clock()
    cache = ClaimCache(100, 10, stale_for=100, clock=clock)
    fill(cache, 7, [A, B])
    clock.now += 11
    assert cache.get(7, A) is None
    assert cache.get_stale(7, A) == ((Owner(1),), 11)
    put(cache, 7, open_one(cache, 7), B, NO_OWNERS)
    assert cache.get_stale(7, B) is None
    clock.now += 90
    assert cache.get_stale(7, A) is None, "it was read more than 100 seconds ago"


def test_absent_images_are_bounded_and_invalidated_with_their_bucket() -> None:
    cache = ClaimCache(100, 60, clock=(clock := Clock()))
    images = open_one(cache, 7)
    ids = [bytes([7]) + n.to_bytes(15, "big") for n in range(MAX_ABSENT + 1)]
    for image_id in ids:
        put(cache, 7, images, image_id, NO_OWNERS)
    assert cache.get(7, ids[0]) is None, "the oldest makes room"
    assert cache.get(7, ids[1]) == ((), 0.0)
    cache.drop_absent([ids[1]])
    assert cache.get(7, ids[1]) is None, "this process has claimed it"
    cache.drop(7)
    assert cache.get(7, ids[2]) is None, "the bucket has changed"
    put(cache, 7, images, ids[2], NO_OWNERS)
    assert cache.get(7, ids[2]) is None, "it was read before the change"
    put(cache, 7, open_one(cache, 7), ids[2], NO_OWNERS)
    assert cache.get(7, ids[2]) == ((), 0.0)
    clock.now += 61
    assert cache.get(7, ids[2]) is None, "it has expired"


def test_suspect_claims_become_stale_and_changed_ones_are_dropped() -> None:
    cache = ClaimCache(100, 60, stale_for=100, clock=Clock())
    fill(cache, 7, [A])
    fill(cache, 8, [B])
    cache.mark_suspect()
    assert (cache.get(7, A), cache.get(8, B)) == (None, None)
    cache.drop(7)
    assert cache.get_stale(7, A) is None
    assert cache.get_stale(8, B) == ((Owner(1),), 0)


def test_a_cache_bucket_is_a_bucket_or_several_neighbours() -> None:
    for bits in (4, 8, 13, 16, 17, 20, 28):
        buckets = Buckets(b"x:", bits)
        for image_id in make_ids(100):
            bucket = buckets.cache_bucket(image_id)
            assert bucket == buckets.number(image_id) >> max(0, bits - 16)
            assert bucket < 1 << min(bits, 16)
            assert buckets.cache_bucket_of_key(buckets.key(buckets.number(image_id))) == bucket
        assert buckets.cache_bucket_of_key(b"y:1") is None
