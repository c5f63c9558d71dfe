"""A reader that follows the registry by its changes has what a reader of everything has."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest

from resolver.errors import Conflict
from resolver.index import Index, Snapshot
from resolver.index.records import LOAD, LOAD_CHANGES, MAX_CHANGES
from resolver.models import Check, Health, Location, Sweep
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.settings import Settings
from tests.support.instrumented_client import InstrumentedClient

NAMES = [f"l{n}" for n in range(12)]
STEPS = 150
CHANGES = ["sweep", "raw", "lost", "unlogged"]
REGISTRY = "glr:{reg}:"


async def change(index: Index, rng: random.Random, step: int) -> None:
    """One change, by a program of ours or by one that knows of no log of changes."""
    records = index.records
    name = rng.choice(NAMES)
    known = (await records.load()).records
    before = known.get(name)
    what = rng.choice(
        ["put", "put", "remove", "check", "check", "sweep", "raw", "lost", "unlogged"]
    )
    if what == "put":
        url = before.location.url if before and rng.random() < 0.5 else f"http://{step}.example"
        location = Location(name=name, url=url, weight=step)
        if before:
            location = replace(location, number=before.location.number)
        with suppress(Conflict):  # its record cannot be read
            await records.put(location, before)
    elif what == "remove":
        await records.remove(name)
    elif what == "raw":  # as an older program does, or a person
        await index.client.command("HSET", REGISTRY + "locations", name, f"{step + 1000} {{}}")
        await index.client.command("INCR", REGISTRY + "version")
    elif what == "lost":
        await index.client.command("DEL", REGISTRY + rng.choice(["changes", "changes", "status"]))
        await index.client.command("INCR", REGISTRY + "version")
    elif before is not None:
        number, of = before.location.number, before.location
        if what == "check":
            await records.set_check(number, Check(at=step, health=Health.UP), of)
        elif what == "sweep":
            await records.set_sweep(number, Sweep(started=1.0, ended=float(step)), of)
        else:
            await records.set_check(number, Check(at=step, health=Health.DOWN))


@pytest.mark.parametrize("seed", range(4))
async def test_reading_changes_gives_the_same_registry_as_reading_everything(
    index: Index, seed: int
) -> None:
    rng = random.Random(seed)
    followers = {every: await index.records.load() for every in (1, 3, 20)}
    for step in range(STEPS):
        await change(index, rng, step)
        everything = await index.records.load()
        for every, known in followers.items():
            if step % every == 0:
                found = await index.records.load_changes(known)
                assert replace(found, changed=None, complete=everything.complete) == everything
                assert list(found.records) == list(everything.records)
                followers[every] = found


async def tables_agree(follower: TableKeeper, index: Index) -> None:
    whole = TableKeeper(index, follower.policy)
    one, other = await follower.current(), await whole.current()
    assert (one.version, one.identity) == (other.version, other.identity)
    assert list(one.by_name.values()) == list(other.by_name.values())
    assert one.by_number == other.by_number
    assert one.in_service() == other.in_service()


async def test_location_tables_follow_random_changes(index: Index) -> None:
    rng = random.Random(7)
    follower = TableKeeper(index, FreshnessPolicy(600))
    for step in range(STEPS):
        await change(index, rng, step)
        await tables_agree(follower, index)


async def test_a_change_does_not_make_readers_load_the_whole_registry() -> None:
    client = InstrumentedClient()
    index = client.index()
    await index.create_if_missing()
    tables = TableKeeper(index, FreshnessPolicy(600))
    registry = Registry(index, tables, Settings())
    await registry.register({f"l{n}": {"url": f"http://s{n}.example"} for n in range(500)})
    table = await tables.current()
    other = TableKeeper(index, FreshnessPolicy(600))
    await other.current()
    whole, views = client.runs_of(LOAD), dict(table.by_name)
    await registry.patch("l7", {"weight": 9})
    location = views["l8"].location
    await index.records.set_check(location.number, Check(at=1.0, health=Health.DOWN), location)
    table = await other.current()
    assert (table.by_name["l7"].location.weight, table.by_name["l8"].health) == (9, Health.DOWN)
    assert client.runs_of(LOAD) == whole
    assert client.runs_of(LOAD_CHANGES) > 0
    same = [name for name in views if table.by_name[name] == views[name]]
    assert len(same) == len(views) - 2


async def test_a_reader_that_is_far_behind_reads_everything(index: Index) -> None:
    known: Snapshot = await index.records.load()
    registry = Registry(index, TableKeeper(index, FreshnessPolicy(600)), Settings())
    many = {f"l{n}": {"url": f"http://s{n}.example"} for n in range(MAX_CHANGES + 1)}
    await registry.register(many)
    found = await index.records.load_changes(known)
    assert found.changed is None
    assert set(found.records) == set(many)
