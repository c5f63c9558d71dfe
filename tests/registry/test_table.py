"""Coverage over time, and the location table."""

from __future__ import annotations

import asyncio

import pytest

from resolver.errors import IndexLost, IndexUnavailable
from resolver.index import Index, open_index
from resolver.models import Api, Health, Location, State, Sweep
from resolver.registry import FreshnessPolicy, TableKeeper
from tests.support.ids import make_id
from tests.support.location_views import FRESH_FOR, make_table, make_view
from tests.support.redis import RedisServer

WHOLE = Sweep(started=1000, ended=1100, images=5, sees_all=True, sees_all_why="why")
COVERED_UNTIL = 1100 + FRESH_FOR + 100
"""A sweep covers for `FRESH_FOR` and its own duration."""


def test_a_complete_and_fresh_sweep_covers_a_location() -> None:
    view = make_view("one", sweep=WHOLE)
    for now in (1100, 1500, COVERED_UNTIL):
        assert view.coverage_problem(now) == ""


def test_an_old_sweep_does_not_cover() -> None:
    view = make_view("one", sweep=WHOLE)
    assert view.coverage_problem(COVERED_UNTIL + 1) == "the last complete sweep ended 701 s ago"


def test_a_clock_that_was_set_back_a_little_does_not_matter() -> None:
    assert make_view("one", sweep=WHOLE).coverage_problem(900) == ""


def test_a_later_failure_does_not_end_coverage_early() -> None:
    failed = Sweep(
        started=1000,
        ended=1100,
        sees_all=True,
        error="it answered 500",
        error_code="server-error",
        failed=1200,
    )
    view = make_view("one", sweep=failed)
    assert view.coverage_problem(1300) == ""
    assert view.coverage_problem(COVERED_UNTIL + 1).endswith("(server-error)")


def test_a_sweep_far_in_the_future_does_not_cover() -> None:
    view = make_view("one", sweep=WHOLE)
    assert view.coverage_problem(WHOLE.ended - 1) == ""
    assert "last complete sweep" in view.coverage_problem(WHOLE.ended - 3600)


def test_a_location_that_was_never_swept_is_not_covered() -> None:
    assert make_view("one").coverage_problem(0) == "not swept yet"
    failed = Sweep(error="cannot connect", error_code="unreachable", failed=5)
    assert make_view("one", sweep=failed).coverage_problem(6) == "never swept (unreachable)"


@pytest.mark.parametrize("registered", [True, False, None])
@pytest.mark.parametrize("found", [True, False, None])
def test_only_a_credential_that_sees_every_image_covers(
    registered: bool | None, found: bool | None
) -> None:
    sweep = Sweep(started=1000, ended=1100, sees_all=found, sees_all_why="is the why")
    problem = make_view("one", sweep=sweep, sees_all=registered).coverage_problem(1200)
    counts = found if registered is None else registered
    assert (problem == "") is (counts is True)
    if counts is not True:
        assert "credential" in problem
        assert "is the why" in problem


def test_a_location_in_maintenance_must_have_been_swept_once() -> None:
    table = make_table(
        make_view("one", sweep=WHOLE),
        make_view("two", state=State.MAINTENANCE, sweep=WHOLE),
        make_view("three", state=State.DRAINING, health=Health.DOWN),
        make_view("four", state=State.MAINTENANCE),
        make_view("five", state=State.MAINTENANCE, vouches=False),
    )
    long_after = 1e6
    assert set(table.coverage_problems(1200)) == {"three", "four"}
    assert set(table.coverage_problems(long_after)) == {"one", "three", "four"}
    assert {view.name for view in table.in_service()} == {"one", "three"}


def test_the_api_of_a_location_follows_from_its_versions() -> None:
    assert make_view("one").serves is None
    assert make_view("one", health=None).serves is None
    assert make_view("one", versions=("v2.5", "v1.1")).serves == (True, True)
    assert make_view("one", versions=("v2.5",)).serves == (False, True)
    assert make_view("one", versions=("v2.5",), api=Api.V1).serves == (True, False)
    assert make_view("one", versions=("v1.1",), api=Api.V2).serves == (False, True)
    assert make_view("one", versions=("v2.5", "v2.15")).minor == 15


def test_the_identifier_and_the_url_of_an_image() -> None:
    uri = "http://one.example/v1/images/00000000-0000-0000-0000-0000000000aB"
    image_id, letter_case = make_id(0xAB), 1
    for versions in ((), ("v1.1",), ("v2.5", "v1.1")):
        view = make_view("one", versions=versions)
        assert view.uri(image_id, letter_case) == view.url(image_id, letter_case) == uri
    view = make_view("one", versions=("v2.15",))
    assert view.uri(image_id, letter_case) == uri
    assert view.url(image_id, letter_case) == uri.replace("/v1/", "/v2/")


async def test_the_table_keeper_follows_changes(index: Index) -> None:
    keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
    assert len(await keeper.current()) == 0
    one = await index.records.put(Location(name="one", url="http://one.example"), None)
    assert len(keeper.table) == 0
    found = await index.claims.lookup([])
    assert list((await keeper.ensure_version(found.version)).by_number) == [one.number]
    await index.records.remove("one")
    assert len(await keeper.current()) == 0


async def test_the_table_keeper_reads_each_version_once(index: Index) -> None:
    keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
    await index.records.put(Location(name="one", url="http://one.example"), None)
    version = (await index.claims.lookup([])).version
    tables = await asyncio.gather(*(keeper.ensure_version(version) for _ in range(20)))
    assert all(table is tables[0] for table in tables), "it was read once"
    assert await keeper.current() is tables[0]


async def test_the_table_keeper_detects_that_redis_was_emptied(index: Index) -> None:
    """Even if the new index has had as many changes as the old one."""
    keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
    for names in (["one", "two"], ["new", "newer"]):
        await index.client.command("FLUSHALL")
        await index.create_if_missing()
        for name in names:
            await index.records.put(Location(name=name, url=f"http://{name}.example"), None)
        assert list((await keeper.current()).by_name) == names
        found = await index.claims.lookup([])
        assert list((await keeper.ensure_version(found.version)).by_name) == names
    table = keeper.table
    await index.client.command("FLUSHALL")
    with pytest.raises(IndexLost):
        await keeper.current()
    with pytest.raises(IndexLost):
        await keeper.fresh()
    assert keeper.table is table
    await index.create_if_missing()
    assert len(await keeper.current()) == 0


@pytest.mark.redis
async def test_the_table_keeper_keeps_its_table_and_raises_without_redis(
    own_redis: RedisServer,
) -> None:
    async with open_index(own_redis.url, bits=8) as index:
        keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
        await index.records.put(Location(name="one", url="http://one.example"), None)
        table = await keeper.current()
        own_redis.kill()
        with pytest.raises(IndexUnavailable):
            await keeper.current()
        assert keeper.table is table
