"""When the circuit breaker opens and closes."""

from __future__ import annotations

from resolver.errors import IndexUnavailable
from resolver.resolution.breaker import FAILURES_TO_OPEN, Breaker
from tests.support.wait import wait_until

UNAVAILABLE = IndexUnavailable("Redis did not answer")


async def test_the_breaker_opens_after_failures_in_a_row_and_closes_after_a_trial() -> None:
    outcomes: list[Exception | None] = [UNAVAILABLE, RuntimeError("a bug"), None]

    async def trial() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    breaker = Breaker(trial)
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.record_failure(UNAVAILABLE)
    breaker.record_success()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.record_failure(UNAVAILABLE)
        assert breaker.error is None
    breaker.record_failure(UNAVAILABLE)
    assert breaker.error is UNAVAILABLE
    breaker.record_failure(UNAVAILABLE)  # of a lookup that began before it opened
    await wait_until(lambda: breaker.error is None)
    assert not outcomes, "one trial at a time, also after one that failed"
    breaker.record_failure(UNAVAILABLE)
    assert breaker.error is None, "it counts from zero again"
    await breaker.close()
