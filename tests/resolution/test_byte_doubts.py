"""Whether another location may have the bytes of an image that its owners do not hand out."""

from __future__ import annotations

import pytest

from resolver.errors import IndexUnavailable
from resolver.image_facts import ImageStatus
from resolver.models import Owner
from resolver.resolution import AnswerContext
from resolver.resolution.answer import ProbeResult, decide, doubt_lack_of_bytes
from tests.support.ids import make_ids
from tests.support.location_views import make_table, make_view

(ID,) = make_ids(1)
TABLE = make_table(make_view("one", number=1), make_view("two", number=2))
NO = ProbeResult(absent=True)


@pytest.mark.parametrize("status", [s for s in ImageStatus if s is not ImageStatus.ACTIVE])
def test_without_redis_a_location_may_have_them_that_is_not_known_here(
    status: ImageStatus,
) -> None:
    claims = (Owner(1, 0, status),)
    for error in (None, IndexUnavailable("Redis did not answer within 0.25 s")):
        context = AnswerContext(TABLE, index_error=error)
        found = decide(context, ID, claims, {2: NO})
        answer = doubt_lack_of_bytes(context, found, claims, {2: NO})
        assert answer.owners == found.owners
        assert (answer.missing, answer.detail) == ((), error.detail if error else "")


def test_a_usable_owner_leaves_no_doubt() -> None:
    claims = (Owner(1, 0, ImageStatus.ACTIVE),)
    context = AnswerContext(TABLE)
    found = decide(context, ID, claims, {})
    assert doubt_lack_of_bytes(context, found, claims, {}) == found
