"""Remembered probes, fresh answers, excluded owners, and changes while locations are asked."""

from __future__ import annotations

import asyncio

import pytest

from resolver.models import Outcome, format_id, parse_id
from resolver.resolution import Preferences
from tests.resolution.probing import (
    ID,
    KINDS,
    OTHER,
    THIRD,
    idle,
    outcomes,
)
from tests.support import faults
from tests.support.clouds import FRESH, Cloud, Hold, clouds
from tests.support.ids import make_ids
from tests.support.wait import wait_until


async def test_a_remembered_no_is_dropped_when_a_claim_comes(cloud: Cloud) -> None:
    server = await cloud.add("one")
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    server.add(id=ID)
    assert (await cloud.resolve(ID)).source == "cache"
    await cloud.claim("one", ID)
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND
    await cloud.index.claims.release(cloud.numbers["one"], [parse_id(ID)])
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND, "asked, not remembered"
    assert cloud.asked("one") == 2


async def test_a_remembered_no_does_not_do_for_fresh(cloud: Cloud) -> None:
    server = await cloud.add("one")
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    server.add(id=ID)
    answer = await cloud.resolve(ID, FRESH)
    assert (answer.outcome, answer.source) == (Outcome.FOUND, "probe")


async def test_a_no_is_forgotten_in_time() -> None:
    async with clouds(absent_ttl=0.05) as cloud:
        server = await cloud.add("one")
        assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
        server.add(id=ID)

        async def found() -> bool:
            return (await cloud.resolve(ID)).outcome is Outcome.FOUND

        await wait_until(found, 5)


async def test_a_no_that_is_not_remembered() -> None:
    async with clouds(absent_ttl=0) as cloud:
        await cloud.add("one")
        for _ in range(3):
            answer = await cloud.resolve(ID)
            assert (answer.outcome, answer.source) == (Outcome.ABSENT, "probe")
            await idle(cloud)
        assert cloud.asked("one") == 3


async def test_fresh_does_not_take_an_answer_of_before_it_came(cloud: Cloud) -> None:
    """The question under way was answered when the image was not there yet."""
    server = await cloud.add("one")
    cloud.spoil("one", hold := Hold(answers=True))
    before = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    server.add(id=ID)
    looked = cloud.lookups()
    fresh = asyncio.create_task(cloud.resolve(ID, FRESH))
    await wait_until(looked)
    hold.open.set()
    assert (await before).outcome is Outcome.ABSENT
    assert (await fresh).outcome is Outcome.FOUND
    assert cloud.asked("one") == 2


async def test_a_thousand_fresh_requests_make_two_questions(cloud: Cloud) -> None:
    """One that is answered too early for those who came later, and one for all of these."""
    await cloud.add("one")
    cloud.spoil("one", hold := Hold())
    looked = cloud.lookups()
    asking = [asyncio.create_task(cloud.resolve(ID, FRESH)) for _ in range(1000)]
    await wait_until(lambda: looked() == 1000 and hold.waiting)
    hold.open.set()
    assert await outcomes(asking) == {Outcome.ABSENT}
    assert cloud.asked("one") == 2


async def test_fresh_releases_what_is_gone_and_answers_with_the_rest(cloud: Cloud) -> None:
    for name in ("gone", "silent", "there"):
        server = await cloud.add(name)
        await cloud.claim(name, ID)
    server.add(id=ID)
    cloud.spoil("silent", faults.status(500))
    answer = await cloud.resolve(ID, FRESH)
    assert answer.outcome is Outcome.FOUND
    assert {owner.name for owner in answer.owners} == {"silent", "there"}
    assert await cloud.owners(ID) == {"silent", "there"}, "released before it was answered"
    again = await cloud.resolve(ID)
    assert {owner.name for owner in again.owners} == {"silent", "there"}


async def test_fresh_asks_the_others_when_no_owner_is_left(cloud: Cloud) -> None:
    await cloud.add("from")
    (await cloud.add("to")).add(id=ID)
    await cloud.claim("from", ID)
    answer = await cloud.resolve(ID, FRESH)
    assert [owner.name for owner in answer.owners] == ["to"]
    await idle(cloud)
    assert await cloud.owners(ID) == {"to"}
    cloud.servers["to"].delete(ID)
    answer = await cloud.resolve(ID, FRESH)
    assert (answer.outcome, answer.source) == (Outcome.ABSENT, "probe")
    assert await cloud.owners(ID) == set()


async def test_a_no_of_one_who_does_not_see_all_releases_nothing(cloud: Cloud) -> None:
    await cloud.add("blind", sees_all=False)
    await cloud.claim("blind", ID)
    answer = await cloud.resolve(ID, FRESH)
    assert [owner.name for owner in answer.owners] == ["blind"]
    assert answer.source == "index"
    assert await cloud.owners(ID) == {"blind"}


async def test_an_excluded_owner_is_asked_while_the_rest_is_answered(cloud: Cloud) -> None:
    for name in ("gone", "there"):
        server = await cloud.add(name)
        await cloud.claim(name, ID)
    server.add(id=ID)
    cloud.spoil("gone", hold := Hold())
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"gone"})))
    assert [owner.name for owner in answer.owners] == ["there"]
    await wait_until(lambda: hold.waiting)
    hold.open.set()
    await idle(cloud)
    assert await cloud.owners(ID) == {"there"}
    assert cloud.asked("there") == 0


async def test_the_only_owner_is_excluded_and_gone(cloud: Cloud) -> None:
    await cloud.add("gone")
    (await cloud.add("there")).add(id=ID)
    await cloud.claim("gone", ID)
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"gone"})))
    assert [owner.name for owner in answer.owners] == ["there"]
    await idle(cloud)
    assert await cloud.owners(ID) == {"there"}


async def test_an_excluded_owner_is_asked_though_it_said_yes_a_moment_ago(cloud: Cloud) -> None:
    """Its client has been there since, and found nothing."""
    server = await cloud.add("one")
    server.add(id=ID)
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND
    await idle(cloud)
    server.delete(ID)
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert answer.outcome is Outcome.ABSENT
    assert await cloud.owners(ID) == set()


@pytest.mark.parametrize("has", [True, False])
async def test_the_only_owner_is_excluded_and_still_claims_it(cloud: Cloud, has: bool) -> None:
    server = await cloud.add("one")
    await cloud.add("two")
    await cloud.claim("one", ID)
    if has:
        server.add(id=ID)
    else:
        cloud.spoil("one", faults.status(500))
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert await cloud.owners(ID) == {"one"}


async def test_an_excluded_location_that_has_it_is_claimed_and_not_offered(cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    await cloud.add("two")
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "excluded" in answer.detail
    await idle(cloud)
    assert await cloud.owners(ID) == {"one"}


async def test_a_yes_that_a_deletion_has_overtaken_is_not_claimed(cloud: Cloud) -> None:
    server = await cloud.add("one")
    server.add(id=ID)
    cloud.spoil("one", hold := Hold(answers=True))
    asking = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    server.delete(ID)
    await cloud.index.observations.record_absent(cloud.numbers["one"], [parse_id(ID)])
    hold.open.set()
    await asking
    await idle(cloud)
    assert await cloud.owners(ID) == set()


async def test_a_location_removed_while_it_is_asked_is_not_offered(cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    await cloud.add("two")
    cloud.spoil("one", hold := Hold())
    asking = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    await cloud.services.registry.remove("one")
    hold.open.set()
    assert [owner.name for owner in (await asking).owners] == []
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT


async def test_a_location_removed_while_it_is_asked_is_left_no_claim(cloud: Cloud) -> None:
    """Its claims have been collected by then, and nobody would collect once more."""
    (await cloud.add("one")).add(id=ID)
    cloud.spoil("one", hold := Hold())
    asking = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    await cloud.services.registry.remove("one")
    await cloud.index.claims.purge(await cloud.index.records.retired())
    await cloud.index.records.forget_retired([cloud.numbers["one"]])
    hold.open.set()
    await asking
    await idle(cloud)
    assert await cloud.owners(ID) == set()


async def test_a_location_put_into_maintenance_while_it_is_asked_is_not_offered(
    cloud: Cloud,
) -> None:
    (await cloud.add("one")).add(id=ID)
    cloud.spoil("one", hold := Hold())
    asking = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    await cloud.services.registry.patch("one", {"state": "maintenance"})
    hold.open.set()
    assert (await asking).owners == ()


async def test_a_location_added_while_others_are_asked_is_no_no(cloud: Cloud) -> None:
    await cloud.add("one")
    cloud.spoil("one", hold := Hold())
    asking = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: hold.waiting)
    (await cloud.add("two")).add(id=ID)
    hold.open.set()
    assert (await asking).outcome is not Outcome.ABSENT
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND


@pytest.mark.parametrize("kind", ["v2", "v1"])
async def test_an_id_is_asked_for_as_the_client_spelt_it_too(cloud: Cloud, kind: str) -> None:
    server = await cloud.add("one", **KINDS[kind])
    server.add(id=ID.upper())
    answer = await cloud.resolve(ID.upper())
    assert answer.as_json()["uri"].endswith(ID.upper())
    await idle(cloud)
    answer = await cloud.resolve(ID)
    assert answer.as_json()["uri"].endswith(ID.upper()), "its owner's spelling, whoever asks"


async def test_an_id_in_upper_case_finds_one_in_lower_case(cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    answer = await cloud.resolve(ID.upper())
    assert answer.as_json()["uri"].endswith(ID)
    assert cloud.asked("one") == 1


async def test_what_was_answered_is_counted(cloud: Cloud) -> None:
    server = await cloud.add("one")
    server.add(id=OTHER)
    await cloud.resolve(ID)
    await cloud.resolve(OTHER)
    cloud.spoil("one", faults.status(401))
    await cloud.resolve(THIRD)
    await idle(cloud)
    assert cloud.services.prober.counts == {
        ("one", "no"): 1,
        ("one", "yes"): 1,
        ("one", "unauthorized"): 1,
    }


async def test_an_asker_that_ends_leaves_nobody_waiting() -> None:
    async with clouds() as cloud:
        await cloud.add("one")
        cloud.spoil("one", hold := Hold())
        asking = asyncio.create_task(cloud.resolve(ID))
        await wait_until(lambda: hold.waiting)
        await cloud.services.prober.close()
        async with asyncio.timeout(5):
            answer = await asking
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
        hold.open.set()


async def test_what_is_too_old_to_be_of_use_is_not_kept() -> None:
    async with clouds(absent_ttl=0.05) as cloud:
        await cloud.add("one")
        await cloud.add("two")
        prober = cloud.services.prober
        most = 0
        for image_id in make_ids(200, seed=5):
            assert (await cloud.resolve(format_id(image_id))).outcome is Outcome.ABSENT
            most = max(most, prober.remembered_images)
        assert most < 150
        await asyncio.sleep(0.1)
        for image_id in make_ids(most, seed=6):
            await cloud.resolve(format_id(image_id))
        assert prober.remembered_images < 150
