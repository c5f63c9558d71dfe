"""One health check, and what checks in a row mean for a location's health."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.glance import GlanceServer, connect
from resolver.models import Check, Health, Location
from resolver.standin import StandIn
from resolver.sync.health import (
    DOWN_AFTER_FAILURES,
    MAX_CHANGES,
    UP_AFTER_SUCCESSES,
    VERSIONS_INTERVAL_SECONDS,
    HealthSample,
    next_status,
    probe_health,
)
from tests.support import faults
from tests.support.faults import Fault, Switch

TIMEOUT = 5.0


async def probe(
    server: StandIn, before: Check | None = None, timeout_seconds: float = TIMEOUT
) -> HealthSample:
    async with connect(TIMEOUT) as session:
        location = Location(name="one", url=server.url, auth={"token_env": "NOT_SET"})
        return await probe_health(GlanceServer(session, location), before, timeout_seconds)


def without_healthcheck(answer: Fault | None = None) -> Fault:
    """Like Glance before Liberty, or one whose operator has removed the filter."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.endswith("/healthcheck"):
            return web.json_response({"versions": []}, status=300)
        return await (answer(request, handler) if answer else handler(request))

    return fault


async def test_a_check_sends_no_credential_and_reads_versions_only_when_due(
    server: StandIn,
) -> None:
    first = await probe(server)
    assert not first.failure
    assert "v2.15" in first.versions
    known = next_status(None, first)
    assert (await probe(server, known)).versions == ()
    assert (server.requests["GET", "healthcheck"], server.requests["GET", "versions"]) == (2, 1)
    old = next_status(
        None, HealthSample(first.at - VERSIONS_INTERVAL_SECONDS, versions=first.versions)
    )
    assert (await probe(server, old)).versions
    assert (await probe(server, next_status(known, HealthSample(first.at, "it failed")))).versions


async def test_versions_show_health_where_there_is_no_healthcheck(
    server: StandIn, switch: Switch
) -> None:
    switch.fault = without_healthcheck()
    known = next_status(None, await probe(server))
    assert (await probe(server, known)).versions == known.versions
    switch.fault = without_healthcheck(faults.status(500))
    assert "500" in (await probe(server, known)).failure


@pytest.mark.parametrize(
    ("fault", "failure"),
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
async def test_failures_are_reported(
    server: StandIn, switch: Switch, fault: Fault, failure: str
) -> None:
    known = next_status(None, await probe(server))
    switch.fault = fault
    sample = await probe(server, known, 0.2 if fault is faults.slow else TIMEOUT)
    assert bool(sample.failure) == bool(failure)
    assert failure in sample.failure


def checked(*failures: str, before: Check | None = None, doubt: str = "") -> Check:
    check = before
    for at, failure in enumerate(failures, int(before.at) + 1 if before else 1):
        check = next_status(check, HealthSample(at, failure), doubt)
    assert check is not None
    return check


def test_a_location_goes_down_fast_and_comes_up_slowly() -> None:
    up = checked("")
    assert (up.health, up.failures, up.reason) == (Health.UP, 0, "")
    for failures in range(1, DOWN_AFTER_FAILURES + 2):
        check = checked(*["gone"] * failures, before=up)
        assert check.health is (Health.UP if failures < DOWN_AFTER_FAILURES else Health.DOWN)
        assert (check.failures, check.reason) == (failures, "gone")
    for successes in range(1, UP_AFTER_SUCCESSES):
        back = checked(*[""] * successes, before=check)
        assert (back.health, back.successes) == (Health.DOWN, successes)
        assert (
            back.reason == f"it answers again, {successes} of {UP_AFTER_SUCCESSES} times in a row"
        )
        assert checked("gone", before=back).successes == 0, "in a row"
    assert checked(*[""] * UP_AFTER_SUCCESSES, before=check).health is Health.UP


def test_a_flapping_location_keeps_its_health() -> None:
    up = checked("")
    assert checked(*["gone", "gone", ""] * 9, before=up).changes == up.changes
    down = checked(*["gone"] * DOWN_AFTER_FAILURES, before=up)
    assert checked(*["", "", "gone"] * 9, before=down).changes == down.changes


def test_a_location_that_never_answers_is_unknown_then_down() -> None:
    healths = [checked(*["gone"] * n).health for n in range(1, DOWN_AFTER_FAILURES + 1)]
    assert healths == [Health.UNKNOWN] * (DOWN_AFTER_FAILURES - 1) + [Health.DOWN]


def test_a_failure_during_self_doubt_is_shown_and_marks_no_location_down() -> None:
    up = checked("")
    check = checked(*["gone"] * 9, before=up, doubt="all of them")
    assert (check.health, check.failures) == (Health.UP, 9)
    assert check.reason == "gone (all of them)"
    assert checked("gone", before=check).health is Health.DOWN


def test_the_latest_changes_are_listed_with_their_reasons() -> None:
    check = checked(*["", *["first"] * 3, *[""] * 3, *["second"] * 3])
    shown = [(change.at, change.health, change.reason) for change in check.changes]
    assert shown == [
        (10, Health.DOWN, "second"),
        (7, Health.UP, ""),
        (4, Health.DOWN, "first"),
        (1, Health.UP, ""),
    ]
    assert len(checked(*[*["gone"] * 3, *[""] * 3] * MAX_CHANGES).changes) == MAX_CHANGES


def test_versions_are_kept_while_a_location_is_down() -> None:
    check = next_status(None, HealthSample(1, versions=("v2.15",)))
    check = checked(*["gone"] * DOWN_AFTER_FAILURES, before=check)
    assert (check.versions, check.versions_at) == (("v2.15",), 1)
