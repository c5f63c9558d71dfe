"""Servers that limit requests: everything that asks a location stays within its limit."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from resolver.errors import IndexUnavailable, LocationUnavailable
from resolver.glance import CloudCredentials, GlanceServer, ImageProbe, RateLimits, ScopeCache
from resolver.glance.rate_limits import parse_retry_after
from resolver.index import Index, Turns
from resolver.index.keys import Keys
from resolver.models import Health, Location, Sweep, format_id
from resolver.registry.validation import parse_location
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS
from resolver.sync.health import next_status, probe_health
from resolver.sync.stats import Stats
from resolver.sync.sweep_run import SweepRun
from tests.support.faults import Switch
from tests.support.ids import make_ids
from tests.support.limiting import Limiting
from tests.support.sweeping import Sweeping
from tests.support.wait import wait_until
from tests.sync.conftest import StartServer

V2 = ("v2.15",)


def asking(
    sweeping: Sweeping,
    location: Location,
    max_wait: float | None = 10.0,
    limits: RateLimits | None = None,
) -> GlanceServer:
    return GlanceServer(sweeping.session, location, None, limits, max_wait=max_wait)


async def swept(index: Index, server: GlanceServer, before: Sweep | None = None) -> Sweep:
    """One sweep as the indexer makes it; its failure is in the result."""
    lease = index.lease("sweep", seconds=30)
    assert await lease.acquire()
    run = SweepRun(
        index,
        server,
        ScopeCache(),
        lease,
        before or Sweep(),
        guard=0.2,
        stats=Stats(),
        timings=DEFAULT_TIMINGS,
    )
    result = await run.run(None)
    await lease.release()
    return result


@pytest.mark.parametrize("index_url", ["memory:"], indirect=True)
@pytest.mark.parametrize(
    ("status", "retry_after"), [(429, ""), (429, None), (413, ""), (429, "nonsense")]
)
async def test_a_listing_longer_than_the_allowance_is_read_to_its_end(
    index: Index,
    sweeping: Sweeping,
    start_server: StartServer,
    switch: Switch,
    status: int,
    retry_after: str | None,
) -> None:
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(120, seed=4)
    location = await sweeping.register(server)
    switch.fault = limit = Limiting(6, 0.5, status=status, retry_after=retry_after)
    result = await swept(index, asking(sweeping, location, max_wait=30))
    assert (result.error, result.images) == ("", 120)
    assert await sweeping.claimed(location) == set(server.ids())
    assert sum("marker" not in query for query in limit.queries) == 2, "each pass began once"
    assert 1 <= limit.refused <= 8, "it waits instead of asking again and again"


@pytest.mark.parametrize("patience", [0.1, None])
async def test_a_sweep_that_gives_up_continues_where_it_stopped(
    index: Index,
    sweeping: Sweeping,
    start_server: StartServer,
    switch: Switch,
    patience: float | None,
) -> None:
    server = await start_server(middlewares=[switch.middleware], page_cap=10)
    server.fill(100, seed=4)
    location = await sweeping.register(server)
    switch.fault = limit = Limiting(9, 600, retry_after="1")
    results = [Sweep()]
    while results[-1].ended is None:
        assert len(results) < 12, results[-1]
        results.append(await swept(index, asking(sweeping, location, patience), results[-1]))
        limit.begin_window()
    failures = results[1:-1]
    assert failures
    assert {failure.error_code for failure in failures} == {"rate-limited"}
    assert await sweeping.claimed(location) == set(server.ids())
    assert results[-1].images == 100
    beginnings = [query for query in limit.queries if not {"marker", "os_hidden"} & set(query)]
    assert len(beginnings) == 1, "no sweep began at page 1"


async def test_requests_are_spaced_by_the_rate(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    """Whatever asks: they share one limiter."""
    limits = RateLimits()
    location = parse_location("one", {"url": server.url, "rate": 20})
    switch.fault = limit = Limiting(1000, 60)
    ids = make_ids(6)
    for image_id in ids:
        server.add(id=format_id(image_id))
    probe = ImageProbe(sweeping.session, CloudCredentials(), limits, ScopeCache())
    first, second = (asking(sweeping, location, limits=limits) for _ in range(2))
    began = time.monotonic()
    await asyncio.gather(
        *(first.request("/v2/images", {"limit": "1"}) for _ in range(6)),
        *(second.versions() for _ in range(6)),
        *(probe.ask(location, V2, image_id, (0,)) for image_id in ids),
    )
    assert len(limit.times) == 18
    assert time.monotonic() - began >= 17 / 20
    busiest = max(sum(t <= other < t + 0.5 for other in limit.times) for t in limit.times)
    assert busiest <= 12, "ten in half a second, and two for a busy machine"


async def test_processes_share_the_rate_through_redis(
    index: Index, sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    location = await sweeping.register(server)
    location = replace(location, rate=20)
    switch.fault = limit = Limiting(1000, 60)

    async def is_shared() -> bool:
        limit.times.clear()
        limits = [RateLimits(index.turns) for _ in range(4)]
        processes = [asking(sweeping, location, limits=each) for each in limits]
        began = time.monotonic()
        await asyncio.gather(*(p.request("/v2/images", {"limit": "1"}) for p in processes * 4))
        assert len(limit.times) == 16
        return time.monotonic() - began >= 15 / 20

    # On a busy machine a process gets no reply of Redis in time, and keeps to the rate by itself.
    await wait_until(is_shared)


@pytest.mark.parametrize("index_url", ["memory:"], indirect=True)
async def test_without_redis_a_process_keeps_to_the_rate_by_itself(
    index: Index, sweeping: Sweeping, server: StandIn
) -> None:
    location = replace(await sweeping.register(server), rate=0.1)
    limiter = RateLimits(Unavailable(index.client, Keys("glr:"))).of(location)
    assert await limiter.reserve(0.1, 1.0) == 0
    with pytest.raises(LocationUnavailable, match="`rate` is used up"):
        await limiter.reserve(0.1, 1.0)


class Unavailable(Turns):
    """As while Redis fails."""

    async def take(self, *_: object) -> tuple[bool, float]:
        raise IndexUnavailable("Redis does not answer")


@pytest.mark.parametrize("shared", [True, False])
async def test_requests_that_are_never_delayed_leave_turns_to_others(
    index: Index, sweeping: Sweeping, server: StandIn, shared: bool
) -> None:
    """Health checks come more often than a very low rate allows."""
    location = await sweeping.register(server)
    limiter = RateLimits(index.turns if shared else None).of(location)
    for _ in range(50):
        assert await limiter.reserve(0.5, None) == 0
    assert 0 < await limiter.reserve(0.5, 10.0) <= 2


async def test_a_probe_does_not_wait_long_for_its_turn(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    limits = RateLimits()
    location = parse_location("one", {"url": server.url, "rate": 0.2})
    switch.fault = limit = Limiting(1000, 60)
    probe = ImageProbe(sweeping.session, CloudCredentials(), limits, ScopeCache())
    (image_id,) = make_ids(1)
    server.add(id=format_id(image_id))
    await probe.ask(location, V2, image_id, (0,))
    with pytest.raises(LocationUnavailable, match="`rate` is used up") as caught:
        await probe.ask(location, V2, image_id, (0,))
    assert caught.value.problem_code == "rate-limited"
    assert len(limit.times) == 1


async def test_while_the_server_wants_a_pause_no_probe_asks_it(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    location = await sweeping.register(server)
    switch.fault = limit = Limiting(0, 60, retry_after="30")
    probe = ImageProbe(sweeping.session, CloudCredentials(), RateLimits(), ScopeCache())
    for image_id in make_ids(5):
        with pytest.raises(LocationUnavailable) as caught:
            await probe.ask(location, V2, image_id, (0,))
        assert caught.value.problem_code == "rate-limited"
    assert len(limit.times) == 1


async def test_a_429_is_not_a_failure_of_the_server(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    location = await sweeping.register(server)
    limits, check = RateLimits(), None
    switch.fault = Limiting(0, 60, retry_after="30")
    for _ in range(5):
        glance = GlanceServer(sweeping.session, location, None, limits)
        check = next_status(check, await probe_health(glance, check))
        assert (check.health, check.failures) == (Health.UP, 0)


async def test_health_is_checked_whatever_our_own_limit_is(
    sweeping: Sweeping, server: StandIn
) -> None:
    limits = RateLimits()
    location = parse_location("one", {"url": server.url, "rate": 0.01})
    for _ in range(4):
        glance = GlanceServer(sweeping.session, location, None, limits)
        sample = await probe_health(glance, None, timeout_seconds=2)
        assert (sample.failure, bool(sample.versions)) == ("", True)


async def test_413_without_retry_after_is_not_a_rate_limit(
    sweeping: Sweeping, server: StandIn, switch: Switch
) -> None:
    location = await sweeping.register(server)
    switch.fault = Limiting(0, 60, status=413, retry_after=None)
    assert (await asking(sweeping, location).request("/v2/images")).status == 413


def test_retry_after_has_seconds_or_a_date() -> None:
    assert parse_retry_after("7") == 7
    assert parse_retry_after("0") == 0
    assert parse_retry_after("9" * 400) == 999_999_999
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 85 < (parse_retry_after(soon) or 0) <= 90
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    assert parse_retry_after(past) == 0
    no_year = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    for text in (None, "", "-1", "1.5", "soon", "\u0661", "Fri, 99 Foo 2026", no_year):
        assert parse_retry_after(text) is None


def test_a_date_counts_by_the_clock_of_the_server() -> None:
    hour_ahead = datetime.now(UTC) + timedelta(hours=1)
    date = format_datetime(hour_ahead, usegmt=True)
    retry_after = format_datetime(hour_ahead + timedelta(seconds=20), usegmt=True)
    assert parse_retry_after(retry_after, date) == 20
    assert parse_retry_after("7", date) == 7
    for no_date in ("soon", "", None):
        assert 3600 < (parse_retry_after(retry_after, no_date) or 0) <= 3620


@pytest.mark.parametrize("retry_after", ["99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_server_is_left_alone_for_longer_than_a_minute(retry_after: str) -> None:
    limiter = RateLimits().of(Location(name="one", url="http://one.example", number=1))
    assert limiter.record_refusal(retry_after) == 60


def test_requests_that_are_refused_together_count_once() -> None:
    """The pause would double with each of them, to minutes, where the server asks for a second."""
    limiter = RateLimits().of(Location(name="one", url="http://one.example", number=1))
    waits = [limiter.record_refusal("1") for _ in range(50)]
    assert waits == [1.0] * 50
    assert limiter.refusals == 1
