"""Notifications of every kind, parsed and applied to an index."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.glance.notifications import (
    DELETE_EVENT,
    MAX_NOTIFICATION_BYTES,
    PRESENT_EVENTS,
    parse_notice,
)
from resolver.index import Index, open_index
from resolver.models import parse_id
from resolver.sync.deletion_log import DeletionLog, apply_notices
from tests.fuzz.conftest import PATIENT, ErrorLog, count_examples, examples
from tests.fuzz.test_ids import JSON
from tests.support.notifications import envelope, message

IDS = [str(uuid.UUID(int=n << 96 | n)) for n in (1, 0xABCDEF, 0xFFFFFFFF)]
IMAGE = st.sampled_from([*IDS, IDS[1].upper(), "urn:uuid:" + IDS[2]])
STAMP = st.sampled_from(
    ["2026-11-23 10:00:00.000001", "0001-01-01T00:00:00+23:59", "9999-12-31 23:59:59", "yesterday"]
)
EVENT = st.sampled_from(
    [*sorted(PRESENT_EVENTS), DELETE_EVENT, "image.send", "image.member.create"]
)
STATUS = st.sampled_from(["active", "queued", "deleted", "pending_delete", "killed"])


def damaged(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly valid values, and sometimes anything."""
    return value | value | value | JSON


PAYLOAD = st.fixed_dictionaries(
    {"id": damaged(IMAGE)},
    optional={"status": damaged(STATUS), "deleted": damaged(st.booleans()), "more": JSON},
)
BARE = st.fixed_dictionaries(
    {"event_type": damaged(EVENT), "payload": damaged(PAYLOAD)},
    optional={"timestamp": damaged(STAMP), "message_id": JSON, "priority": JSON},
)


def encoded(bare: Any, form: str) -> bytes:
    if form == "bare":
        return json.dumps(bare).encode()
    inner = json.dumps(bare) if form == "text" else bare
    return json.dumps({"oslo.version": form, "oslo.message": inner}).encode()


BODY = st.builds(encoded, damaged(BARE), st.sampled_from(["bare", "text", "object", "3.0"]))


def overwritten(body: bytes, at: int, data: bytes) -> bytes:
    at %= len(body) + 1
    return body[:at] + data + body[at + len(data) :]


BODY_LISTS = st.lists(
    BODY
    | BODY
    | st.binary(max_size=200)
    | st.builds(overwritten, BODY, st.integers(0), st.binary()),
    max_size=8,
)


@pytest.fixture
async def index() -> AsyncIterator[Index]:
    async with open_index("memory:", bits=4, timeouts=PATIENT) as index:
        yield index


OTHER = uuid.UUID(int=5 << 100).bytes


@examples(150)
@example([b"[" * 100_000, b'{"oslo.message": "' + b"[" * 100_000 + b'"}'])
@example([b"{" + b'"a":{' * 50_000])
@example([b"1" * 100_000, b'{"event_type": NaN, "payload": Infinity}', b"\xff\xfe{\0}\0", b""])
@example(
    [
        json.dumps(envelope(message("image.create", {"id": IDS[0]}))).encode()
        + b" " * MAX_NOTIFICATION_BYTES
    ]
)
@given(BODY_LISTS)
async def test_any_notification_is_applied_or_ignored(
    loop_errors: ErrorLog, index: Index, bodies: list[bytes]
) -> None:
    """Only named images are claimed, deletions take effect, and claims of others stay."""
    count_examples("notifications", len(bodies))
    ids = [OTHER, *map(parse_id, IDS)]
    await index.claims.claim(2, ids)
    await index.claims.release(1, ids)
    notices = [notice for body in bodies if (notice := parse_notice(body)) is not None]
    news = await apply_notices(index, 1, DeletionLog(), notices)
    assert 0 <= news <= len(notices)
    found = (await index.claims.lookup(ids)).owners
    last = {notice.image_id: notice for notice in notices}
    for image_id, owners in zip(ids, found, strict=True):
        numbers = {owner.number for owner in owners}
        assert 2 in numbers
        assert 1 not in numbers or (image_id in last and not last[image_id].deleted)
    loop_errors.check()
