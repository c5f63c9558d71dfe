"""Coverage over time, and the table that answers are made from."""

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
END_OF_TRUST = 1100 + FRESH_FOR + 100
"""A sweep vouches for `FRESH_FOR` and as long as it took."""


def test_a_whole_and_fresh_sweep_leaves_no_doubt() -> None:
    place = make_view("one", sweep=WHOLE)
    for now in (1100, 1500, END_OF_TRUST):
        assert place.doubt(now) == ""


def test_an_old_sweep_does() -> None:
    place = make_view("one", sweep=WHOLE)
    assert place.doubt(END_OF_TRUST + 1) == "the last whole sweep ended 701 s ago"


def test_a_clock_that_was_set_back_is_no_doubt() -> None:
    assert make_view("one", sweep=WHOLE).doubt(900) == ""


def test_a_failure_since_does_not_take_trust_away_before_its_time() -> None:
    failed = Sweep(
        started=1000,
        ended=1100,
        sees_all=True,
        error="it answered 500",
        error_code="server-error",
        failed=1200,
    )
    place = make_view("one", sweep=failed)
    assert place.doubt(1300) == ""
    assert place.doubt(END_OF_TRUST + 1).endswith("(server-error)")


def test_a_sweep_of_a_clock_that_was_set_back_vouches_for_nothing() -> None:
    place = make_view("one", sweep=WHOLE)
    assert place.doubt(WHOLE.ended - 1) == ""
    assert "last whole sweep" in place.doubt(WHOLE.ended - 3600)


def test_never_swept() -> None:
    assert make_view("one").doubt(0) == "not swept yet"
    failed = Sweep(error="cannot connect", error_code="unreachable", failed=5)
    assert make_view("one", sweep=failed).doubt(6) == "never swept (unreachable)"


@pytest.mark.parametrize("told", [True, False, None])
@pytest.mark.parametrize("found", [True, False, None])
def test_only_a_credential_that_sees_all_vouches(told: bool | None, found: bool | None) -> None:
    sweep = Sweep(started=1000, ended=1100, sees_all=found, sees_all_why="is the why")
    doubt = make_view("one", sweep=sweep, sees_all=told).doubt(1200)
    counts = found if told is None else told
    assert (doubt == "") is (counts is True)
    if counts is not True:
        assert "credential" in doubt
        assert "is the why" in doubt


def test_maintenance_is_not_asked_to_vouch() -> None:
    table = make_table(
        make_view("one", sweep=WHOLE),
        make_view("two", state=State.MAINTENANCE),
        make_view("three", state=State.DRAINING, health=Health.DOWN),
    )
    assert set(table.doubts(1200)) == {"three"}
    assert {p.name for p in table.in_service()} == {"one", "three"}


def test_which_api_a_location_serves() -> None:
    assert make_view("one").serves is None
    assert make_view("one", health=None).serves is None
    assert make_view("one", versions=("v2.5", "v1.1")).serves == (True, True)
    assert make_view("one", versions=("v2.5",)).serves == (False, True)
    assert make_view("one", versions=("v2.5",), api=Api.V1).serves == (True, False)
    assert make_view("one", versions=("v1.1",), api=Api.V2).serves == (False, True)
    assert make_view("one", versions=("v2.5", "v2.15")).minor == 15


def test_identifiers_and_what_can_be_fetched() -> None:
    uri = "http://one.example/v1/images/00000000-0000-0000-0000-0000000000aB"
    image_id, letter_case = make_id(0xAB), 1
    for versions in ((), ("v1.1",), ("v2.5", "v1.1")):
        place = make_view("one", versions=versions)
        assert place.uri(image_id, letter_case) == place.url(image_id, letter_case) == uri
    place = make_view("one", versions=("v2.15",))
    assert place.uri(image_id, letter_case) == uri
    assert place.url(image_id, letter_case) == uri.replace("/v1/", "/v2/")


async def test_a_keeper_follows_changes(index: Index) -> None:
    keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
    assert len(await keeper.current()) == 0
    one = await index.records.put(Location(name="one", url="http://one.example"), None)
    assert len(keeper.table) == 0
    found = await index.claims.lookup([])
    assert list((await keeper.at_least(found.version)).by_number) == [one.number]
    await index.records.remove("one")
    assert len(await keeper.current()) == 0


async def test_a_keeper_reads_only_what_is_news(index: Index) -> None:
    keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
    await index.records.put(Location(name="one", url="http://one.example"), None)
    version = (await index.claims.lookup([])).version
    tables = await asyncio.gather(*(keeper.at_least(version) for _ in range(20)))
    assert all(table is tables[0] for table in tables), "it was read once"
    assert await keeper.current() is tables[0]


async def test_a_keeper_notices_that_redis_was_emptied(index: Index) -> None:
    """Also when as many changes were made since as there had been before."""
    keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
    for names in (["one", "two"], ["new", "newer"]):
        await index.client.command("FLUSHALL")
        await index.create_if_missing()
        for name in names:
            await index.records.put(Location(name=name, url=f"http://{name}.example"), None)
        assert list((await keeper.current()).by_name) == names
        found = await index.claims.lookup([])
        assert list((await keeper.at_least(found.version)).by_name) == names
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
async def test_a_keeper_without_redis_keeps_its_table_and_says_so(own_redis: RedisServer) -> None:
    async with open_index(own_redis.url, bits=8) as index:
        keeper = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
        await index.records.put(Location(name="one", url="http://one.example"), None)
        table = await keeper.current()
        own_redis.kill()
        with pytest.raises(IndexUnavailable):
            await keeper.current()
        assert keeper.table is table
