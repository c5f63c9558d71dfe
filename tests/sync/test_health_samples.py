"""What one look sees, and what looks in a row make of a location's health."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.glance import GlanceServer, connect
from resolver.models import Check, Health, Location
from resolver.standin import StandIn
from resolver.sync import health as check_module
from resolver.sync.health import (
    DOWN_AFTER,
    HISTORY,
    UP_AFTER,
    VERSIONS_EVERY,
    HealthSample,
    look,
    next_status,
)
from tests.support import faults
from tests.support.faults import Fault, Switch


async def seen(server: StandIn, before: Check | None = None) -> HealthSample:
    async with connect(5) as session:
        location = Location(name="one", url=server.url, auth={"token_env": "NOT_SET"})
        return await look(GlanceServer(session, location), before)


def without_healthcheck(answer: Fault | None = None) -> Fault:
    """As Glance of before Liberty, or as one whose operator took the filter out."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.endswith("/healthcheck"):
            return web.json_response({"versions": []}, status=300)
        return await (answer(request, handler) if answer else handler(request))

    return fault


async def test_a_look_needs_no_credential_and_reads_versions_once_in_a_while(
    server: StandIn,
) -> None:
    first = await seen(server)
    assert not first.fault
    assert "v2.15" in first.versions
    known = next_status(None, first)
    assert (await seen(server, known)).versions == ()
    assert (server.requests["GET", "healthcheck"], server.requests["GET", "versions"]) == (2, 1)
    old = next_status(None, HealthSample(first.at - VERSIONS_EVERY, versions=first.versions))
    assert (await seen(server, old)).versions
    assert (await seen(server, next_status(known, HealthSample(first.at, "it failed")))).versions


async def test_versions_tell_where_there_is_no_healthcheck(server: StandIn, switch: Switch) -> None:
    switch.fault = without_healthcheck()
    known = next_status(None, await seen(server))
    assert (await seen(server, known)).versions == known.versions
    switch.fault = without_healthcheck(faults.status(500))
    assert "500" in (await seen(server, known)).fault


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (faults.status(500), "it answered 500"),
        (faults.status(503), "/healthcheck: it answered 503"),
        (faults.status(404), "/versions answered 404"),
        (faults.body("<html>welcome</html>"), "not JSON"),
        (faults.body("OK"), ""),
        (faults.body('{"versions": 7}'), "lists no versions"),
        (faults.cut, "broke off"),
        (faults.slow, "did not answer within 0.2 s"),
    ],
)
async def test_what_is_not_well(
    server: StandIn, switch: Switch, monkeypatch: pytest.MonkeyPatch, fault: Fault, says: str
) -> None:
    known = next_status(None, await seen(server))
    if fault is faults.slow:
        monkeypatch.setattr(check_module, "PATIENCE", 0.2)
    switch.fault = fault
    record_present = await seen(server, known)
    assert bool(record_present.fault) == bool(says)
    assert says in record_present.fault


def looked(*faults: str, before: Check | None = None, doubt: str = "") -> Check:
    check = before
    for at, fault in enumerate(faults, int(before.at) + 1 if before else 1):
        check = next_status(check, HealthSample(at, fault), doubt)
    assert check is not None
    return check


def test_fast_down_and_slow_up() -> None:
    up = looked("")
    assert (up.health, up.failures, up.reason) == (Health.UP, 0, "")
    for failures in range(1, DOWN_AFTER + 2):
        check = looked(*["gone"] * failures, before=up)
        assert check.health is (Health.UP if failures < DOWN_AFTER else Health.DOWN)
        assert (check.failures, check.reason) == (failures, "gone")
    for successes in range(1, UP_AFTER):
        back = looked(*[""] * successes, before=check)
        assert (back.health, back.successes) == (Health.DOWN, successes)
        assert back.reason == f"it answers again, {successes} of {UP_AFTER} times in a row"
        assert looked("gone", before=back).successes == 0, "in a row"
    assert looked(*[""] * UP_AFTER, before=check).health is Health.UP


def test_one_that_flaps_stays_what_it_was() -> None:
    up = looked("")
    assert looked(*["gone", "gone", ""] * 9, before=up).changes == up.changes
    down = looked(*["gone"] * DOWN_AFTER, before=up)
    assert looked(*["", "", "gone"] * 9, before=down).changes == down.changes


def test_one_that_never_answered_is_unknown_then_down() -> None:
    healths = [looked(*["gone"] * n).health for n in range(1, DOWN_AFTER + 1)]
    assert healths == [Health.UNKNOWN] * (DOWN_AFTER - 1) + [Health.DOWN]


def test_what_is_doubted_changes_nothing_and_is_told() -> None:
    up = looked("")
    check = looked(*["gone"] * 9, before=up, doubt="all of them")
    assert (check.health, check.failures) == (Health.UP, 9)
    assert check.reason == "gone (all of them)"
    assert looked("gone", before=check).health is Health.DOWN


def test_the_last_changes_are_kept_with_their_reasons() -> None:
    check = looked(*["", *["first"] * 3, *[""] * 3, *["second"] * 3])
    shown = [(change.at, change.health, change.reason) for change in check.changes]
    assert shown == [
        (10, Health.DOWN, "second"),
        (7, Health.UP, ""),
        (4, Health.DOWN, "first"),
        (1, Health.UP, ""),
    ]
    assert len(looked(*[*["gone"] * 3, *[""] * 3] * HISTORY).changes) == HISTORY


def test_versions_stay_known_while_it_is_down() -> None:
    check = next_status(None, HealthSample(1, versions=("v2.15",)))
    check = looked(*["gone"] * DOWN_AFTER, before=check)
    assert (check.versions, check.versions_at) == (("v2.15",), 1)
