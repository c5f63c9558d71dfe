"""Notifications in any order, and what they do to the index."""

from __future__ import annotations

import time

from resolver.glance import Notice
from resolver.index import Index
from resolver.models import parse_id
from resolver.sync.deletion_log import DeletionLog, apply_notices

IMAGE = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
IMAGE_ID = parse_id(IMAGE)
NOON = 1_800_000_000.25


def make_notice(
    *, deleted: bool = False, sent_at: float = NOON, image_id: bytes = IMAGE_ID
) -> Notice:
    return Notice(image_id, 0, deleted, sent_at)


def test_a_notification_older_than_the_deletion_is_ignored() -> None:
    log = DeletionLog()
    assert log.is_news(make_notice(deleted=True, sent_at=NOON))
    assert not log.is_news(make_notice(sent_at=NOON - 1))
    assert not log.is_news(make_notice(sent_at=NOON)), "at the same time the deletion wins"
    assert log.is_news(make_notice(sent_at=NOON + 1)), "created again"
    assert log.is_news(make_notice(deleted=True, sent_at=NOON)), "from a node whose clock is behind"


def test_the_log_is_bounded() -> None:
    log = DeletionLog(max_deletions=20)
    for number in range(30):
        log.is_news(make_notice(image_id=number.to_bytes(16, "big"), deleted=True))
    assert len(log) == 20
    assert not log.is_deleted((9).to_bytes(16, "big")), "the oldest are dropped"
    assert log.is_deleted((10).to_bytes(16, "big"))


async def owners(index: Index, text: str = IMAGE) -> set[int]:
    (found,) = (await index.claims.lookup([parse_id(text)])).owners
    return {owner.number for owner in found}


async def test_events_in_any_order_have_the_same_result(index: Index) -> None:
    created, deleted = make_notice(sent_at=NOON), make_notice(deleted=True, sent_at=NOON + 1)
    for order in ([created, deleted], [deleted, created], [created, deleted, created, deleted]):
        for batches in ([order], [[notice] for notice in order]):
            log = DeletionLog()
            for batch in batches:
                await apply_notices(index, 1, log, batch)
            assert await owners(index) == set()


async def test_a_batch_that_is_delivered_twice_has_the_same_result(index: Index) -> None:
    """As after a failure before the acknowledgement. An image that was created again stays."""
    batch = [make_notice(deleted=True, sent_at=NOON), make_notice(sent_at=NOON + 1)]
    log = DeletionLog()
    for _ in range(2):
        await apply_notices(index, 1, log, batch)
        assert await owners(index) == {1}


async def test_a_deletion_at_one_location_leaves_claims_of_others(index: Index) -> None:
    await index.claims.claim(1, [IMAGE_ID])
    await index.claims.claim(2, [IMAGE_ID])
    assert await apply_notices(index, 1, DeletionLog(), [make_notice(deleted=True)]) == 1
    assert await owners(index) == {2}


async def test_a_listing_requested_before_a_deletion_does_not_undo_it(index: Index) -> None:
    requested_at = time.monotonic()
    await apply_notices(index, 1, DeletionLog(), [make_notice(deleted=True)])
    assert await index.observations.record_present(1, {IMAGE_ID: 0}, requested_at) == 0
    assert await owners(index) == set()
