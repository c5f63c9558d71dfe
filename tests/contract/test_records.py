"""The registry: locations, their status, and sweeps that are requested or in progress."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from resolver.errors import Conflict, NoNumberLeft
from resolver.index import Index
from resolver.index.codec import FIRST_MARK
from resolver.index.redis.cluster import ClusterClient
from resolver.models import Api, Check, Health, Location, Progress, State, Sweep

ONE = Location(name="one", url="http://one.example")
TWO = Location(name="two", url="http://two.example")
FULL = Location(
    name="full",
    url="https://full.example:9292/image",
    region='Région 7 "x" {}',
    api=Api.V1,
    priority=7,
    weight=0,
    state=State.MAINTENANCE,
    reason="disque plein : 100 %",
    sees_all=False,
    auth={"token_env": "TOKEN"},
    created=1.5,
    updated=2.25,
)


async def locations(index: Index) -> dict[str, Location]:
    return {name: r.location for name, r in (await index.records.load()).records.items()}


async def test_an_empty_registry(index: Index) -> None:
    assert dict((await index.records.load()).records) == {}


async def test_a_location_is_read_as_it_was_written(index: Index) -> None:
    put = await index.records.put(FULL, None)
    assert put == replace(FULL, number=put.number)
    assert put.number > 0
    assert await locations(index) == {"full": put}


async def test_a_check_that_redis_had_lost_is_news(index: Index) -> None:
    """Processes may have read the registry without it: versions are among it."""
    one = await index.records.put(ONE, None)
    await index.records.set_check(one.number, Check(at=1, versions=("v2.15",)), one)
    await index.client.command("DEL", "glr:{reg}:status")
    await index.records.put(TWO, None)
    without = await index.records.load()
    assert without.records["one"].status.check is None
    await index.records.set_check(one.number, Check(at=2, versions=("v2.15",)), one, quiet=True)
    assert (await index.claims.lookup([])).version > without.version


async def test_the_last_number_works_and_after_it_the_error_says_what_to_do(index: Index) -> None:
    await index.client.command("SET", "glr:{reg}:numbers", FIRST_MARK - 2)
    last = await index.records.put(ONE, None)
    assert last.number == FIRST_MARK - 1
    image_id = bytes(6) + b"\x40" + bytes(9)
    await index.claims.claim(last.number, [image_id])
    ((owner,),) = (await index.claims.lookup([image_id])).owners
    assert owner.number == last.number
    for _ in range(2):
        with pytest.raises(NoNumberLeft, match=r"all of its 524287 numbers.*RESOLVER_PREFIX"):
            await index.records.put(TWO, None)
    with pytest.raises(NoNumberLeft):
        await index.records.put_many([(TWO, None), (FULL, None)])
    # What has a number can be changed and removed.
    record = (await index.records.load()).records["one"]
    changed = await index.records.put(replace(last, priority=3), record)
    assert changed.number == last.number
    assert await locations(index) == {"one": changed}
    assert await index.records.remove("one")


async def test_locations_are_sorted_by_name(index: Index) -> None:
    for name in ("two", "a", "one.b", "one"):
        await index.records.put(replace(ONE, name=name), None)
    assert list(await locations(index)) == ["a", "one", "one.b", "two"]


async def test_each_change_makes_a_new_version(index: Index) -> None:
    seen = [(await index.records.load()).version]

    async def grew() -> None:
        seen.append((await index.records.load()).version)
        assert seen[-1] > seen[-2]

    one = await index.records.put(ONE, None)
    await grew()
    before = (await index.records.load()).records["one"]
    await index.records.put(replace(one, region="r"), before)
    await grew()
    await index.records.set_check(one.number, Check(at=1))
    await grew()
    await index.records.set_sweep(one.number, Sweep(images=1))
    await grew()
    await index.records.remove("one")
    await grew()


async def test_an_unchanged_status_makes_no_new_version(index: Index) -> None:
    one = await index.records.put(ONE, None)
    await index.records.set_check(one.number, Check(at=1))
    before = await index.records.load()
    await index.records.set_check(one.number, Check(at=1))
    assert await index.records.load() == before


async def test_a_check_without_a_change_is_stored_without_a_new_version(index: Index) -> None:
    one = await index.records.put(ONE, None)
    assert await index.records.check(one.number) is None
    await index.records.set_check(one.number, Check(at=1), one)
    before = (await index.claims.lookup([])).version
    await index.records.set_check(one.number, Check(at=2), one, quiet=True)
    assert (await index.claims.lookup([])).version == before
    assert await index.records.check(one.number) == Check(at=2)
    assert (await index.records.load()).records["one"].status.check == Check(at=2)
    await index.records.remove("one")
    await index.records.set_check(one.number, Check(at=3), one, quiet=True)
    assert await index.records.check(one.number) is None


async def test_adding_a_location_that_exists_is_a_conflict(index: Index) -> None:
    await index.records.put(ONE, None)
    with pytest.raises(Conflict, match="'one'"):
        await index.records.put(replace(ONE, region="other"), None)
    assert (await locations(index))["one"].region == ""


async def test_changing_a_location_that_was_changed_meanwhile_is_a_conflict(index: Index) -> None:
    one = await index.records.put(ONE, None)
    read = (await index.records.load()).records["one"]
    await index.records.put(replace(one, region="first"), read)
    with pytest.raises(Conflict):
        await index.records.put(replace(one, weight=9), read)
    assert await locations(index) == {"one": replace(one, region="first")}


async def test_changing_a_location_that_was_removed_is_a_conflict(index: Index) -> None:
    one = await index.records.put(ONE, None)
    read = (await index.records.load()).records["one"]
    await index.records.remove("one")
    with pytest.raises(Conflict):
        await index.records.put(one, read)
    await index.records.put(ONE, None)
    with pytest.raises(Conflict):  # the same text, but another location
        await index.records.put(one, read)


async def test_only_one_of_several_concurrent_additions_of_a_name_succeeds(index: Index) -> None:
    tries = (index.records.put(replace(ONE, region=f"r{n}"), None) for n in range(8))
    done = await asyncio.gather(*tries, return_exceptions=True)
    made = [result for result in done if isinstance(result, Location)]
    assert len(made) == 1
    assert sum(isinstance(result, Conflict) for result in done) == 7
    assert await locations(index) == {"one": made[0]}


async def test_numbers_are_never_used_twice(index: Index) -> None:
    numbers = [(await index.records.put(location, None)).number for location in (ONE, TWO)]
    for _ in range(3):
        assert await index.records.remove("one")
        numbers.append((await index.records.put(ONE, None)).number)
    await index.records.forget_retired(await index.records.retired())
    numbers.append((await index.records.put(replace(ONE, name="three"), None)).number)
    assert len(set(numbers)) == len(numbers)


async def test_a_new_url_gives_a_new_number_and_other_changes_do_not(index: Index) -> None:
    one = await index.records.put(ONE, None)
    await index.records.set_sweep(one.number, Sweep(images=5))
    await index.records.set_progress(one.number, Progress(started=1))
    await index.records.request_sweep(one.number)
    before = (await index.records.load()).records["one"]
    same = await index.records.put(replace(one, weight=3), before)
    assert same.number == one.number
    assert await index.records.retired() == []

    before = (await index.records.load()).records["one"]
    assert before.status.sweep.images == 5
    moved = await index.records.put(replace(same, url="http://else.example"), before)
    assert moved.number != one.number
    after = (await index.records.load()).records["one"]
    assert after.location == moved
    assert after.status.sweep == Sweep(), "the status of the old server does not count"
    assert await index.records.retired() == [one.number]
    assert await index.records.progress() == {}
    assert await index.records.requested_sweeps() == {}


async def test_removal_removes_everything_about_a_location(index: Index) -> None:
    one = await index.records.put(ONE, None)
    two = await index.records.put(TWO, None)
    for number in (one.number, two.number):
        await index.records.set_check(number, Check(at=1, health=Health.UP))
        await index.records.set_progress(number, Progress(started=1))
        await index.records.request_sweep(number)
    assert await index.records.remove("one")
    snapshot = await index.records.load()
    assert list(snapshot.records) == ["two"]
    assert snapshot.records["two"].status.check == Check(at=1, health=Health.UP)
    assert await index.records.retired() == [one.number]
    assert set(await index.records.progress()) == {two.number}
    assert set(await index.records.requested_sweeps()) == {two.number}


async def test_removing_a_location_that_does_not_exist(index: Index) -> None:
    before = await index.records.load()
    assert not await index.records.remove("one")
    assert await index.records.load() == before
    assert await index.records.retired() == []


async def test_status_is_read_as_it_was_written(index: Index) -> None:
    check = Check(at=1.5, health=Health.DOWN, failures=3, reason="é", versions=("v2.15", "v1.1"))
    sweep = Sweep(
        started=1.25,
        ended=2.5,
        images=3,
        claimed=2,
        released=1,
        sees_all=True,
        sees_all_why="why",
        error="bad",
        error_code="cut",
        failed=9.0,
    )
    one = await index.records.put(ONE, None)
    two = await index.records.put(TWO, None)
    await index.records.set_check(one.number, check)
    await index.records.set_sweep(one.number, sweep)
    records = (await index.records.load()).records
    assert (records["one"].status.check, records["one"].status.sweep) == (check, sweep)
    assert records["two"].location == two
    assert (records["two"].status.check, records["two"].status.sweep) == (None, Sweep())


async def test_status_of_a_removed_location_is_ignored(index: Index) -> None:
    one = await index.records.put(ONE, None)
    await index.records.remove("one")
    before = await index.records.load()
    await index.records.set_check(one.number, Check(at=1))
    await index.records.set_sweep(one.number, Sweep(images=1))
    assert await index.records.load() == before
    again = await index.records.put(ONE, None)
    record = (await index.records.load()).records["one"]
    assert record.location == again
    assert (record.status.check, record.status.sweep) == (None, Sweep())


async def test_the_progress_of_a_sweep_is_stored(index: Index) -> None:
    assert await index.records.progress() == {}
    going = Progress(started=1.5, images=7, front="f", markers=("m", ""), at=2)
    await index.records.set_progress(3, Progress(started=0))
    await index.records.set_progress(3, going)
    await index.records.set_progress(400, Progress(started=4))
    assert await index.records.progress() == {3: going, 400: Progress(started=4)}
    gone = {bytes(15) + b"a": 0, bytes(15) + b"b": 0xF0000000}
    await index.records.set_progress(3, going, gone)
    await index.records.set_progress(3, going, {bytes(16): 0}, {bytes(16): 1})
    assert await index.records.sweep_findings(3) == ({**gone, bytes(16): 0}, {bytes(16): 1})
    await index.records.pin_claim(3, bytes(16))
    assert await index.records.pinned_claims(3) == {bytes(16)}
    await index.records.begin_progress(3, Progress(started=9))
    assert await index.records.sweep_findings(3) == ({}, {})
    assert (await index.records.progress())[3] == Progress(started=9)
    await index.records.end_progress(3)
    await index.records.end_progress(3)
    assert await index.records.progress() == {400: Progress(started=4)}


async def test_requested_sweeps(index: Index) -> None:
    assert await index.records.requested_sweeps() == {}
    await index.records.request_sweep(1)
    await index.records.request_sweep(2)
    await index.records.request_sweep(2, confirm_shrink=True)
    requests = await index.records.requested_sweeps()
    assert {n: w.confirm_shrink for n, w in requests.items()} == {1: False, 2: True}
    await index.records.finish_sweep_request(1, requests[1])
    await index.records.finish_sweep_request(1, requests[1])
    await index.records.request_sweep(2)  # requested while the sweep runs
    await index.records.finish_sweep_request(2, requests[2])
    left = await index.records.requested_sweeps()
    assert {n: w.confirm_shrink for n, w in left.items()} == {2: False}


async def test_retired_numbers_until_they_are_forgotten(index: Index) -> None:
    assert await index.records.retired() == []
    numbers = []
    for n in range(12):
        numbers.append((await index.records.put(replace(ONE, name=f"l{n}"), None)).number)
        await index.records.remove(f"l{n}")
    assert await index.records.retired() == sorted(numbers)
    await index.records.forget_retired(numbers[1:])
    assert await index.records.retired() == numbers[:1]


async def test_a_status_from_before_redis_lost_its_data_is_ignored(index: Index) -> None:
    """Numbers start from 1 again, so a number alone does not identify the location."""
    records = index.records
    old = await records.put(Location(name="one", url="http://one", created=1.5), None)
    await index.client.command("FLUSHALL") if not clustered(index) else await records.remove("one")
    new = await records.put(Location(name="one", url="http://one", created=2.5), None)
    swept = Sweep(started=1, ended=2, sees_all=True)
    await records.set_sweep(new.number, swept, old)
    assert (await records.load()).records["one"].status.sweep.ended is None
    await records.set_sweep(new.number, swept, new)
    assert (await records.load()).records["one"].status.sweep.ended == 2


def clustered(index: Index) -> bool:
    return isinstance(index.client, ClusterClient)


async def test_a_new_location_has_no_status_that_was_left_behind(index: Index) -> None:
    """Redis lost the counter of numbers, and the status of the location that had the number."""
    one = await index.records.put(ONE, None)
    await index.records.set_sweep(one.number, Sweep(started=1, ended=2, sees_all=True), one)
    await index.records.set_check(one.number, Check(at=1))
    await index.records.set_progress(one.number, Progress(started=1))
    await index.records.request_sweep(one.number, confirm_shrink=True)
    for key in ("meta", "locations", "numbers", "retired", "version"):
        await index.client.command("DEL", "glr:{reg}:" + key)
    await index.create_if_missing()
    again = await index.records.put(ONE, None)
    assert again.number == one.number, "or the test shows nothing"
    status = (await index.records.load()).records["one"].status
    assert (status.sweep, status.check) == (Sweep(), None), "it would prove absence"
    assert await index.records.progress() == {}
    assert await index.records.requested_sweeps() == {}
