"""How many buckets an index should have for its images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.index.bucket_layout import DEFAULT_BITS
from resolver.index.sizing import MAX_MEAN_IMAGES, NEW_MEAN_IMAGES, wanted_bits
from resolver.models import MAX_BITS, MIN_BITS, Progress, Sweep
from resolver.sync.sweep_state import (
    MAX_EXTRAPOLATION,
    MAX_GROWTH,
    expected_growth,
    expected_images,
)


@pytest.mark.parametrize(
    ("images", "bits"),
    [
        (0, 8),
        (10_000, 8),
        (71_680, 8),
        (71_681, 9),
        (1_000_000, 12),
        (5_000_000, 15),
        (100_000_000, 19),
        (1_000_000_000, 22),
        (10**15, MAX_BITS),
    ],
)
def test_the_bits_for_a_new_index(images: int, bits: int) -> None:
    assert wanted_bits(images, DEFAULT_BITS) == bits


@given(st.integers(0, 10**11), st.integers(MIN_BITS, MAX_BITS))
def test_an_index_grows_until_its_buckets_are_compact_and_never_shrinks(
    images: int, bits: int
) -> None:
    wanted = wanted_bits(images, bits)
    assert bits <= wanted <= MAX_BITS
    if wanted > bits:
        assert images > MAX_MEAN_IMAGES << bits
        assert wanted == MAX_BITS or NEW_MEAN_IMAGES / 2 < images / (1 << wanted) <= NEW_MEAN_IMAGES
    assert wanted_bits(images, wanted) == wanted, "it grows once"


HALF = "80000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("progress", "images"),
    [
        (Progress(started=1, images=500, front=HALF), 500),
        (Progress(started=1, images=5000, front=HALF), 10_000),
        (Progress(started=1, images=5000, front=""), 5000),
        (Progress(started=1, images=5000, front="x"), 5000),
        (Progress(started=1, images=5000, front=HALF.replace("8", "0")), 5000 * MAX_EXTRAPOLATION),
    ],
)
def test_the_images_of_a_listing_are_estimated_from_how_far_it_is(
    progress: Progress, images: int
) -> None:
    assert expected_images(progress) == images


DONE = Sweep(started=1.0, ended=2.0, images=4000)
FAILED = Sweep(error="it did not answer in time", error_code="timeout", failed=1.0)


@pytest.mark.parametrize(
    ("sweeps", "under_way", "growth"),
    [
        ([], {}, 1.0),
        ([Sweep()] * 9, {}, 1.0),  # nothing is known of any
        ([DONE], {}, 1.0),
        ([DONE, Sweep()], {}, 2.0),
        ([DONE, FAILED], {}, 1.0),  # a server that is down may have nothing
        ([DONE] + [Sweep()] * 9, {}, MAX_GROWTH),
        ([DONE, Sweep()], {1: Progress(started=3.0, images=2000, front=HALF)}, 8000 / 6000),
        ([DONE], {0: Progress(started=3.0, images=100)}, 1.0),  # what it lists is counted already
    ],
)
def test_locations_that_wait_for_their_first_sweep_are_expected_to_be_as_large_as_others(
    sweeps: list[Sweep], under_way: dict[int, Progress], growth: float
) -> None:
    assert expected_growth(dict(enumerate(sweeps)), under_way) == pytest.approx(growth)
