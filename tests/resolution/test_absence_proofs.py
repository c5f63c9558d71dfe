"""What proves that an image is absent: locations that vouch, and what the index has of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from resolver.errors import IndexUnavailable
from resolver.index import EmbeddedStore
from resolver.models import Change, Check, Health, Outcome, Poll, Sweep, parse_id
from resolver.resolution import Answer
from resolver.services import open_services
from resolver.settings import Settings
from resolver.sync.indexer_watch import MISSED_CHECKS
from tests.resolution.probing import ID, MORE, OTHER, wait_until_idle
from tests.support import faults
from tests.support.clouds import ANY, FRESH, Cloud, Hold, cloud_of, clouds
from tests.support.indexing import SETTINGS
from tests.support.wait import wait_until

SILENT = {"vouches": False}
AGE_SECONDS = 60.0
COVERED: dict[str, Any] = {"absent_proof": "covered"}


@pytest.fixture
async def covered() -> AsyncIterator[Cloud]:
    """A resolver that takes the index for a proof."""
    async with clouds(absent_proof="covered", absent_age=AGE_SECONDS) as cloud:
        yield cloud


async def set_sweep(cloud: Cloud, name: str, age: float, **fields: object) -> None:
    """The location's last sweep began ``age`` seconds ago, and was complete at once."""
    at = time.time() - age
    sweep = replace(Sweep(started=at, ended=at, sees_all=True), **fields)
    await cloud.index.records.set_sweep(cloud.numbers[name], sweep)


async def set_poll(cloud: Cloud, name: str, age: float) -> None:
    """As an indexer stores a poll that found no change."""
    at = time.time() - age
    location = (await cloud.services.registry.view(name)).location
    poll = Poll(began=at, ended=at + 0.5)
    await cloud.index.records.set_poll(location.number, poll, location, quiet=True)


def proof(answer: Answer) -> tuple[Outcome, str]:
    return answer.outcome, answer.proof


async def test_a_silent_location_that_does_not_vouch_blocks_no_absence(cloud: Cloud) -> None:
    await cloud.add("one")
    await cloud.add("two", fields=SILENT)
    cloud.set_fault("two", faults.status(503))
    answer = await cloud.resolve(ID)
    assert proof(answer) == (Outcome.ABSENT, "asked")
    assert answer.missing == ()
    await cloud.services.registry.patch("two", {"vouches": True})
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.missing, answer.proof) == (Outcome.UNKNOWN, ("two",), "")


async def test_a_location_that_does_not_vouch_is_asked(cloud: Cloud) -> None:
    await cloud.add("one")
    (await cloud.add("two", fields=SILENT)).add(id=ID)
    answer = await cloud.resolve(ID)
    assert [owner.name for owner in answer.owners] == ["two"]


async def test_silence_is_cached_as_long_as_an_absence(cloud: Cloud) -> None:
    """So the answer without a question, at the front, is that of the rule."""
    await cloud.add("one")
    asked = 0

    async def refuse(request, handler):  # type: ignore[no-untyped-def]
        nonlocal asked
        asked += 1
        return await faults.status(503)(request, handler)

    await cloud.add("two", fields=SILENT)
    cloud.set_fault("two", refuse)
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    await wait_until_idle(cloud)
    before, table = asked, cloud.services.tables.table
    assert before
    resolver = cloud.services.resolver
    assert resolver.remembered_absence(parse_id(ID), table) is not None
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.source, asked) == (Outcome.ABSENT, "cache", before)
    await cloud.services.registry.patch("two", {"vouches": True})
    table = await cloud.services.tables.current()
    assert resolver.remembered_absence(parse_id(ID), table) is None


async def test_nothing_is_absent_where_no_location_vouches(cloud: Cloud) -> None:
    await cloud.add("one", fields=SILENT)
    answer = await cloud.resolve(ID)
    assert answer.outcome is Outcome.UNKNOWN
    assert "no location vouches" in answer.detail
    await wait_until_idle(cloud)
    table = cloud.services.tables.table
    assert cloud.services.resolver.remembered_absence(parse_id(ID), table) is None


async def test_nobody_is_asked_where_every_location_is_covered(covered: Cloud) -> None:
    for name, age in (("one", 30.0), ("two", 10.0)):
        await covered.add(name)
        await set_sweep(covered, name, age)
    answer = await covered.resolve(ID)
    assert proof(answer) == (Outcome.ABSENT, "covered")
    assert answer.source == "index"
    assert 30 <= answer.age < AGE_SECONDS, "that of the oldest"
    assert "up to 30 s ago" in answer.detail
    assert answer.as_json()["proof"] == "covered"
    assert covered.image_requests("one") == covered.image_requests("two") == 0


async def test_a_location_whose_coverage_is_too_old_is_asked(covered: Cloud) -> None:
    await covered.add("one")
    (await covered.add("two")).add(id=OTHER)
    await set_sweep(covered, "one", 10)
    await set_sweep(covered, "two", AGE_SECONDS + 20)
    answer = await covered.resolve(ID)
    assert proof(answer) == (Outcome.ABSENT, "covered")
    assert (covered.image_requests("one"), covered.image_requests("two")) == (0, 1)
    assert (await covered.resolve(OTHER)).outcome is Outcome.FOUND
    covered.set_fault("two", faults.status(503))
    answer = await covered.resolve(MORE[0])
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))


async def test_a_poll_that_changed_nothing_is_a_proof() -> None:
    """The version of the registry stays, so the gateway must look."""
    async with clouds(absent_proof="covered", absent_age=8) as cloud:
        await cloud.add("one")
        cloud.set_fault("one", faults.status(503))
        await set_sweep(cloud, "one", 16)
        assert (await cloud.resolve(ID)).outcome is Outcome.UNKNOWN
        await set_poll(cloud, "one", 1)
        answers: list[Answer] = []

        async def is_absent() -> bool:
            answers.append(await cloud.resolve(ID))
            return answers[-1].outcome is Outcome.ABSENT

        await wait_until(is_absent, message="the table is read again")
        assert answers[-1].proof == "covered"
        assert 1 <= answers[-1].age < 8


@pytest.mark.parametrize(
    "fields",
    [
        {"sees_all": False},
        {"sees_all": None},
        {"ended": None, "started": None},
        {"losses": -1},
    ],
)
async def test_a_sweep_that_proves_nothing_is_no_proof(
    covered: Cloud, fields: dict[str, object]
) -> None:
    await covered.add("one", sees_all=None)
    await set_sweep(covered, "one", 5, **fields)
    covered.set_fault("one", faults.status(503))
    answer = await covered.resolve(ID)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))


async def test_a_fresh_request_asks_every_location(covered: Cloud) -> None:
    await covered.add("one")
    await set_sweep(covered, "one", 5)
    assert proof(await covered.resolve(ID, FRESH)) == (Outcome.ABSENT, "asked")
    assert covered.image_requests("one") == 1


async def test_many_ids_are_proved_to_be_absent_at_once(covered: Cloud) -> None:
    await covered.add("one")
    await covered.claim("one", ID)
    await set_sweep(covered, "one", 5)
    ids = [parse_id(text) for text in (OTHER, ID, MORE[0])]
    templates = await covered.services.bulk_resolver.resolve_many(ids, ANY)
    assert [str(template.outcome) for template in templates] == ["absent", "found", "absent"]
    assert f'"id": "{OTHER}"' in templates[0].render(OTHER)
    assert '"proof": "covered"' in templates[0].render(OTHER)
    assert covered.image_requests("one") == 0


async def test_without_probes_the_index_must_be_recent_too() -> None:
    async with clouds(probe=False, absent_proof="covered", absent_age=AGE_SECONDS) as cloud:
        await cloud.add("one")
        await set_sweep(cloud, "one", AGE_SECONDS + 20)
        answer = await cloud.resolve(ID)
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
        assert "known up to" in answer.detail
        await set_sweep(cloud, "one", 5)
        assert proof(await cloud.resolve(ID)) == (Outcome.ABSENT, "covered")


@pytest.mark.parametrize("settings", [{}, COVERED], ids=str)
async def test_a_dead_location_that_does_not_vouch_is_not_waited_for(
    settings: dict[str, Any],
) -> None:
    """Whether the others are asked, or covered by the index."""
    async with clouds(**settings) as cloud:
        await cloud.add("one")
        await set_sweep(cloud, "one", 5)
        two = await cloud.add("two", health=Health.DOWN, fields=SILENT)
        two.add(id=OTHER)
        hold = Hold()
        cloud.set_fault("two", hold)
        started = time.monotonic()
        for text in (ID, OTHER):
            assert (await cloud.resolve(text)).outcome is Outcome.ABSENT
        assert time.monotonic() - started < cloud.services.prober.timeout / 2
        hold.open.set()
        await wait_until_idle(cloud)
        assert (await cloud.resolve(OTHER)).outcome is Outcome.FOUND


async def test_a_dead_location_is_waited_for_where_no_other_vouches(cloud: Cloud) -> None:
    """Its health may be out of date."""
    server = await cloud.add("one", health=Health.DOWN, fields=SILENT)
    server.add(id=ID)
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND


def blockers(cloud: Cloud) -> dict[str, str]:
    """The locations that keep others from proving absence, with the text of the problem."""
    return {
        problem.location: problem.text
        for problem in cloud.services.problems.current()
        if problem.code == "cannot-vouch"
    }


async def test_a_location_that_blocks_absence_is_a_problem_until_it_answers(cloud: Cloud) -> None:
    await cloud.add("one")
    await cloud.add("two")
    assert not blockers(cloud)
    cloud.set_fault("two", faults.status(503))
    assert (await cloud.resolve(ID)).outcome is Outcome.UNKNOWN
    assert blockers(cloud).keys() == {"two"}
    (problem,) = [p for p in cloud.services.problems.current() if p.code == "cannot-vouch"]
    assert "`glance-resolver locations set two --vouches false`" in problem.action
    assert abs(time.time() - problem.since) < 30
    await cloud.services.registry.patch("two", {"vouches": False})
    await cloud.services.tables.current()
    assert not blockers(cloud)
    await cloud.services.registry.patch("two", {"vouches": True})
    await cloud.services.tables.current()
    assert blockers(cloud)
    cloud.set_fault("two", None)
    assert (await cloud.resolve(OTHER)).outcome is Outcome.ABSENT
    assert not blockers(cloud)


async def test_one_fault_of_a_location_is_one_problem(cloud: Cloud) -> None:
    """Its credential is refused: sweeps and polls fail, and no question is answered."""
    await cloud.add("one")
    await cloud.add("two")
    number, records = cloud.numbers["two"], cloud.index.records
    await records.set_sweep(number, Sweep(error="x", error_code="unauthorized", failed=1.0))
    two = (await cloud.services.registry.view("two")).location
    await records.set_poll(number, Poll(error="x", error_code="unauthorized", failed=1.0), two)
    cloud.set_fault("two", faults.status(401))
    assert (await cloud.resolve(ID)).outcome is Outcome.UNKNOWN
    await cloud.services.tables.current()
    (problem,) = cloud.services.problems.current()
    assert (problem.code, problem.location) == ("sweep-failing", "two")
    assert problem.includes == ("poll-failing", "cannot-vouch")
    assert "answered 503, not 404: it refuses the credential" in problem.text
    assert problem.action.endswith("`glance-resolver locations set two --vouches false`.")


async def test_without_an_indexer_locations_are_no_problems_of_their_own() -> None:
    async with clouds(probe=False) as cloud:
        await cloud.add("one", swept=True)
        for _ in range(MISSED_CHECKS):
            await cloud.services.indexer_watch.check()
        assert [p.code for p in cloud.services.problems.current()] == ["no-indexer"]


async def test_a_location_that_is_down_blocks_absence_since_it_went_down(cloud: Cloud) -> None:
    await cloud.add("one")
    change = Change(at=time.time() - 100, health=Health.DOWN, reason="refused")
    check = Check(at=time.time(), health=Health.DOWN, changes=(change,))
    await cloud.index.records.set_check(cloud.numbers["one"], check)
    await cloud.services.tables.current()
    (problem,) = cloud.services.problems.current()
    assert (problem.code, problem.since) == ("cannot-vouch", change.at)
    assert "it is down" in problem.text


async def test_a_location_that_is_not_covered_blocks_absence_where_it_is_not_asked() -> None:
    async with clouds(probe=False) as cloud:
        await cloud.add("one", swept=True)
        await cloud.add("two")
        await cloud.services.tables.current()
        assert blockers(cloud).keys() == {"two"}


async def test_a_location_that_answers_blocks_nothing_though_it_is_not_covered(
    covered: Cloud,
) -> None:
    await covered.add("one")
    await covered.add("two")
    await set_sweep(covered, "two", 1)
    await covered.services.tables.current()
    assert not blockers(covered)
    covered.set_fault("one", faults.status(503))
    covered.set_fault("two", faults.status(503))
    await covered.resolve(ID)
    assert blockers(covered).keys() == {"one"}


@pytest.mark.parametrize("settings", [{}, COVERED, {"probe": False}], ids=str)
@pytest.mark.parametrize("state", ["", "maintenance", "removed"])
async def test_nothing_is_absent_without_a_location_in_service(
    settings: dict[str, object], state: str
) -> None:
    async with clouds(**settings) as cloud:
        if state:
            await cloud.add("one", swept=True)
        if state == "maintenance":
            await cloud.services.registry.patch("one", {"state": state})
        elif state:
            await cloud.services.registry.remove("one")
        for preferences in (ANY, FRESH):
            assert (await cloud.resolve(ID, preferences)).outcome is Outcome.UNKNOWN
        (template,) = await cloud.services.bulk_resolver.resolve_many([parse_id(ID)], ANY)
        assert template.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("settings", [{}, COVERED, {"probe": False}], ids=str)
async def test_nothing_is_absent_after_redis_lost_the_registry(
    settings: dict[str, object],
) -> None:
    """One of two locations is registered again; the other is not, and stays missing."""
    async with clouds(**settings) as cloud:
        servers = {name: await cloud.add(name, swept=True) for name in ("one", "two")}
        assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
        await cloud.index.client.command("FLUSHALL")
        try:
            answer = await cloud.resolve(OTHER)
        except IndexUnavailable:
            pass  # 503 without an answer
        else:
            assert answer.outcome is Outcome.UNKNOWN
        await cloud.index.create_if_missing()
        await cloud.register("one", servers["one"], swept=True, sees_all=True)
        for text in (ID, OTHER):
            answer = await cloud.resolve(text)
            assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))


@pytest.mark.parametrize("settings", [COVERED, {"probe": False}], ids=str)
async def test_nothing_is_absent_before_the_first_sweep(settings: dict[str, object]) -> None:
    async with clouds(**settings) as cloud:
        await cloud.add("one")
        cloud.set_fault("one", faults.status(503))
        answer = await cloud.resolve(ID)
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))


async def test_where_nobody_is_asked_redis_is_before_an_image_is_absent() -> None:
    """That the process has cached no claim of it proves nothing: Redis announces changes on another
    connection than that on which it says that a sweep is complete."""
    store = EmbeddedStore()
    settings = Settings(**SETTINGS | {"probe": False})
    async with open_services(settings, store=store) as services, cloud_of(services) as cloud:
        await cloud.add("one", swept=True)
        await cloud.claim("one", ID)
        redis = FakeAsyncRedis(server=store.server)
        (bucket,) = [key for key in await redis.keys("glr:*") if b"{reg}" not in key]
        claims = await redis.hgetall(bucket)
        await services.index.claims.release(cloud.numbers["one"], [parse_id(ID)])
        for _ in range(2):
            assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
        await redis.hset(bucket, mapping=claims)  # no change is announced
        assert (await cloud.resolve(ID)).outcome is Outcome.FOUND
        await redis.aclose()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"absent_age": 30}, "RESOLVER_ABSENT_AGE is 30 s, and RESOLVER_POLL_INTERVAL 30 s"),
        ({"poll_interval": 0}, "RESOLVER_ABSENT_AGE is 60 s, and RESOLVER_SWEEP_INTERVAL 300 s"),
        ({}, ""),
        ({"absent_age": 30, "absent_proof": "asked"}, ""),
    ],
)
async def test_an_index_that_is_mostly_too_old_to_prove_absence_is_a_problem(
    fields: dict[str, Any], text: str
) -> None:
    settings = Settings(redis_url="memory:", **{"absent_proof": "covered", **fields})
    async with open_services(settings) as services:
        found = [p.text for p in services.problems.current() if p.code == "absent-age-short"]
    assert len(found) == bool(text)
    assert all(shown.startswith(text) for shown in found)
