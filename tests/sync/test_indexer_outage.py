"""What the indexer logs while something does not answer: an outage once, not each attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from resolver.glance import CloudCredentials, RateLimits, ScopeCache, connect
from resolver.registry import FreshnessPolicy, TableKeeper
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import DEFAULT_TIMINGS, Indexer
from resolver.sync.health import DOWN_AFTER_FAILURES
from tests.support.indexing import indexing, running, ticks
from tests.support.instrumented_client import InstrumentedClient
from tests.support.wait import wait_until

FAILED_TICKS = 5

NOWHERE = "http://127.0.0.1:1"
"""Where no server is."""


async def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    client = InstrumentedClient()
    index = client.index()
    await index.create_if_missing()
    failures = 0

    def fail() -> bool:
        nonlocal failures
        failures += 1
        return True

    def logged_outages() -> int:
        return sum("indexer tick" in record.getMessage() for record in caplog.records)

    def has_failed() -> bool:
        return failures >= FAILED_TICKS

    async with connect(5) as session:
        indexer = Indexer(
            index,
            TableKeeper(index, FreshnessPolicy(600)),
            session,
            Settings(),
            CloudCredentials(),
            RateLimits(),
            ScopeCache(),
            replace(DEFAULT_TIMINGS, tick=0.01),
        )
        async with running(indexer):
            for outage in (1, 2):
                failures = 0
                client.fails = fail
                await wait_until(has_failed)
                client.fails = lambda: False
                await ticks(indexer)
                assert logged_outages() == outage


async def test_a_sweep_that_keeps_failing_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    often = replace(DEFAULT_TIMINGS, tick=0.01, sweep_retry=0.01)
    async with indexing("memory:", timings=often, sweep_interval=0.05) as services:
        await services.registry.put("one", {"url": NOWHERE})
        sweeps = services.indexer.stats.sweeps
        await wait_until(lambda: sum(sweeps.values()) >= FAILED_TICKS)
    lines = [record for record in caplog.records if "sweep failed" in record.getMessage()]
    assert [record.levelname for record in lines if record.levelname != "DEBUG"] == ["WARNING"]


async def test_a_location_that_goes_down_is_a_warning_and_its_return_has_the_count() -> None:
    async with StandIn() as one, indexing("memory:", health_interval=0.05) as services:
        url, port = one.url, one.port
        await one.stop()
        await services.registry.put("one", {"url": url})

        async def is_in(state: str) -> bool:
            return (await services.registry.show("one"))["health"]["state"] == state

        with capture_logs() as lines:
            await wait_until(lambda: is_in("down"))
            await one.start(port=port)
            await wait_until(lambda: is_in("up"))
    *_, down, up = [line for line in lines if line["event"] == "location health"]
    assert (down["health"], down["log_level"]) == ("down", "warning")
    assert (up["health"], up["log_level"]) == ("up", "info")
    assert up["failures"] >= DOWN_AFTER_FAILURES
    assert up["seconds"] >= 0
