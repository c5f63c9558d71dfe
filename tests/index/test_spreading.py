"""Ids that begin with a time are spread over the buckets, and none is lost by that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.index.buckets import Buckets
from resolver.index.redis.client import may_write
from resolver.index.spreading import gather, is_random, spread
from resolver.models import MAX_BITS, MIN_BITS
from tests.support.ids import make_id, make_ids, make_v1_ids, make_v6_ids, make_v7_ids

image_ids = st.binary(min_size=16, max_size=16)
all_bits = st.integers(MIN_BITS, MAX_BITS)

TIMED = {"1": make_v1_ids, "6": make_v6_ids, "7": make_v7_ids}
BITS = 8
MEAN = 80


@given(image_ids)
def test_spreading_is_undone(image_id: bytes) -> None:
    assert gather(spread(image_id)) == image_id
    assert spread(gather(image_id)) == image_id, "so no two ids have the same place"


@given(all_bits, image_ids)
def test_bucket_and_field_together_give_the_id(bits: int, image_id: bytes) -> None:
    buckets = Buckets(b"b:", bits, spreads=True)
    bucket, field = buckets.locate(image_id)
    assert (bucket, field) == (buckets.number(image_id), buckets.field(image_id))
    assert len(field) == buckets.field_bytes
    assert buckets.join(bucket, field) == image_id
    in_order = bucket < 1 << bits
    assert in_order == buckets.is_ordered(image_id) == is_random(image_id)
    assert buckets.cache_bucket_of_key(buckets.key(bucket)) == buckets.cache_bucket(image_id)


@given(all_bits, image_ids, image_ids)
def test_no_two_ids_share_a_field(bits: int, first: bytes, second: bytes) -> None:
    buckets = Buckets(b"b:", bits, spreads=True)
    places = [
        (buckets.key(bucket), field) for bucket, field in map(buckets.locate, (first, second))
    ]
    assert (places[0] == places[1]) == (first == second)


@given(all_bits, image_ids, image_ids, st.binary(max_size=20))
def test_commands_are_packed_as_redis_reads_them(
    bits: int, first: bytes, second: bytes, value: bytes
) -> None:
    buckets = Buckets(b"b:", bits, spreads=True)
    ids, values = [first, second, first], [value, b"", value]
    places = [(buckets.key(bucket), field) for bucket, field in map(buckets.locate, ids)]
    reads = [hiredis.pack_command(("HGET", key, field)) for key, field in places]
    writes = [
        hiredis.pack_command(("HSETNX", key, field, value))
        for (key, field), value in zip(places, values, strict=True)
    ]
    assert buckets.hget_packer.pack(ids) == reads
    assert buckets.hsetnx_packer.pack_values(ids, values) == writes
    assert not any(map(may_write, reads))
    assert all(map(may_write, writes))


@given(all_bits, image_ids)
def test_random_ids_lie_where_they_would_without_spreading(bits: int, image_id: bytes) -> None:
    random_id = image_id[:6] + bytes([0x40 | image_id[6] & 0x0F]) + image_id[7:]
    plain, spreading = Buckets(b"b:", bits), Buckets(b"b:", bits, spreads=True)
    assert spreading.locate(random_id) == plain.locate(random_id)
    assert spreading.cache_bucket(random_id) == plain.cache_bucket(random_id)
    assert spreading.hget_packer.pack([random_id]) == plain.hget_packer.pack([random_id])


def chosen(step: int) -> list[bytes]:
    """Ids that somebody chose: numbers, of no version."""
    return [make_id(step * number) for number in range(1, (MEAN << BITS) + 1)]


@pytest.mark.parametrize(
    "ids",
    [
        *(pytest.param(make(MEAN << BITS), id=f"version {name}") for name, make in TIMED.items()),
        *(pytest.param(chosen(step), id=f"numbers in steps of {step}") for step in (1, 10, 256)),
        *(pytest.param(chosen(1 << bit), id=f"numbers from bit {bit}") for bit in (32, 80, 96)),
    ],
)
def test_no_bucket_is_crowded(ids: Sequence[bytes]) -> None:
    """As random ids: the fullest of 256 buckets has some three standard deviations more than the
    mean. Without spreading, most of these sets lie in one bucket."""
    assert len(set(ids)) == MEAN << BITS
    buckets = Buckets(b"b:", BITS, spreads=True)
    sizes = Counter(map(buckets.number, ids))
    assert min(sizes) >= 1 << BITS
    assert len(sizes) == 1 << BITS, "no bucket is empty"
    assert max(sizes.values()) < 2 * MEAN


def test_ids_of_the_tests_have_their_versions() -> None:
    for name, make in TIMED.items():
        assert {image_id.hex()[12] for image_id in make(100)} == {name}
        assert len(set(make(100))) == 100
    assert make_v6_ids(100) == sorted(make_v6_ids(100)), "in the order of their times"
    assert make_v7_ids(100)[:90] != make_ids(90)
