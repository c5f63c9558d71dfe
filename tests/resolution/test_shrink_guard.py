"""The shrink guard holds against releases by probes, polls and notifications."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from resolver.errors import ShrinkGuardTripped
from resolver.index import MIN_GUARDED_LOSS, Index
from resolver.models import Location, Outcome, Sweep, format_id, parse_id
from tests.resolution.probing import wait_until_idle
from tests.support.clouds import FRESH, Cloud, clouds
from tests.support.ids import make_ids

IDS = [format_id(image_id) for image_id in make_ids(60)]
UNKNOWN_ID = format_id(make_ids(61)[60])
ALLOWED = 12
"""20 % of 60."""


async def swept(index: Index, number: int, images: int) -> None:
    now = time.time()
    sweep = Sweep(started=now - 1, ended=now, images=images, sees_all=True)
    await index.records.set_sweep(number, sweep)


@pytest.fixture
async def emptied() -> AsyncIterator[Cloud]:
    """A location that had 60 images when it was swept, and has lost its database since."""
    async with clouds() as cloud:
        await cloud.add("one")
        number = cloud.numbers["one"]
        await cloud.index.claims.claim(number, [parse_id(text) for text in IDS])
        await swept(cloud.index, number, len(IDS))
        yield cloud


async def claims_left(cloud: Cloud) -> int:
    owners = (await cloud.index.claims.lookup([parse_id(text) for text in IDS])).owners
    return sum(bool(some) for some in owners)


async def test_fresh_requests_cannot_release_all_claims_one_by_one(emptied: Cloud) -> None:
    outcomes = []
    for text in IDS:
        answer = await emptied.resolve(text, FRESH)
        outcomes.append(answer.outcome)
    await wait_until_idle(emptied)
    assert await claims_left(emptied) == len(IDS) - ALLOWED
    assert outcomes[:ALLOWED] == [Outcome.ABSENT] * ALLOWED
    assert outcomes[ALLOWED:] == [Outcome.FOUND] * (len(IDS) - ALLOWED)
    # Neither is what was released, nor any other image, absent any more.
    for text in (IDS[0], UNKNOWN_ID):
        answer = await emptied.resolve(text, FRESH)
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    answer = await emptied.resolve(IDS[0])
    assert answer.outcome is Outcome.UNKNOWN, "the remembered no does not count either"
    assert "RESOLVER_SHRINK_GUARD" in answer.detail
    problems = {problem.code: problem for problem in emptied.services.problems.current()}
    assert "--confirm-shrink" in problems["shrink-guard"].action
    number = emptied.numbers["one"]
    assert number in await emptied.index.records.requested_sweeps()


async def test_concurrent_fresh_requests_release_no_more(emptied: Cloud) -> None:
    await asyncio.gather(*(emptied.resolve(text, FRESH) for text in IDS))
    await wait_until_idle(emptied)
    assert await claims_left(emptied) == len(IDS) - ALLOWED


@pytest.fixture
async def number(index: Index) -> int:
    location = await index.records.put(Location(name="one", url="http://one.example"), None)
    return location.number


async def absent(index: Index, number: int, ids: list[bytes]) -> int | None:
    """How many claims are released; None where the guard refuses."""
    try:
        return int(await index.observations.record_absent(number, ids))
    except ShrinkGuardTripped:
        return None


async def test_only_claims_that_are_released_count(index: Index, number: int) -> None:
    ids = make_ids(100)
    await index.claims.claim(number, ids[:50])
    await swept(index, number, 50)
    for _ in range(3):  # as polls that list the same deletions again
        await absent(index, number, ids[50:])
    assert await absent(index, number, ids[:5]) == 5
    assert await absent(index, number, ids[:5]) == 0
    assert await index.observations.released_since_sweep(number) == 5
    assert await absent(index, number, ids[:MIN_GUARDED_LOSS]) == 5
    assert await absent(index, number, ids[10:11]) is None
    assert (await index.records.sweep(number)).guarded is not None


@pytest.mark.parametrize(
    ("images", "allowed"), [(0, 10), (1, 10), (2, 1), (5, 4), (11, 10), (12, 10), (60, 12)]
)
async def test_what_may_be_released(index: Index, number: int, images: int, allowed: int) -> None:
    """Small clouds may change; several images are never all released."""
    ids = make_ids(allowed + 1)
    await index.claims.claim(number, ids)
    await swept(index, number, images)
    assert await absent(index, number, ids) is None, "not one of too many"
    await swept(index, number, images)
    assert [await absent(index, number, [image_id]) for image_id in ids] == [1] * allowed + [None]


async def test_a_complete_sweep_resets_the_guard(index: Index, number: int) -> None:
    ids = make_ids(22)
    await index.claims.claim(number, ids)
    assert await absent(index, number, ids[:10]) == 10
    assert await absent(index, number, ids[10:11]) is None
    await index.observations.reset_released(number)
    assert await absent(index, number, ids[10:11]) is None, "the guard is tripped until it is over"
    await swept(index, number, 12)
    assert await absent(index, number, ids[10:20]) == 10


async def test_a_failing_sweep_leaves_the_guard_tripped(index: Index, number: int) -> None:
    """See also ``tests/sync/test_sweep_losses.py``."""
    ids = make_ids(12)
    await index.claims.claim(number, ids)
    assert await absent(index, number, ids) is None
    sweep = await index.records.sweep(number)
    request = (await index.records.requested_sweeps())[number]
    await index.records.request_sweep(number, confirm_shrink=True)
    assert await absent(index, number, ids[:1]) is None
    assert (await index.records.sweep(number)).guarded == sweep.guarded
    assert (await index.records.requested_sweeps())[number].confirm_shrink, "it is not replaced"
    assert not request.confirm_shrink
