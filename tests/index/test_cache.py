"""What a full cache may cost: nothing that the garbage collector follows, and no search."""

from __future__ import annotations

import gc

from resolver.index import ClaimCache
from resolver.index.codec import Buckets
from tests.support.ids import make_ids


def test_what_is_kept_is_nothing_to_the_garbage_collector() -> None:
    cache = ClaimCache(10_000, 60)
    for raw in make_ids(5000):
        shelf = raw[0]
        cache.put(shelf, cache.open(shelf), raw, bytes(bytearray(b"\x02\x04")))
    assert cache.count == 5000 + 256
    gc.collect()
    kept = cache._buckets
    assert not any(gc.is_tracked(shelf) for shelf in kept.values())
    values = {id(value) for shelf in kept.values() for value in shelf.values()}
    assert len(values) == 1  # one copy of the owners' bytes for all


def test_the_oldest_goes_first_however_many_went_before() -> None:
    cache = ClaimCache(100, 60)
    for shelf in range(1000):
        raw = shelf.to_bytes(16, "big")
        cache.put(shelf, cache.open(shelf), raw, b"\x02")
    assert list(cache._buckets) == list(range(950, 1000))


def test_opening_alone_is_bounded() -> None:
    cache = ClaimCache(100, 60)
    for shelf in range(1000):
        cache.open(shelf)
    assert (cache.count, len(cache._buckets)) == (100, 100)


def test_shelves_are_buckets_or_some_of_them_together() -> None:
    for bits in (4, 8, 13, 16, 17, 20, 28):
        buckets = Buckets(b"x:", bits)
        for raw in make_ids(100):
            shelf = buckets.shelf(raw)
            assert shelf == buckets.number(raw) >> buckets.coarse
            assert shelf < 1 << min(bits, 16)
