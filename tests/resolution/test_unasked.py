"""What nobody was asked about is not absent, whatever the reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import Location, Outcome, State, Sweep, parse_id
from resolver.resolution import Preferences
from resolver.standin import Caller
from tests.resolution.probing import ID, KINDS, MORE, OTHER, wait_until_idle
from tests.support import faults
from tests.support.clouds import FRESH, Cloud, Hold, clouds, is_image_request
from tests.support.wait import wait_until

GLANCES = {"X-Openstack-Request-Id": "req-1"}


async def test_a_known_owner_at_its_probe_limit_that_does_not_vouch() -> None:
    """It was not asked, so this is not its silence."""
    async with clouds(probes_per_location=1) as cloud:
        await cloud.add("one")
        (await cloud.add("two", fields={"vouches": False})).add(id=ID)
        await cloud.claim("two", ID)
        cloud.set_fault("two", hold := Hold())
        asking = asyncio.create_task(cloud.resolve(OTHER))
        await wait_until(lambda: hold.waiting == 1)
        answer = await cloud.resolve(ID, FRESH)
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))
        many = await cloud.services.bulk_resolver.resolve_many([parse_id(ID)], FRESH)
        assert [template.outcome for template in many] == [Outcome.UNKNOWN]
        hold.open.set()
        await asking
        await wait_until_idle(cloud)
        assert (await cloud.resolve(ID, FRESH)).outcome is Outcome.FOUND


Answer = Callable[[web.Request], web.Response]


def plain_404(_: web.Request) -> web.Response:
    return web.Response(status=404, headers=GLANCES, text="The resource could not be found.")


def with_path(request: web.Request) -> web.Response:
    text = f"The requested URL {request.path} was not found on this server."
    return web.Response(status=404, headers=GLANCES, text=text)


@pytest.mark.parametrize("answer", [plain_404, with_path])
@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_another_service_of_openstack_behind_the_address(
    cloud: Cloud, kind: str, answer: Answer
) -> None:
    """A ``HEAD`` in v1 has no body that could name the image."""
    await cloud.add("one", **KINDS[kind])
    await cloud.add("two")

    async def other_service(request: web.Request, _: Handler) -> web.StreamResponse:
        return answer(request)

    cloud.set_fault("one", other_service)
    found = await cloud.resolve(ID)
    assert (found.outcome, found.missing) == (Outcome.UNKNOWN, ("one",))
    cloud.set_fault("one", None)
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT


@pytest.mark.parametrize("answer", [plain_404, with_path])
@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_a_proxy_whose_rules_lack_the_path_of_single_images(
    cloud: Cloud, kind: str, answer: Answer
) -> None:
    """Listings pass. So a 404 that names no image counts only where a listed image is shown."""
    (await cloud.add("one", **KINDS[kind])).add()

    async def rules(request: web.Request, handler: Handler) -> web.StreamResponse:
        return answer(request) if is_image_request(request) else await handler(request)

    cloud.set_fault("one", rules)
    assert (await cloud.resolve(ID)).missing == ("one",)
    cloud.set_fault("one", None)
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT


async def test_a_location_in_maintenance_after_redis_may_have_lost_claims(cloud: Cloud) -> None:
    await cloud.add("one")
    await cloud.add("two", swept=True)
    await cloud.services.registry.patch("two", {"state": "maintenance"})
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    records, number = cloud.index.records, cloud.numbers["two"]
    sweep = await records.sweep(number)
    await records.set_sweep(number, replace(sweep, losses=sweep.losses + 1))
    answer = await cloud.resolve(OTHER)
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))
    assert "Redis may have lost claims" in answer.detail


async def test_a_location_that_the_settings_refuse_and_that_was_swept_long_ago() -> None:
    """No operator has put it into maintenance, so images are created there."""
    async with clouds(require_https=True) as cloud:
        await cloud.add("one")
        records, now = cloud.index.records, time.time()
        two = await records.put(Location(name="two", url="http://two.example"), None)
        for age, outcome in ((5, Outcome.ABSENT), (86_400, Outcome.UNKNOWN)):
            sweep = Sweep(started=now - age, ended=now - age, sees_all=True)
            await records.set_sweep(two.number, sweep)
            answer = await cloud.resolve(ID)
            assert answer.outcome is outcome
        assert answer.missing == ("two",)
        assert "it is refused, and the last complete sweep ended 86400 s ago" in answer.detail
        await records.put(
            replace(two, state=State.MAINTENANCE), (await records.load()).records["two"]
        )
        assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT


@pytest.mark.parametrize("name", ["one", "two"])
async def test_an_excluded_location_that_is_silent(cloud: Cloud, name: str) -> None:
    await cloud.add("one")
    await cloud.add("two")
    cloud.set_fault(name, faults.status(500))
    answer = await cloud.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, (name,))


async def test_an_owner_in_maintenance_that_a_fresh_request_excludes(cloud: Cloud) -> None:
    await cloud.add("one")
    await cloud.add("two", swept=True)
    await cloud.claim("two", ID)
    await cloud.services.registry.patch("two", {"state": "maintenance"})
    for exclude in ((), ("two",)):
        answer = await cloud.resolve(ID, Preferences(fresh=True, exclude=frozenset(exclude)))
        assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))


async def test_a_location_that_comes_back_under_another_name(cloud: Cloud) -> None:
    """What was remembered of it is forgotten."""
    server = await cloud.add("one")
    await cloud.add("two")
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    await cloud.services.registry.remove("one")
    server.add(id=ID)
    await cloud.register("again", server)
    assert (await cloud.resolve(ID)).outcome is Outcome.FOUND


async def test_the_other_letter_case_of_an_id_that_is_remembered_as_absent(cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID.upper())
    assert (await cloud.resolve(ID)).outcome is Outcome.ABSENT
    assert (await cloud.resolve(ID.upper())).outcome is Outcome.FOUND


async def test_a_credential_that_has_died_where_anonymous_clients_are_answered(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE_TOKEN", "admin")
    server = await cloud.add(
        "one",
        sees_all=None,
        tokens={"admin": Caller("operators", admin=True)},
        anonymous=True,
        fields={"auth": {"token_env": "ONE_TOKEN"}},
    )
    server.add(id=ID, visibility="private", owner="somebody")
    await cloud.claim("one", ID)
    server.tokens = {}
    assert (await cloud.resolve(ID, FRESH)).outcome is Outcome.FOUND
    assert (await cloud.resolve(MORE[0])).outcome is Outcome.UNKNOWN
    assert await cloud.owners(ID) == {"one"}


@pytest.mark.parametrize("status", [204, 302, 401, 403, 410, 413, 500])
async def test_a_status_that_says_nothing_about_an_image(cloud: Cloud, status: int) -> None:
    await cloud.add("one")
    two = await cloud.add("two")

    async def answer(request: web.Request, _: Handler) -> web.StreamResponse:
        headers = {**GLANCES, "Location": two.url + request.path}
        text = None if status == 204 else f"No image found with ID {ID}"
        return web.Response(status=status, headers=headers, text=text)

    cloud.set_fault("one", answer)
    found = await cloud.resolve(ID)
    assert (found.outcome, found.missing) == (Outcome.UNKNOWN, ("one",))


async def test_an_image_that_moves_is_never_absent(cloud: Cloud) -> None:
    """What one location answered before counts only while the image's claims are the same."""
    one, two = await cloud.add("one"), await cloud.add("two")
    two.add(id=ID)
    await cloud.claim("two", ID)
    without_two = Preferences(exclude=frozenset({"two"}))
    assert (await cloud.resolve(ID, without_two)).missing == ("two",)
    await wait_until_idle(cloud)
    one.add(id=ID)
    two.delete(ID)
    await cloud.index.claims.release(cloud.numbers["two"], [parse_id(ID)])
    answer = await cloud.resolve(ID)
    assert [owner.name for owner in answer.owners] == ["one"]


async def test_an_image_that_moves_while_a_location_is_asked(cloud: Cloud) -> None:
    one, two = await cloud.add("one"), await cloud.add("two")
    two.add(id=ID)
    await cloud.claim("two", ID)
    cloud.set_fault("one", hold := Hold(responses=True))
    without_two = Preferences(exclude=frozenset({"two"}))
    first = asyncio.create_task(cloud.resolve(ID, without_two))
    await wait_until(lambda: hold.waiting == 1)
    one.add(id=ID)
    two.delete(ID)
    await cloud.index.claims.release(cloud.numbers["two"], [parse_id(ID)])
    second = asyncio.create_task(cloud.resolve(ID))
    await asyncio.sleep(0)
    hold.open.set()
    await first
    answer = await second
    assert [owner.name for owner in answer.owners] == ["one"]


async def no_tasks(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path.startswith("/v2/tasks"):
        return web.Response(status=403)
    return await handler(request)


async def test_a_server_that_begins_to_answer_anonymous_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a credential that is only registered to see all, a 401 is the only sign that it has died.
    That the server gives it must be known each time."""
    monkeypatch.setenv("GLANCE_TOKEN", "ours")
    async with clouds() as cloud:
        fields = {"auth": {"token_env": "GLANCE_TOKEN"}}
        server = await cloud.add("one", tokens={"ours": Caller("p", admin=True)}, fields=fields)
        cloud.set_fault("one", no_tasks)
        assert (await cloud.resolve(OTHER)).outcome is Outcome.ABSENT
        server.add(id=ID, visibility="private", owner="q")
        server.tokens, server.anonymous = {}, True
        assert (await cloud.resolve(ID)).missing == ("one",)


async def test_a_server_that_begins_to_need_a_credential(cloud: Cloud) -> None:
    """It treated all clients as admins."""
    server = await cloud.add("one", sees_all=None)
    assert (await cloud.resolve(OTHER)).outcome is Outcome.ABSENT
    server.add(id=ID, visibility="private", owner="q")
    server.tokens, server.anonymous = {}, True
    assert (await cloud.resolve(ID)).missing == ("one",)


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_404_that_a_cache_in_front_remembers(cloud: Cloud, obeys: bool) -> None:
    """A cache that obeys `Cache-Control` asks the server again."""
    await cloud.add("one")
    cloud.servers["one"].add(id=ID)

    async def cache(request: web.Request, handler: Handler) -> web.StreamResponse:
        if obeys and request.headers.get("Cache-Control") == "no-cache":
            return await handler(request)
        headers = {**GLANCES, "Age": "300"}
        return web.Response(status=404, headers=headers, text=f"No image found with ID {ID}")

    cloud.set_fault("one", cache)
    answer = await cloud.resolve(ID)
    assert answer.outcome is (Outcome.FOUND if obeys else Outcome.UNKNOWN)


async def test_redis_loses_what_is_known_of_a_location_while_it_is_asked(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What proves that a credential sees everything depends on the versions of its server."""
    monkeypatch.setenv("GLANCE_TOKEN", "ours")
    await cloud.add("one")
    fields = {"auth": {"token_env": "GLANCE_TOKEN"}}
    tokens = {"ours": Caller("p", admin=True)}
    two = await cloud.add("two", sees_all=None, tokens=tokens, fields=fields)
    assert (await cloud.resolve(OTHER)).outcome is Outcome.ABSENT
    await cloud.claim("one", ID)
    cloud.set_fault("one", hold := Hold())
    asking = asyncio.create_task(cloud.resolve(ID, FRESH))
    await wait_until(lambda: hold.waiting == 1)
    check = await cloud.index.records.check(cloud.numbers["two"])
    assert check is not None
    await cloud.index.client.command("DEL", "glr:{reg}:status")
    await cloud.services.registry.patch("two", {"weight": 2})
    hold.open.set()
    answer = await asking
    assert (answer.outcome, answer.missing) == (Outcome.UNKNOWN, ("two",))
    assert "not known before a health check" in answer.detail
    await cloud.index.records.set_check(cloud.numbers["two"], check, quiet=True)
    assert (await cloud.resolve(ID, FRESH)).outcome is Outcome.ABSENT
    assert two.requests["GET", "image"] == 3
