"""Remembered probes, fresh answers, excluded owners, and changes while locations are asked."""

from __future__ import annotations

import asyncio
import time

import pytest

from resolver.models import Outcome, Sweep, format_id, parse_id
from resolver.resolution import Preferences
from resolver.resolution.answer import join_briefly
from resolver.standin import Caller
from tests.resolution.probing import (
    ID,
    KINDS,
    OTHER,
    THIRD,
    outcomes,
    wait_until_idle,
)
from tests.support import faults
from tests.support.clouds import FRESH, Cloud, Hold, clouds
from tests.support.ids import make_ids
from tests.support.wait import wait_until


async def test_a_claim_replaces_a_cached_absence(cloud: Cloud) -> None:
    server = await cloud.add("one")
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    server.add(id=ID)
    assert (await cloud.resolve(ID)).source == "cache"
    await cloud.claim("one", ID)
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND
    await cloud.index.claims.release(cloud.numbers["one"], [parse_id(ID)])
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND, (
        "it is probed again, not answered from the cache"
    )
    assert cloud.image_requests("one") == 2


async def test_a_fresh_request_does_not_use_a_cached_absence(cloud: Cloud) -> None:
    server = await cloud.add("one")
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    server.add(id=ID)
    answer = await cloud.resolve(ID, FRESH)
    assert (answer.outcome, answer.source) == (Outcome.FOUND, "probe")


async def test_a_cached_absence_expires() -> None:
    async with clouds(absent_ttl=0.05) as cloud:
        server = await cloud.add("one")
        assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
        server.add(id=ID)

        async def found() -> bool:
            return (await cloud.resolve(ID)).outcome is Outcome.FOUND

        await wait_until(found, 5)


async def test_absence_is_not_cached_when_absent_ttl_is_0() -> None:
    async with clouds(absent_ttl=0) as cloud:
        await cloud.add("one")
        for _ in range(3):
            answer = await cloud.resolve(ID)
            assert (answer.outcome, answer.source) == (Outcome.ABSENT, "probe")
            await wait_until_idle(cloud)
        assert cloud.image_requests("one") == 3


async def test_a_fresh_request_does_not_share_an_earlier_probe(cloud: Cloud) -> None:
    """The server handled the earlier probe before the image was created."""
    server = await cloud.add("one")
    cloud.set_fault("one", hold := Hold(responses=True))
    before = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    server.add(id=ID)
    lookups = cloud.count_lookups()
    fresh = asyncio.create_task(cloud.resolve(ID, FRESH))
    await wait_until(lookups)
    hold.open.set()
    assert (await before).outcome is Outcome.ABSENT
    assert (await fresh).outcome is Outcome.FOUND
    assert cloud.image_requests("one") == 2


async def test_a_thousand_fresh_requests_share_two_probes(cloud: Cloud) -> None:
    """The second is for the requests that arrived after the first had been sent."""
    await cloud.add("one")
    cloud.set_fault("one", hold := Hold())
    lookups = cloud.count_lookups()
    requests = [asyncio.create_task(cloud.resolve(ID, FRESH)) for _ in range(1000)]
    await wait_until(lambda: lookups() == 1000 and hold.waiting)
    hold.open.set()
    assert await outcomes(requests) == {Outcome.ABSENT}
    assert cloud.image_requests("one") == 2


async def test_fresh_releases_wrong_claims_and_offers_the_other_owners(cloud: Cloud) -> None:
    for name in ("gone", "failing", "present"):
        server = await cloud.add(name)
        await cloud.claim(name, ID)
    server.add(id=ID)
    cloud.set_fault("failing", faults.status(500))
    answer = await cloud.resolve(ID, FRESH)
    assert answer.outcome is Outcome.FOUND
    assert {owner.name for owner in answer.owners} == {"failing", "present"}
    assert await cloud.owners(ID) == {"failing", "present"}, (
        "the claim is released before the answer"
    )
    again = await cloud.resolve(ID)
    assert {owner.name for owner in again.owners} == {"failing", "present"}


async def test_fresh_probes_the_other_locations_when_no_owner_is_left(cloud: Cloud) -> None:
    await cloud.add("from")
    (await cloud.add("to")).add(id=ID)
    await cloud.claim("from", ID)
    answer = await cloud.resolve(ID, FRESH)
    assert [owner.name for owner in answer.owners] == ["to"]
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"to"}
    cloud.servers["to"].delete(ID)
    answer = await cloud.resolve(ID, FRESH)
    assert (answer.outcome, answer.source) == (Outcome.ABSENT, "probe")
    assert await cloud.owners(ID) == set()


async def test_a_404_for_a_limited_credential_releases_no_claim(cloud: Cloud) -> None:
    await cloud.add("limited", sees_all=False)
    await cloud.claim("limited", ID)
    answer = await cloud.resolve(ID, FRESH)
    assert [owner.name for owner in answer.owners] == ["limited"]
    assert answer.source == "index"
    assert await cloud.owners(ID) == {"limited"}


async def test_a_404_for_a_credential_that_sees_less_than_before_releases_no_claim(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is registered to see all: the last sweep had a proof, and now there is none."""
    monkeypatch.setenv("GLANCE_ONE_TOKEN", "ours")
    callers = {"ours": Caller("p", admin=True)}
    fields = {"auth": {"token_env": "GLANCE_ONE_TOKEN"}}
    server = await cloud.add("one", fields=fields, tokens=callers)
    server.add(id=ID, visibility="private", owner="q")
    await cloud.claim("one", ID)
    now = time.time()
    swept = Sweep(started=now - 1, ended=now, images=1, sees_all=True, sees_all_proven=True)
    await cloud.index.records.set_sweep(cloud.numbers["one"], swept)
    server.tokens = {"ours": Caller("p")}
    answer = await cloud.resolve(ID, FRESH)
    assert [owner.name for owner in answer.owners] == ["one"]
    assert (await cloud.resolve(OTHER, FRESH)).missing == ("one",)
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"one"}


async def test_an_excluded_owner_is_probed_in_the_background(cloud: Cloud) -> None:
    for name in ("gone", "present"):
        server = await cloud.add(name)
        await cloud.claim(name, ID)
    server.add(id=ID)
    cloud.set_fault("gone", hold := Hold())
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"gone"})))
    assert [owner.name for owner in answer.owners] == ["present"]
    await wait_until(lambda: hold.waiting)
    hold.open.set()
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"present"}
    assert cloud.image_requests("present") == 0


async def test_a_claim_of_an_excluded_only_owner_is_released_if_absent(cloud: Cloud) -> None:
    await cloud.add("gone")
    (await cloud.add("present")).add(id=ID)
    await cloud.claim("gone", ID)
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"gone"})))
    assert [owner.name for owner in answer.owners] == ["present"]
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"present"}


async def test_an_excluded_owner_is_probed_even_right_after_a_positive_probe(cloud: Cloud) -> None:
    """The client has tried that owner since the probe, and did not find the image."""
    server = await cloud.add("one")
    server.add(id=ID)
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND
    await wait_until_idle(cloud)
    server.delete(ID)
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert answer.outcome is Outcome.ABSENT
    assert await cloud.owners(ID) == set()


@pytest.mark.parametrize("has", [True, False])
async def test_a_claim_of_an_excluded_only_owner_is_kept_unless_absence_is_proven(
    cloud: Cloud, has: bool
) -> None:
    server = await cloud.add("one")
    await cloud.add("two")
    await cloud.claim("one", ID)
    if has:
        server.add(id=ID)
    else:
        cloud.set_fault("one", faults.status(500))
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert await cloud.owners(ID) == {"one"}


async def test_an_image_found_at_an_excluded_location_is_claimed_and_not_offered(
    cloud: Cloud,
) -> None:
    (await cloud.add("one")).add(id=ID)
    await cloud.add("two")
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "excluded" in answer.detail
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"one"}


async def test_a_probe_result_older_than_a_deletion_is_not_claimed(cloud: Cloud) -> None:
    server = await cloud.add("one")
    server.add(id=ID)
    cloud.set_fault("one", hold := Hold(responses=True))
    request = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    server.delete(ID)
    await cloud.index.observations.record_absent(cloud.numbers["one"], [parse_id(ID)])
    hold.open.set()
    await request
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == set()


async def test_a_location_removed_during_the_probe_is_not_offered(cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    await cloud.add("two")
    cloud.set_fault("one", hold := Hold())
    request = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    await cloud.services.registry.remove("one")
    hold.open.set()
    assert [owner.name for owner in (await request).owners] == []
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT


async def test_a_location_removed_during_the_probe_gets_no_claim(cloud: Cloud) -> None:
    """Its claims were collected before the response, and would not be collected again."""
    (await cloud.add("one")).add(id=ID)
    cloud.set_fault("one", hold := Hold())
    request = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    await cloud.services.registry.remove("one")
    await cloud.index.claims.purge(await cloud.index.records.retired())
    await cloud.index.records.forget_retired([cloud.numbers["one"]])
    hold.open.set()
    await request
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == set()


async def test_a_location_put_into_maintenance_during_the_probe_is_not_offered(
    cloud: Cloud,
) -> None:
    (await cloud.add("one")).add(id=ID)
    cloud.set_fault("one", hold := Hold())
    request = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    await cloud.services.registry.patch("one", {"state": "maintenance"})
    hold.open.set()
    assert (await request).owners == ()


async def test_an_image_is_not_absent_if_a_location_was_added_during_the_probe(
    cloud: Cloud,
) -> None:
    await cloud.add("one")
    cloud.set_fault("one", hold := Hold())
    request = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    (await cloud.add("two")).add(id=ID)
    hold.open.set()
    assert (await request).outcome is not Outcome.ABSENT
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND


@pytest.mark.parametrize("kind", ["v2", "v1"])
async def test_a_probe_also_tries_the_spelling_of_the_client(cloud: Cloud, kind: str) -> None:
    server = await cloud.add("one", **KINDS[kind])
    server.add(id=ID.upper())
    answer = await cloud.resolve(ID.upper())
    assert answer.as_json()["uri"].endswith(ID.upper())
    await wait_until_idle(cloud)
    answer = await cloud.resolve(ID)
    assert answer.as_json()["uri"].endswith(ID.upper()), (
        "the spelling of the owner, not of the client"
    )


async def test_an_upper_case_id_finds_a_lower_case_image(cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    answer = await cloud.resolve(ID.upper())
    assert answer.as_json()["uri"].endswith(ID)
    assert cloud.image_requests("one") == 1


async def test_an_absence_is_remembered_also_where_another_id_is_in_upper_case(
    cloud: Cloud,
) -> None:
    (await cloud.add("one")).add(id=ID.upper())
    assert (await cloud.resolve(ID.upper())).outcome is Outcome.FOUND
    await wait_until_idle(cloud)
    resolver, other = cloud.services.resolver, "ab" + ID[2:]
    assert (await cloud.resolve(other)).outcome is Outcome.ABSENT
    assert cloud.services.index.has_uppercase_ids
    table = cloud.services.tables.table
    assert resolver.remembered_absence(parse_id(other), table) is not None


async def test_probe_results_are_counted(cloud: Cloud) -> None:
    server = await cloud.add("one")
    server.add(id=OTHER)
    await cloud.resolve(ID)
    await cloud.resolve(OTHER)
    cloud.set_fault("one", faults.status(401))
    await cloud.resolve(THIRD)
    await wait_until_idle(cloud)
    assert cloud.services.prober.counts == {
        ("one", "no"): 1,
        ("one", "yes"): 1,
        ("one", "unauthorized"): 1,
    }


async def test_closing_the_prober_ends_waiting_requests() -> None:
    async with clouds() as cloud:
        await cloud.add("one")
        cloud.set_fault("one", hold := Hold())
        request = asyncio.create_task(cloud.resolve(ID))
        await wait_until(lambda: hold.waiting)
        await cloud.services.prober.close()
        async with asyncio.timeout(5):
            answer = await request
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
        hold.open.set()


async def test_expired_absences_are_removed_from_memory() -> None:
    async with clouds(absent_ttl=0.05) as cloud:
        await cloud.add("one")
        await cloud.add("two")
        prober = cloud.services.prober
        largest = 0
        for image_id in make_ids(200, seed=5):
            assert (await cloud.resolve(format_id(image_id))).outcome is Outcome.ABSENT
            largest = max(largest, len(prober.negatives))
        assert largest < 150
        await asyncio.sleep(0.1)
        for image_id in make_ids(largest, seed=6):
            await cloud.resolve(format_id(image_id))
        assert len(prober.negatives) < 150


async def test_a_single_unknown_id_is_probed_even_beyond_the_limit() -> None:
    """With more locations than probes at once, no miss would ever be asked."""
    async with clouds(probes_at_once=3, absent_ttl=0) as cloud:
        holds = []
        for number in range(6):
            await cloud.add(f"l{number}")
            cloud.set_fault(f"l{number}", hold := Hold())
            holds.append(hold)
        first = asyncio.create_task(cloud.resolve(ID))
        await wait_until(lambda: all(hold.waiting for hold in holds))
        second = await cloud.resolve(OTHER)
        assert second.outcome is Outcome.UNKNOWN, "only one at a time"
        assert len(second.missing) == 6
        assert second.detail.count("too many probes are in flight") == 4
        assert second.detail.endswith("and 2 more.")
        for hold in holds:
            hold.open.set()
        assert (await first).outcome is Outcome.ABSENT
        await wait_until_idle(cloud)
        assert (await cloud.resolve(OTHER)).outcome is Outcome.ABSENT


@pytest.mark.parametrize("count", [4, 5, 300])
async def test_the_text_of_an_answer_is_short_for_any_number_of_locations(count: int) -> None:
    reasons = [f"location-{number}: it did not answer within 2 s" for number in range(count)]
    text = join_briefly(reasons)
    assert len(text) < 250
    assert text.startswith("location-0: it did not answer within 2 s; location-1")
    assert text.endswith(f"; and {count - 4} more") is (count > 4)
