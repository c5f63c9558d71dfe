"""When nobody waits for the index any more, and when again."""

from __future__ import annotations

from resolver.errors import IndexUnavailable
from resolver.resolution.breaker import FAILURES_TO_OPEN, Breaker
from tests.support.wait import wait_until

GONE = IndexUnavailable("Redis did not answer")


async def test_the_breaker_opens_after_failures_in_a_row_and_closes_after_a_trial() -> None:
    outcomes: list[Exception | None] = [GONE, RuntimeError("ours"), None]

    async def trial() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    breaker = Breaker(trial)
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.record_failure(GONE)
    breaker.record_success()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.record_failure(GONE)
        assert breaker.error is None
    breaker.record_failure(GONE)
    assert breaker.error is GONE
    breaker.record_failure(GONE)  # one that had been asked before
    await wait_until(lambda: breaker.error is None)
    assert not outcomes, "one trial at a time, also after one that broke"
    breaker.record_failure(GONE)
    assert breaker.error is None, "it counts anew"
    await breaker.close()
