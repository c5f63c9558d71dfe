"""The master stays away: no replica may take over, or the outage outlives what is remembered."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.test_failover import RECOVERY_TIMEOUT, under_load
from tests.support.sentinel import DOWN_AFTER_MS, Sentinels
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

LONG_SECONDS = {"some seconds": 4 * DOWN_AFTER_MS / 1000, "a minute": 60.0}


@pytest.mark.parametrize(
    "how_long", ["some seconds", pytest.param("a minute", marks=pytest.mark.long)]
)
async def test_answers_stay_correct_when_no_replica_may_take_over(
    sentinels: Sentinels, how_long: str
) -> None:
    """The Sentinels agree that the master is down, and name it all the same."""
    async with under_load(sentinels.url) as load:
        await asyncio.to_thread(sentinels.wait)
        master = sentinels.master()
        sentinels.other(master).ask("CONFIG SET", "replica-priority", 0)
        try:
            async with load.running():
                master.pause()
                await load.last(LONG_SECONDS[how_long])
                assert "index-unavailable" in await load.process.problem_codes()
                assert sentinels.named() == {master.port}
                master.resume()
                resumed = time.monotonic()
                await wait_until(load.has_recovered, RECOVERY_TIMEOUT, "the resolver has recovered")
                recovery_seconds = time.monotonic() - resumed
        finally:
            master.resume()
        await wait_until(load.no_claim_is_lost, RECOVERY_TIMEOUT, "acknowledged claims are kept")
        load.report(f"Sentinel: master SIGSTOP for {how_long}, no failover", recovery_seconds)
        load.check()
