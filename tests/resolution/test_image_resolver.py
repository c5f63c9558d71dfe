"""The three outcomes: found, absent, and every reason for unknown."""

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
from resolver.resolution import Answer, BulkResolver, Preferences, Resolver
from resolver.resolution.explain import explain
from resolver.settings import Settings
from tests.support.ids import make_ids

A, B, C = make_ids(3)
FRESH_FOR = 600.0
ANY = Preferences()


class Harness:
    """A resolver, and a registry of locations with the status of a completed sweep."""

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
def harness(index: Index) -> Harness:
    return Harness(index)


async def test_an_image_with_two_owners_is_found(harness: Harness) -> None:
    await harness.add("one", A, priority=1)
    await harness.add("two", A, B, priority=2)
    answer = await harness.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.FOUND, ())
    shown = answer.as_json()
    assert shown["uri"] == f"http://one.example/v1/images/{answer.id}"
    assert shown["url"] == f"http://one.example/v2/images/{answer.id}"
    assert [owner["location"] for owner in shown["owners"]] == ["one", "two"]


async def test_found_even_if_another_location_is_not_covered(harness: Harness) -> None:
    await harness.add("one", A)
    await harness.add("two", swept=False)
    answer = await harness.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.FOUND, ())


async def test_an_image_is_found_while_its_only_owner_is_down(harness: Harness) -> None:
    await harness.add("one", A, health=Health.DOWN)
    await harness.add("two")
    assert await harness.owners(A) == ["one"]


async def test_absent_when_every_location_is_covered(harness: Harness) -> None:
    await harness.add("one", A)
    await harness.add("two", B)
    answer = await harness.ask(C)
    assert (answer.outcome, answer.owners, answer.missing) == (Outcome.ABSENT, (), ())


async def test_absence_does_not_depend_on_locations_in_maintenance(harness: Harness) -> None:
    await harness.add("one")
    await harness.add("two", state="maintenance")
    assert (await harness.ask(C)).outcome is Outcome.ABSENT


async def test_unknown_when_a_location_in_maintenance_was_never_swept(harness: Harness) -> None:
    await harness.add("one")
    await harness.add("two", swept=False, state="maintenance")
    answer = await harness.ask(C)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))
    assert "two: it is in maintenance, and was never swept" in answer.detail
    await harness.registry.patch("two", {"vouches": False})
    assert (await harness.ask(C)).outcome is Outcome.ABSENT


async def test_unknown_when_a_location_was_not_swept(harness: Harness) -> None:
    await harness.add("one")
    await harness.add("two", swept=False)
    answer = await harness.ask(C)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))
    assert "two: not swept yet" in answer.detail


async def test_unknown_when_a_sweep_is_too_old(harness: Harness) -> None:
    number = await harness.add("one")
    past = time.time() - FRESH_FOR - 60
    old = Sweep(
        started=past,
        ended=past + 1,
        sees_all=True,
        error="it answered 500",
        error_code="server-error",
    )
    await harness.index.records.set_sweep(number, old)
    answer = await harness.ask(C)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "(server-error)" in answer.detail


@pytest.mark.parametrize("sees_all", [False, None])
async def test_unknown_when_a_credential_may_not_see_all(
    harness: Harness, sees_all: bool | None
) -> None:
    number = await harness.add("one")
    now = time.time()
    sweep = Sweep(started=now, ended=now, sees_all=sees_all, sees_all_why="not known")
    await harness.index.records.set_sweep(number, sweep)
    answer = await harness.ask(C)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    await harness.registry.patch("one", {"sees_all": True})
    assert (await harness.ask(C)).outcome is Outcome.ABSENT, "the registered value counts"
    await harness.registry.patch("one", {"sees_all": False})
    assert (await harness.ask(C)).outcome is Outcome.UNKNOWN


async def test_unknown_when_the_only_owner_is_in_maintenance(harness: Harness) -> None:
    await harness.add("one", A, state="maintenance", reason="disk swap")
    await harness.add("two")
    answer = await harness.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "in maintenance: disk swap" in answer.detail


async def test_unknown_when_the_only_owner_is_excluded(harness: Harness) -> None:
    await harness.add("one", A)
    await harness.add("two")
    answer = await harness.ask(A, Preferences(exclude=frozenset({"one"})))
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "excluded" in answer.detail
    answer = await harness.ask(C, Preferences(exclude=frozenset({"one"})))
    assert answer.outcome is Outcome.ABSENT, "an excluded location proves absence too"


async def test_unknown_without_any_location(harness: Harness) -> None:
    assert (await harness.ask(A)).outcome is Outcome.UNKNOWN
    await harness.add("one", state="maintenance")
    answer = await harness.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ())
    assert "No location" in answer.detail


async def test_the_requested_region_ranks_before_the_home_region(harness: Harness) -> None:
    for name in ("r1", "r2", "r3"):
        await harness.add(name, A, region=name, priority=int(name[1]))
    harness.resolver = Resolver(harness.index, harness.tables, home_region="r2", deadline=5)
    assert await harness.owners(A) == ["r2", "r1", "r3"]
    assert await harness.owners(A, Preferences(region="r3")) == ["r3", "r2", "r1"]
    assert await harness.owners(A, Preferences(exclude=frozenset({"r2"}))) == ["r1", "r3"]


async def test_a_removed_location_is_no_longer_an_owner(harness: Harness) -> None:
    await harness.add("one", A)
    await harness.add("two", A, B)
    assert set(await harness.owners(A)) == {"one", "two"}
    await harness.registry.remove("two")
    assert await harness.owners(A) == ["one"]
    assert (await harness.ask(B)).outcome is Outcome.ABSENT
    await harness.add("two")
    assert await harness.owners(A) == ["one"], "added again it has no claims"


async def test_claims_do_not_follow_a_location_to_a_new_url(harness: Harness) -> None:
    await harness.add("one", A)
    assert await harness.owners(A) == ["one"]
    await harness.registry.patch("one", {"url": "http://else.example"})
    answer = await harness.ask(A)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))


async def test_another_process_applies_a_change_to_its_next_answer(harness: Harness) -> None:
    await harness.add("one", A)
    other = Harness(harness.index)
    assert await other.owners(A) == ["one"]
    await harness.registry.patch("one", {"state": "maintenance"})
    assert (await other.ask(A)).outcome is Outcome.UNKNOWN


async def test_the_spelling_of_the_owner_is_used(harness: Harness) -> None:
    number = await harness.add("one")
    await harness.index.claims.claim(number, {b"\xab" * 16: 1 << 31})
    answer = (await harness.ask(b"\xab" * 16)).as_json()
    assert answer["url"].endswith("/v2/images/Abababab-abab-abab-abab-abababababab")


async def test_bulk_answers_keep_the_order_of_the_ids(harness: Harness) -> None:
    await harness.add("one", A)
    templates = await BulkResolver(harness.resolver).resolve_many([C, A, B, A], ANY)
    outcomes = [template.outcome for template in templates]
    assert outcomes == [Outcome.ABSENT, Outcome.FOUND, Outcome.ABSENT, Outcome.FOUND]


async def test_explaining_names_every_location(harness: Harness) -> None:
    await harness.add("best", A, priority=1)
    await harness.add("next", A, priority=2)
    await harness.add("full", A, state="maintenance", reason="disk swap")
    await harness.add("other")
    await harness.add("new", swept=False)
    shown = explain(await harness.resolver.resolve_in_full(A, ANY))
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
        harness = Harness(index)
        await harness.add("one", A)
        harness.resolver = Resolver(index, harness.tables, deadline=0.1)
        await other.execute_command("CLIENT", "PAUSE", "600", "ALL")
        async with asyncio.timeout(0.5):
            with pytest.raises(IndexUnavailable, match=r"within 0\.1 s"):
                await harness.ask(A)
        await other.ping()  # returns when the pause has ended
        harness.resolver = Resolver(index, harness.tables, deadline=5)
        assert await harness.owners(A) == ["one"]


async def test_a_table_newer_than_the_lookup_does_not_prove_absence(harness: Harness) -> None:
    """Otherwise an image whose first sweep ends between the two reads would be absent."""
    number = await harness.add("one", swept=False)
    claims = harness.index.claims
    lookup = claims.lookup
    has_swept = False

    async def lookup_then_sweep(ids: Sequence[bytes], *, cache: bool) -> Lookup:
        nonlocal has_swept
        found = await lookup(ids, cache=cache)
        if not has_swept:
            has_swept = True
            await claims.claim(number, [A])
            now = time.time()
            await harness.index.records.set_sweep(
                number, Sweep(started=now - 1, ended=now, images=1, sees_all=True)
            )
        return found

    claims.lookup = lookup_then_sweep  # type: ignore[method-assign]
    answer = await harness.ask(A)
    assert answer.outcome is Outcome.FOUND
