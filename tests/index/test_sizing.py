"""How many buckets an index should have for its images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.index.bucket_layout import DEFAULT_BITS
from resolver.index.sizing import MAX_MEAN_IMAGES, NEW_MEAN_IMAGES, wanted_bits
from resolver.models import MAX_BITS, MIN_BITS, Progress
from resolver.sync.sweep_state import MAX_EXTRAPOLATION, expected_images


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
