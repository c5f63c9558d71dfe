"""Log lines about faults that go on."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from resolver.fault_log import NEW_FAULT_SECONDS, QUIET_SECONDS, FaultLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def begun(reason: str) -> EventDict:
    return {"event": "it fails", "log_level": "warning", "reason": reason}


def ended(failures: int, seconds: float) -> EventDict:
    counts = {"failures": failures, "seconds": seconds}
    return {"event": "it works", "log_level": "info", **counts}


def test_a_fault_has_a_line_at_its_begin_and_one_with_its_count_at_its_end() -> None:
    clock = Clock()
    fault = FaultLog(__name__, "it fails", "it works", quiet_seconds=0, clock=clock)
    with capture_logs() as lines:
        fault.record_success()
        for outage in range(2):
            for _ in range(600):
                fault.record_failure(f"outage {outage}")
                clock.now += 0.5
            fault.record_success()
            fault.record_success()
    assert lines == [begun("outage 0"), ended(600, 300.0), begun("outage 1"), ended(600, 300.0)]


def test_another_reason_is_logged_at_most_once_a_minute() -> None:
    clock = Clock()
    fault = FaultLog(__name__, "it fails", "it works", clock=clock)
    with capture_logs() as lines:
        for second in range(5 * int(QUIET_SECONDS)):
            fault.record_failure(("refused", "timed out")[second % 2])
            clock.now += 1
    assert 4 <= len(lines) <= 5


def test_what_comes_and_goes_is_one_fault() -> None:
    """It ends after a minute without a failure, and lasted until the last one."""
    clock = Clock()
    fault = FaultLog(__name__, "it fails", "it works", clock=clock)
    with capture_logs() as lines:
        for _ in range(200):
            fault.record_failure("refused")
            clock.now += 1
            fault.record_success()
        clock.now += QUIET_SECONDS
        fault.record_success()
    assert lines == [begun("refused"), ended(200, 199.0)]


def test_a_failure_long_after_the_last_one_begins_another_fault() -> None:
    """Also where no success was seen in between."""
    clock = Clock()
    fault = FaultLog(__name__, "it fails", "it works", clock=clock)
    with capture_logs() as lines:
        for _ in range(2):
            fault.record_failure("refused")
            fault.record_failure("refused")
            clock.now += NEW_FAULT_SECONDS
    assert lines == [begun("refused")] * 2


def test_the_lines_name_the_module_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    fault = FaultLog("resolver.some_module", "it fails", "it works", quiet_seconds=0)
    with caplog.at_level("INFO"):
        fault.record_failure("refused")
        fault.record_success()
    assert [record.name for record in caplog.records] == ["resolver.some_module"] * 2


def test_a_failure_that_is_known_to_last_counts_until_its_end() -> None:
    clock = Clock()
    fault = FaultLog(__name__, "it fails", "it works", clock=clock)
    with capture_logs() as lines:
        fault.record_failure("paused", lasts=90.0)
        clock.now += 90 + QUIET_SECONDS - 1
        fault.record_success()
        assert lines == [begun("paused")]
        clock.now += 1
        fault.record_success()
    assert lines[1:] == [ended(1, 90.0)]
