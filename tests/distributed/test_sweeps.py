"""Sweeps and indexers of `tests/sync` once more, with the index on a cluster."""

from __future__ import annotations

import pytest

from tests.sync import test_indexer, test_sweep, test_sweep_losses

pytestmark = pytest.mark.redis

test_a_whole_listing = test_sweep.test_a_whole_listing
test_every_kind_of_server = test_sweep.test_every_kind_of_server
test_ids = test_sweep.test_ids_are_claimed_as_the_server_spells_them
test_changes = test_sweep.test_deleted_images_are_released_and_new_ones_claimed
test_claims_never_listed = test_sweep.test_a_claim_that_was_never_listed_is_released
test_the_shrink_guard = test_sweep_losses.test_the_shrink_guard
test_an_empty_page = test_sweep_losses.test_an_empty_page_in_the_middle_releases_nothing

test_a_new_location = test_indexer.test_a_new_location_is_swept
test_shrinking = test_indexer.test_a_listing_that_shrinks_must_be_confirmed
test_a_location_that_changes = test_indexer.test_a_location_that_changes_while_it_is_swept
test_removed_locations = test_indexer.test_claims_of_removed_locations_are_collected
