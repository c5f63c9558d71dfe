"""The three answers: found, absent, and every way not to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from resolver.errors import IndexUnavailable
from resolver.index import Index, Lookup, open_index
from resolver.models import Check, Health, Outcome, Sweep
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.resolution import Answer, Preferences, Resolver
from resolver.resolution.explain import explain
from resolver.settings import Settings
from tests.support.ids import make_ids

A, B, C = make_ids(3)
FRESH_FOR = 600.0
ANY = Preferences()


class House:
    """A registry over an index, with locations that look swept."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.tables = TableKeeper(index, FreshnessPolicy(FRESH_FOR))
        self.registry = Registry(index, self.tables, Settings())
        self.resolver = Resolver(index, self.tables, deadline=5)

    async def add(
        self,
        name: str,
        *ids: bytes,
        swept: bool = True,
        health: Health = Health.UP,
        **fields: Any,
    ) -> int:
        location, _ = await self.registry.put(name, {"url": f"http://{name}.example", **fields})
        now = time.time()
        records = self.index.records
        await records.set_check(location.number, Check(at=now, health=health, versions=("v2.15",)))
        if swept:
            sweep = Sweep(started=now - 1, ended=now, images=len(ids), sees_all=True)
            await records.set_sweep(location.number, sweep)
        await self.index.claims.claim(location.number, ids)
        return location.number

    async def ask(self, image_id: bytes, preferences: Preferences = ANY) -> Answer:
        return await self.resolver.resolve(image_id, preferences)

    async def owners(self, image_id: bytes, preferences: Preferences = ANY) -> list[str]:
        return [owner.name for owner in (await self.ask(image_id, preferences)).owners]


@pytest.fixture
def house(index: Index) -> House:
    return House(index)


async def test_an_image_with_two_owners_is_found(house: House) -> None:
    await house.add("one", A, priority=1)
    await house.add("two", A, B, priority=2)
    answer = await house.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.FOUND, ())
    shown = answer.as_json()
    assert shown["uri"] == f"http://one.example/v1/images/{answer.id}"
    assert shown["url"] == f"http://one.example/v2/images/{answer.id}"
    assert [owner["location"] for owner in shown["owners"]] == ["one", "two"]


async def test_found_even_if_another_location_is_not_covered(house: House) -> None:
    await house.add("one", A)
    await house.add("two", swept=False)
    answer = await house.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.FOUND, ())


async def test_an_image_is_found_while_its_only_owner_is_down(house: House) -> None:
    await house.add("one", A, health=Health.DOWN)
    await house.add("two")
    assert await house.owners(A) == ["one"]


async def test_absent_when_every_location_is_covered(house: House) -> None:
    await house.add("one", A)
    await house.add("two", B)
    answer = await house.ask(C)
    assert (answer.outcome, answer.owners, answer.missing) == (Outcome.ABSENT, (), ())


async def test_absence_does_not_depend_on_locations_in_maintenance(house: House) -> None:
    await house.add("one")
    await house.add("two", swept=False, state="maintenance")
    assert (await house.ask(C)).outcome is Outcome.ABSENT


async def test_unknown_when_a_location_was_not_swept(house: House) -> None:
    await house.add("one")
    await house.add("two", swept=False)
    answer = await house.ask(C)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))
    assert "two: not swept yet" in answer.detail


async def test_unknown_when_a_sweep_is_too_old(house: House) -> None:
    number = await house.add("one")
    past = time.time() - FRESH_FOR - 60
    old = Sweep(
        started=past,
        ended=past + 1,
        sees_all=True,
        error="it answered 500",
        error_code="server-error",
    )
    await house.index.records.set_sweep(number, old)
    answer = await house.ask(C)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "(server-error)" in answer.detail


@pytest.mark.parametrize("sees_all", [False, None])
async def test_unknown_when_a_credential_may_not_see_all(
    house: House, sees_all: bool | None
) -> None:
    number = await house.add("one")
    now = time.time()
    sweep = Sweep(started=now, ended=now, sees_all=sees_all, sees_all_why="cannot be told")
    await house.index.records.set_sweep(number, sweep)
    answer = await house.ask(C)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    await house.registry.patch("one", {"sees_all": True})
    assert (await house.ask(C)).outcome is Outcome.ABSENT, "an operator's word counts"
    await house.registry.patch("one", {"sees_all": False})
    assert (await house.ask(C)).outcome is Outcome.UNKNOWN


async def test_unknown_when_the_only_owner_is_in_maintenance(house: House) -> None:
    await house.add("one", A, state="maintenance", reason="disk swap")
    await house.add("two")
    answer = await house.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "in maintenance: disk swap" in answer.detail


async def test_unknown_when_the_only_owner_is_excluded(house: House) -> None:
    await house.add("one", A)
    await house.add("two")
    answer = await house.ask(A, Preferences(exclude=frozenset({"one"})))
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "excluded" in answer.detail
    answer = await house.ask(C, Preferences(exclude=frozenset({"one"})))
    assert answer.outcome is Outcome.ABSENT, "it vouches, excluded or not"


async def test_unknown_without_any_location(house: House) -> None:
    assert (await house.ask(A)).outcome is Outcome.UNKNOWN
    await house.add("one", state="maintenance")
    answer = await house.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ())
    assert "No location" in answer.detail


async def test_the_requested_region_ranks_before_the_home_region(house: House) -> None:
    for name in ("r1", "r2", "r3"):
        await house.add(name, A, region=name, priority=int(name[1]))
    house.resolver = Resolver(house.index, house.tables, home_region="r2", deadline=5)
    assert await house.owners(A) == ["r2", "r1", "r3"]
    assert await house.owners(A, Preferences(region="r3")) == ["r3", "r2", "r1"]
    assert await house.owners(A, Preferences(exclude=frozenset({"r2"}))) == ["r1", "r3"]


async def test_a_removed_location_is_no_longer_an_owner(house: House) -> None:
    await house.add("one", A)
    await house.add("two", A, B)
    assert set(await house.owners(A)) == {"one", "two"}
    await house.registry.remove("two")
    assert await house.owners(A) == ["one"]
    assert (await house.ask(B)).outcome is Outcome.ABSENT
    await house.add("two")
    assert await house.owners(A) == ["one"], "added again, it starts without claims"


async def test_claims_do_not_follow_a_location_to_a_new_url(house: House) -> None:
    await house.add("one", A)
    assert await house.owners(A) == ["one"]
    await house.registry.patch("one", {"url": "http://else.example"})
    answer = await house.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))


async def test_another_process_applies_a_change_to_its_next_answer(house: House) -> None:
    await house.add("one", A)
    other = House(house.index)
    assert await other.owners(A) == ["one"]
    await house.registry.patch("one", {"state": "maintenance"})
    assert (await other.ask(A)).outcome is Outcome.UNKNOWN


async def test_the_spelling_of_the_owner_is_used(house: House) -> None:
    number = await house.add("one")
    await house.index.claims.claim(number, {b"\xab" * 16: 1 << 31})
    answer = (await house.ask(b"\xab" * 16)).as_json()
    assert answer["url"].endswith("/v2/images/Abababab-abab-abab-abab-abababababab")


async def test_bulk_answers_keep_the_order_of_the_ids(house: House) -> None:
    await house.add("one", A)
    templates = await house.resolver.resolve_many([C, A, B, A], ANY)
    outcomes = [template.outcome for template in templates]
    assert outcomes == [Outcome.ABSENT, Outcome.FOUND, Outcome.ABSENT, Outcome.FOUND]


async def test_explaining_names_every_location(house: House) -> None:
    await house.add("best", A, priority=1)
    await house.add("next", A, priority=2)
    await house.add("full", A, state="maintenance", reason="disk swap")
    await house.add("other")
    await house.add("new", swept=False)
    shown = explain(await house.resolver.resolve_in_full(A, ANY))
    rows = {row["location"]: row for row in shown["locations"]}
    assert [row["location"] for row in shown["locations"]][:2] == ["best", "next"]
    verdicts = {name: (row["verdict"], row["rank"]) for name, row in rows.items()}
    assert verdicts == {
        "best": ("chosen", 1),
        "next": ("ranked", 2),
        "full": ("left out", None),
        "other": ("not an owner", None),
        "new": ("not an owner", None),
    }
    assert rows["full"]["reasons"] == ["in maintenance: disk swap"]
    assert "not swept yet" in rows["new"]["reasons"]
    assert (rows["new"]["covered"], rows["other"]["covered"]) == (False, True)
    assert shown["outcome"] == "found"


@pytest.mark.redis
async def test_a_hanging_redis_is_reported_within_the_deadline(redis_url: str) -> None:
    async with open_index(redis_url, bits=8) as index, Redis.from_url(redis_url) as other:
        house = House(index)
        await house.add("one", A)
        house.resolver = Resolver(index, house.tables, deadline=0.1)
        await other.execute_command("CLIENT", "PAUSE", "600", "ALL")
        async with asyncio.timeout(0.5):
            with pytest.raises(IndexUnavailable, match=r"within 0\.1 s"):
                await house.ask(A)
        await other.ping()  # comes back when the pause is over
        house.resolver = Resolver(index, house.tables, deadline=5)
        assert await house.owners(A) == ["one"]


async def test_a_table_newer_than_the_lookup_does_not_prove_absence(house: House) -> None:
    """A first sweep that ends between the two makes `absent` of what it has just claimed."""
    number = await house.add("one", swept=False)
    claims = house.index.claims
    lookup = claims.lookup
    crossed = False

    async def crossing(ids: Sequence[bytes], *, cache: bool) -> Lookup:
        nonlocal crossed
        found = await lookup(ids, cache=cache)
        if not crossed:
            crossed = True
            await claims.claim(number, [A])
            now = time.time()
            await house.index.records.set_sweep(
                number, Sweep(started=now - 1, ended=now, images=1, sees_all=True)
            )
        return found

    claims.lookup = crossing  # type: ignore[method-assign]
    answer = await house.ask(A)
    assert answer.outcome is Outcome.FOUND
