"""Bootstrap: the index exists and has the startup locations, also after Redis lost its data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from structlog.testing import capture_logs

from resolver.gateway.server import cancel
from resolver.index import Index
from resolver.models import State
from resolver.registry import Bootstrap, FreshnessPolicy, LocationProblems, Registry, TableKeeper
from resolver.settings import Settings
from tests.support.instrumented_client import InstrumentedClient
from tests.support.wait import wait_until

STARTUP = {"one": {"url": "http://one.example"}, "two": {"url": "http://two.example"}}


class Process:
    """The parts of a process that keep its index in order."""

    def __init__(
        self,
        startup_locations: Mapping[str, Any] = STARTUP,
        registered_index: str = "",
        index: Index | None = None,
    ) -> None:
        self.client = InstrumentedClient()
        self.index = index or self.client.index()
        self.tables = TableKeeper(self.index, FreshnessPolicy(600))
        self.registry = Registry(self.index, self.tables, Settings())
        self.bootstrap = Bootstrap(
            self.index, self.tables, self.registry, startup_locations, registered_index
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.bootstrap.start()
        task = asyncio.create_task(self.bootstrap.run())
        try:
            yield
        finally:
            await cancel(task)

    async def names(self) -> set[str]:
        return set((await self.index.records.load()).records)

    async def lose_data(self) -> None:
        await self.client.command("FLUSHALL")


async def test_a_new_index_gets_the_startup_locations() -> None:
    process = Process()
    await process.bootstrap.start()
    assert await process.names() == {"one", "two"}
    assert process.bootstrap.registered_index == await process.index.identity()


async def test_an_index_with_the_startup_locations_is_not_changed() -> None:
    process = Process()
    await process.index.create_if_missing()
    process.bootstrap.registered_index = await process.index.identity()
    await process.bootstrap.start()
    assert await process.names() == set()


async def test_lost_locations_are_registered_as_they_were_last_seen() -> None:
    process = Process()
    async with process.running():
        before = await process.registry.patch("one", {"state": "maintenance", "reason": "disks"})
        await process.registry.remove("two")
        await wait_until(lambda: process.tables.is_current)
        await process.lose_data()
        await wait_until(process.names)
    records = (await process.index.records.load()).records
    assert list(records) == ["one"]
    assert records["one"].location.state is State.MAINTENANCE
    assert records["one"].location.number > before.number, "others may remember the old number"


async def test_lost_locations_are_registered_though_others_read_the_table_without_them() -> None:
    process = Process()
    await process.bootstrap.start()
    keys = process.index.records.keys
    await process.client.command("DEL", keys.locations)
    await process.tables.refresh_if_lost()
    assert not process.tables.table.by_name
    await process.client.command("DEL", keys.meta)
    await process.bootstrap.start()
    assert await process.names() == {"one", "two"}


async def test_lost_locations_of_operators_are_known_to_every_process_and_logged() -> None:
    process = Process()
    async with process.running():
        await process.registry.put("mine", {"url": "http://mine.example"})
        await process.registry.put("gone", {"url": "http://gone.example"})
        await process.registry.remove("gone")
        await process.tables.current()
        with capture_logs() as logs:
            await process.lose_data()
            await wait_until(lambda: "mine" in process.tables.table.lost)
    assert [e["locations"] for e in logs if e["event"] == "redis lost locations"] == ["mine"]
    assert [e["locations"] for e in logs if e["event"].endswith("registered again")] == [[*STARTUP]]
    newcomer = TableKeeper(process.index, FreshnessPolicy(600))
    table = await newcomer.fresh()
    assert table.by_name.keys() == STARTUP.keys()
    assert table.lost_locations().keys() == {"mine"}
    (problem,) = LocationProblems(newcomer).problems()
    assert (problem.code, problem.location) == ("location-lost", "mine")
    await process.registry.put("mine", {"url": "http://mine.example"})
    assert not (await newcomer.current()).lost_names


async def test_every_location_that_keeps_images_from_being_absent_is_a_problem() -> None:
    """Those that this process alone remembers, too, and those that it has yet to register."""
    process = Process()
    await process.index.create_if_missing()
    await process.registry.put("mine", {"url": "http://mine.example"})
    await process.tables.fresh()
    await process.index.client.command("FLUSHALL")
    await process.index.create_if_missing()
    table = await process.tables.fresh()
    assert table.lost_locations().keys() == {"one", "two", "mine"}
    found = {p.location: p.code for p in LocationProblems(process.tables).problems()}
    assert found.items() >= {("mine", "location-lost"), ("one", "cannot-vouch")}
    assert found.keys() >= table.lost_locations().keys()


async def test_a_location_that_an_operator_removed_stays_removed_after_a_restart() -> None:
    first = Process()
    await first.bootstrap.start()
    await first.registry.remove("two")
    second = Process(index=first.index)
    with capture_logs() as logs:
        await second.bootstrap.start()
    assert await second.names() == {"one"}
    assert logs[-1]["locations"] == ["two"]
    (problem,) = second.bootstrap.problems()
    assert (problem.code, problem.location) == ("startup-location-removed", "two")
    assert "two" not in second.tables.table.lost_locations(), "it keeps no image from being absent"
    await second.registry.put("two", {"url": "http://two.example"})
    assert not [*second.bootstrap.problems()]
    third = Process(index=first.index)
    await third.bootstrap.start()
    assert await third.names() == {"one", "two"}


async def test_a_lost_registry_without_startup_locations_is_a_fault() -> None:
    process = Process({}, registered_index="an index with locations")
    await process.bootstrap.start()
    assert "register them again" in process.bootstrap.fault
    assert await process.index.client.command("KEYS", "*meta*") == []


async def test_nothing_is_absent_before_the_startup_locations_are_registered() -> None:
    """Redis may answer requests again before the process registers its locations."""
    asleep = {
        "asleep": {"url": "http://asleep.example", "vouches": False},
        "closed": {"url": "http://closed.example", "state": "maintenance"},
        "removed": {"url": "http://removed.example"},
    }
    process = Process({**STARTUP, **asleep})
    await process.index.create_if_missing()
    for name in ("one", "removed"):
        await process.registry.put(name, {"url": f"http://{name}.example"})
    await process.registry.remove("removed")
    table = await process.tables.fresh()
    assert table.lost_locations().keys() == {"two"}
    assert "not registered yet" in table.coverage_problems(time.time())["two"]
    await process.bootstrap.start()
    assert process.tables.table.by_name.keys() >= {"one", "two", "asleep", "closed"}
    assert not process.tables.table.lost_locations()


async def test_an_outage_is_logged_once_and_so_is_its_end() -> None:
    process = Process()
    with capture_logs() as logs:
        async with process.running():
            process.client.fails = lambda: True
            await wait_until(lambda: process.bootstrap.fault)
            process.client.fails = lambda: False
            await wait_until(lambda: not process.bootstrap.fault)
    events = [entry["event"] for entry in logs]
    assert events.count("redis unavailable") == events.count("redis available again") == 1
