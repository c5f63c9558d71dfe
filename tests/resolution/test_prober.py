"""Probes: which locations are asked and waited for, and what their responses prove."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.image_facts import ImageStatus
from resolver.models import Health, Outcome, parse_id
from resolver.resolution import Preferences
from resolver.resolution.prober import ProbeRequest
from resolver.standin import Caller
from tests.resolution.probing import (
    ID,
    KINDS,
    MORE,
    OTHER,
    PROBE_TIMEOUT_SECONDS,
    THIRD,
    outcomes,
    wait_until_idle,
)
from tests.support import faults
from tests.support.clouds import FRESH, Cloud, ConcurrencyCounter, Hold, clouds
from tests.support.faults import Fault
from tests.support.limiting import Limiting
from tests.support.wait import wait_until


@pytest.mark.parametrize("kind", KINDS)
async def test_an_image_missing_from_the_index_is_found_by_a_probe_and_claimed(
    cloud: Cloud, kind: str
) -> None:
    server = await cloud.add("one", **KINDS[kind])
    server.add(id=ID)
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.source, answer.missing) == (Outcome.FOUND, "probe", ())
    assert answer.as_json()["uri"] == f"{server.url}/v1/images/{ID}"
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"one"}
    assert cloud.image_requests("one") == 1
    again = await cloud.resolve(ID)
    assert (again.outcome, again.source) == (Outcome.FOUND, "index")
    assert cloud.image_requests("one") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_probe_brings_the_status_and_the_bytes_of_the_image(
    cloud: Cloud, kind: str
) -> None:
    (await cloud.add("one", **KINDS[kind])).add(id=ID, status="deactivated", data=b"bytes")
    (owner,) = (await cloud.resolve(ID)).owners
    assert owner.status is ImageStatus.DEACTIVATED
    assert owner.content is not None
    assert owner.content.hex
    await wait_until_idle(cloud)
    (owner,) = (await cloud.resolve(ID)).owners
    assert owner.status is ImageStatus.DEACTIVATED
    assert cloud.image_requests("one") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_image_is_absent_and_cached_when_all_locations_answer_404(
    cloud: Cloud, kind: str
) -> None:
    await cloud.add("one", **KINDS[kind])
    await cloud.add("two")
    begun = time.monotonic()
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.source, answer.missing) == (Outcome.ABSENT, "probe", ())
    assert answer.age <= time.monotonic() - begun
    await wait_until_idle(cloud)
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.source) == (Outcome.ABSENT, "cache")
    assert 0 < answer.age < time.monotonic() - begun
    assert (cloud.image_requests("one"), cloud.image_requests("two")) == (1, 1)


async def test_an_image_marked_deleted_in_v1_is_absent(cloud: Cloud) -> None:
    server = await cloud.add("one", v1=True, v2=False)
    server.add(id=ID)
    server.delete(ID)
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    assert server.requests["HEAD", "v1-image"] == 1


async def test_the_first_owner_found_answers_and_later_ones_are_claimed(cloud: Cloud) -> None:
    for name in ("one", "two"):
        (await cloud.add(name)).add(id=ID)
    late = Hold()
    cloud.set_fault("two", late)
    answer = await cloud.resolve(ID)
    assert [owner.name for owner in answer.owners] == ["one"]
    assert late.waiting == 1, "both were asked at the same time"
    late.open.set()
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"one", "two"}


async def test_a_404_does_not_end_the_wait_for_other_locations(cloud: Cloud) -> None:
    await cloud.add("one")
    (await cloud.add("two")).add(id=ID)
    late = Hold()
    cloud.set_fault("two", late)
    request = asyncio.create_task(cloud.resolve(ID))
    await wait_until(lambda: late.waiting and cloud.image_requests("one"))
    assert not request.done()
    late.open.set()
    assert (await request).outcome is Outcome.FOUND


async def test_a_thousand_requests_share_one_probe_per_location() -> None:
    async with clouds(absent_ttl=0) as cloud:
        holds = {}
        for name in ("one", "two"):
            await cloud.add(name)
            cloud.set_fault(name, hold := Hold())
            holds[name] = hold
        lookups = cloud.count_lookups()
        requests = [asyncio.create_task(cloud.resolve(ID)) for _ in range(1000)]
        await wait_until(lambda: lookups() == 1000 and all(h.waiting for h in holds.values()))
        for hold in holds.values():
            hold.open.set()
        assert await outcomes(requests) == {Outcome.ABSENT}
        assert (cloud.image_requests("one"), cloud.image_requests("two")) == (1, 1)


async def html_page(_: web.Request, __: Handler) -> web.StreamResponse:
    """The page of a load balancer."""
    return web.Response(text="<h1>Welcome</h1>", content_type="text/html")


UNCLEAR_RESPONSES: dict[str, Fault] = {
    "silence": faults.slow,
    "cut": faults.cut,
    "401": faults.status(401),
    "403": faults.status(403),
    "410": faults.status(410),
    # 429 has its own tests: the location is not asked again for a while (test_rate_limits.py).
    "500": faults.status(500),
    "503": faults.status(503),
    "300": faults.status(300),
    "302": faults.status(302, Location="/elsewhere"),
    "307": faults.status(307, Location="http://127.0.0.1:1/"),
    "another image": faults.body(f'{{"id": "{OTHER}"}}'),
    "a list": faults.body("[]"),
    "no JSON": faults.body("{"),
    "an HTML page": html_page,
}


@pytest.mark.parametrize("fault", UNCLEAR_RESPONSES)
@pytest.mark.parametrize("kind", ["v2", "v1"])
async def test_an_unclear_response_to_a_probe_does_not_prove_absence(kind: str, fault: str) -> None:
    async with clouds(probe_timeout=PROBE_TIMEOUT_SECONDS if fault == "silence" else 5) as cloud:
        server = await cloud.add("bad", **KINDS[kind])
        await cloud.add("good")
        cloud.set_fault("bad", UNCLEAR_RESPONSES[fault])
        answer = await cloud.resolve(ID)
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("bad",))
        assert answer.detail
        await wait_until_idle(cloud)
        assert await cloud.owners(ID) == set()
        cloud.set_fault("bad", None)
        assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT, (
            "an unclear response is not cached"
        )
        assert (cloud.image_requests("bad"), cloud.image_requests("good")) == (1, 1)
        server.add(id=OTHER)
        assert (await cloud.resolve(OTHER)).outcome is Outcome.FOUND


async def test_a_300_for_a_disabled_api_does_not_prove_absence(cloud: Cloud) -> None:
    """Glance answers 300 to every request for an API that is disabled."""
    server = await cloud.add("one", v1=True, v2=False, fields={"api": "v2"})
    view = (await cloud.services.tables.current()).by_name["one"]
    check = view.status.check
    assert check is not None
    await cloud.index.records.set_check(
        view.location.number, type(check)(at=check.at, health=Health.UP, versions=("v2.15",))
    )
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert server.requests["GET", "unknown"] == 1


async def test_a_404_for_a_limited_credential_does_not_prove_absence(cloud: Cloud) -> None:
    await cloud.add("good")
    await cloud.add("limited", sees_all=False)
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("limited",))
    assert "credential" in answer.detail
    cloud.servers["limited"].add(id=OTHER)
    assert (await cloud.resolve(OTHER)).outcome is Outcome.FOUND, "a positive response counts"


async def test_a_404_proves_absence_only_if_the_credential_in_use_sees_every_image(
    cloud: Cloud, tmp_path: Path
) -> None:
    """What the credential of the last sweep saw does not count."""
    file = tmp_path / "token"
    file.write_text("strong")
    await cloud.add(
        "one",
        sees_all=None,
        swept=True,
        fields={"auth": {"token_file": str(file)}},
        tokens={"strong": Caller("admin", admin=True), "weak": Caller("demo")},
    )
    await cloud.claim("one", ID)
    private = cloud.servers["one"].add(id=OTHER, visibility="private", owner="elsewhere").id
    assert (await cloud.resolve(THIRD)).outcome is Outcome.ABSENT
    file.write_text("weak")
    answer = await cloud.resolve(private)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert (await cloud.resolve(ID, FRESH)).outcome is Outcome.FOUND
    assert await cloud.owners(ID) == {"one"}
    file.write_text("strong")
    assert (await cloud.resolve(private)).outcome is Outcome.FOUND


async def proxy_without_glance(_: web.Request, __: Handler) -> web.StreamResponse:
    """The 404 of a proxy that has no Glance behind it."""
    return web.Response(status=404, text="404 page not found")


async def test_a_404_from_something_other_than_glance_does_not_prove_absence(cloud: Cloud) -> None:
    await cloud.add("one", swept=True)
    await cloud.claim("one", ID)
    cloud.set_fault("one", proxy_without_glance)
    answer = await cloud.resolve(OTHER)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert (await cloud.resolve(ID, FRESH)).outcome is Outcome.FOUND
    assert await cloud.owners(ID) == {"one"}


async def test_missing_lists_exactly_the_locations_without_a_clear_answer(cloud: Cloud) -> None:
    for name in ("a", "b", "c", "d"):
        await cloud.add(name, swept=name == "c")
    cloud.set_fault("b", faults.status(500))
    cloud.set_fault("d", faults.status(403))
    await cloud.services.registry.patch("c", {"state": "maintenance"})
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("b", "d"))
    assert "b: it gave no usable answer (server-error)" in answer.detail


async def test_a_covered_location_that_does_not_answer_does_not_prove_absence() -> None:
    async with clouds(probe_timeout=PROBE_TIMEOUT_SECONDS) as cloud:
        await cloud.add("one", swept=True)
        await cloud.add("two", swept=True)
        cloud.set_fault("two", faults.slow)
        answer = await cloud.resolve(ID)
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_location_in_maintenance_is_never_probed(cloud: Cloud, fresh: bool) -> None:
    server = await cloud.add("one", swept=True)
    await cloud.add("two")
    server.add(id=ID)
    await cloud.services.registry.patch("one", {"state": "maintenance", "reason": "disks"})
    preferences = Preferences(fresh=fresh)
    assert (await cloud.resolve(ID, preferences)).outcome is Outcome.ABSENT
    await cloud.claim("one", ID)
    answer = await cloud.resolve(ID, preferences)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
    assert "disks" in answer.detail
    assert server.requests.total() == 0


async def test_probes_are_not_repeated_while_the_owner_is_in_maintenance(cloud: Cloud) -> None:
    await cloud.add("one")
    await cloud.add("two")
    await cloud.services.registry.patch("one", {"state": "maintenance"})
    await cloud.claim("one", ID)
    for _ in range(5):
        assert (await cloud.resolve(ID)).outcome is Outcome.UNKNOWN
    assert cloud.image_requests("two") == 1, "its response is cached"


async def test_a_location_known_to_be_down_is_probed_in_the_background(cloud: Cloud) -> None:
    await cloud.add("one")
    (await cloud.add("down", health=Health.DOWN)).add(id=ID)
    cloud.set_fault("down", hold := Hold())
    answer = await cloud.resolve(ID)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("down",))
    await wait_until(lambda: hold.waiting, message="the location that is down is probed")
    hold.open.set()
    await wait_until_idle(cloud)
    assert await cloud.owners(ID) == {"down"}
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND


async def test_probes_wait_for_locations_that_are_down_if_there_is_no_other(cloud: Cloud) -> None:
    (await cloud.add("down", health=Health.DOWN)).add(id=ID)
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND


async def test_probes_in_flight_are_limited_per_location() -> None:
    async with clouds(probes_per_location=3) as cloud:
        server = await cloud.add("one")
        server.add(id=THIRD)
        await cloud.claim("one", THIRD)
        cloud.set_fault("one", hold := Hold())
        ids = [ID, OTHER, MORE[0]]
        requests = [asyncio.create_task(cloud.resolve(text)) for text in ids]
        await wait_until(lambda: hold.waiting == 3)
        for text in MORE[1:4]:
            answer = await cloud.resolve(text)
            assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
            assert "too many probes" in answer.detail
        joined = asyncio.create_task(cloud.resolve(ID))
        assert (await cloud.resolve(THIRD)).outcome is Outcome.FOUND, "known images are answered"
        hold.open.set()
        outcomes = {answer.outcome for answer in await asyncio.gather(*requests, joined)}
        assert outcomes == {Outcome.ABSENT}
        assert (hold.maximum, cloud.image_requests("one")) == (3, 3)
        assert cloud.services.prober.counts == {("one", "no"): 3, ("one", "refused"): 3}
        assert (await cloud.resolve(MORE[1])).outcome is Outcome.ABSENT, (
            "the limit is no longer reached"
        )


async def test_a_location_at_its_probe_limit_does_not_stop_probes_of_others() -> None:
    async with clouds(probes_per_location=1) as cloud:
        (await cloud.add("one")).add(id=OTHER)
        (await cloud.add("two")).add(id=OTHER)
        cloud.set_fault("one", hold := Hold())
        request = asyncio.create_task(cloud.resolve(ID))
        await wait_until(lambda: hold.waiting and cloud.image_requests("two") == 1)
        await wait_until(lambda: cloud.services.prober.in_flight == 1)
        answer = await cloud.resolve(OTHER)
        assert [owner.name for owner in answer.owners] == ["two"]
        hold.open.set()
        assert (await request).outcome is Outcome.ABSENT


async def test_probes_in_flight_are_limited_in_total() -> None:
    async with clouds(probes_at_once=4) as cloud:
        holds = [Hold(), Hold()]
        for name, hold in zip(("one", "two"), holds, strict=True):
            await cloud.add(name)
            cloud.set_fault(name, hold)
        requests = [asyncio.create_task(cloud.resolve(text)) for text in (ID, OTHER)]
        await wait_until(lambda: sum(hold.waiting for hold in holds) == 4)
        answer = await cloud.resolve(THIRD)
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one", "two"))
        for hold in holds:
            hold.open.set()
        assert {a.outcome for a in await asyncio.gather(*requests)} == {Outcome.ABSENT}


async def test_fresh_probes_keep_the_total_limit() -> None:
    """While a fresh request waits for an earlier probe of its image, other probes may start."""
    async with clouds(probes_at_once=2) as cloud:
        await cloud.add("one")
        prober, number = cloud.services.prober, cloud.numbers["one"]
        view = (await cloud.services.tables.current()).by_number[number]
        hold, others = Hold(), Hold()

        async def hold_by_image(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await (hold if ID in request.path else others)(request, handler)

        def probe(text: str, *, fresh: bool = False) -> asyncio.Task[Any]:
            return asyncio.create_task(
                prober.probe(
                    ProbeRequest(
                        (parse_id(text), 0),
                        [view],
                        claims=(),
                        claimed=False,
                        fresh=fresh,
                        until=time.monotonic() + 60,
                    )
                )
            )

        cloud.set_fault("one", counter := ConcurrencyCounter(hold_by_image))
        requests = [probe(ID), probe(OTHER)]
        await wait_until(lambda: hold.waiting and others.waiting)
        requests[0].add_done_callback(lambda _: requests.append(probe(THIRD)))
        requests.append(probe(ID, fresh=True))
        hold.open.set()
        await wait_until(lambda: len(requests) == 4)
        others.open.set()
        await asyncio.gather(*requests)
        assert counter.maximum == 2
        assert cloud.image_requests("one") == 3, "the fourth probe exceeded the limit"


async def test_a_probe_waits_no_longer_than_the_deadline() -> None:
    async with clouds(probe_timeout=PROBE_TIMEOUT_SECONDS) as cloud:
        await cloud.add("one")
        cloud.set_fault("one", faults.slow)
        begun = time.monotonic()
        answer = await cloud.resolve(ID)
        assert PROBE_TIMEOUT_SECONDS <= time.monotonic() - begun < PROBE_TIMEOUT_SECONDS + 1
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("one",))
        await wait_until_idle(cloud)
        assert cloud.services.prober.counts["one", "timeout"] == 1


@pytest.mark.slow
async def test_fresh_takes_no_longer_than_one_deadline() -> None:
    """Also when it probes the owners first, and then the other locations."""
    async with clouds(probe_timeout=1) as cloud:
        await cloud.add("owner")
        for n in range(4):
            await cloud.add(f"silent{n}")
            cloud.set_fault(f"silent{n}", faults.slow)
        await cloud.claim("owner", ID)
        request = asyncio.create_task(cloud.resolve(OTHER))  # its probes are in flight
        begun = time.monotonic()
        answer = await cloud.resolve(ID, FRESH)
        assert time.monotonic() - begun < 1.9
        assert (answer.outcome, len(answer.missing)) == (Outcome.UNKNOWN, 4)
        await request


async def test_a_rate_limited_location_is_unknown_and_gets_no_further_requests() -> None:
    async with clouds() as cloud:
        await cloud.add("busy")
        cloud.set_fault("busy", busy := Limiting(0, 60, retry_after="30"))
        for _ in range(3):
            answer = await cloud.resolve(ID)
            assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("busy",))
            assert "rate-limited" in answer.detail
        assert len(busy.times) == 1
