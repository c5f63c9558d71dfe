"""Failing sweeps and polls are problems of their location."""

from __future__ import annotations

import time
from dataclasses import replace

from resolver.index import Index
from resolver.models import Location, Poll, State, SubscriptionStatus, Sweep
from resolver.registry import FreshnessPolicy, LocationProblems, TableKeeper

SECRET = "text of the server"


async def problems(index: Index) -> list[tuple[str, str]]:
    tables = TableKeeper(index, FreshnessPolicy(60))
    await tables.fresh()
    found = list(LocationProblems(tables).problems())
    assert SECRET not in str(found), "anybody may read this"
    assert all("locations check" in problem.action for problem in found)
    return [(problem.code, problem.location) for problem in found]


async def test_a_failing_sweep_and_poll_are_listed_until_they_succeed(index: Index) -> None:
    one = await index.records.put(Location(name="one", url="http://one.example"), None)
    await index.records.put(Location(name="two", url="http://two.example"), None)
    assert await problems(index) == []
    failed = Sweep(error=SECRET, error_code="bad-listing", failed=1.0)
    await index.records.set_sweep(one.number, failed, one)
    assert await problems(index) == [("sweep-failing", "one")]
    poll = Poll(error=SECRET, error_code="no-changes", failed=1.0)
    await index.records.set_poll(one.number, poll, one)
    assert await problems(index) == [("sweep-failing", "one"), ("poll-failing", "one")]
    await index.records.set_sweep(one.number, replace(failed, error="", error_code=""), one)
    await index.records.set_poll(one.number, Poll(ended=2.0), one)
    assert await problems(index) == []


async def test_no_location_in_service_is_a_problem(index: Index) -> None:
    tables = TableKeeper(index, FreshnessPolicy(60))
    assert not list(LocationProblems(tables).problems()), "nothing was read yet"

    async def found() -> list[tuple[str, str]]:
        await tables.fresh()
        return [(problem.code, problem.action) for problem in LocationProblems(tables).problems()]

    ((code, action),) = await found()
    assert code == "no-location"
    assert "locations add NAME URL" in action
    away = Location(name="one", url="http://one.example", state=State.MAINTENANCE)
    away = await index.records.put(away, None)
    ((code, action),) = await found()
    assert code == "no-location"
    assert "--state active" in action
    before = (await index.records.load()).records["one"]
    await index.records.put(replace(away, state=State.ACTIVE), before)
    assert await found() == []


async def test_notifications_that_are_not_read_are_a_problem(index: Index) -> None:
    where = {"url_env": "BROKER", "exchange": "glance"}
    fields = Location(name="one", url="http://one.example", notifications=where)
    one = await index.records.put(fields, None)
    tables = TableKeeper(index, FreshnessPolicy(60))

    async def found(subscription: SubscriptionStatus) -> list[tuple[str, float]]:
        await index.records.set_subscription(one.number, subscription, one)
        await tables.fresh()
        return [(p.code, p.since) for p in LocationProblems(tables).problems()]

    lost = SubscriptionStatus(since=5.0, at=9.0, error=SECRET, error_code="broker-unreachable")
    assert await found(lost) == [("events-lost", 5.0)]
    assert SECRET not in str(list(LocationProblems(tables).problems()))
    assert await found(SubscriptionStatus(connected=True, since=8.0, at=9.0)) == []


async def test_a_listing_that_may_leave_images_out_is_a_problem(index: Index) -> None:
    one = await index.records.put(Location(name="one", url="http://one.example"), None)
    gap = "its listing may leave images out"
    swept = Sweep(started=1.0, ended=time.time(), sees_all=True, listing_gap=gap)
    await index.records.set_sweep(one.number, swept, one)
    tables = TableKeeper(index, FreshnessPolicy(60))
    (problem,) = LocationProblems(await fresh(tables)).problems()
    assert (problem.code, problem.location) == ("listing-gap", "one")
    assert gap in problem.text
    view = tables.table.by_name["one"]
    assert view.coverage_problem(time.time()) == gap
    away = replace(view, location=replace(one, state=State.MAINTENANCE))
    assert away.unasked_problem(time.time()) == f"it is in maintenance, and {gap}"


async def fresh(tables: TableKeeper) -> TableKeeper:
    await tables.fresh()
    return tables
