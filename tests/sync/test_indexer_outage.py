"""What the indexer logs while Redis does not answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resolver.glance import CloudCredentials, RateLimits, ScopeCache, connect
from resolver.registry import FreshnessPolicy, TableKeeper
from resolver.settings import Settings
from resolver.sync import DEFAULT_TIMINGS, Indexer
from tests.support.indexing import running, ticks
from tests.support.instrumented_client import InstrumentedClient
from tests.support.wait import wait_until

FAILED_TICKS = 5


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
