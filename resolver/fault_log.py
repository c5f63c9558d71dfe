"""Log lines about faults that go on."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

QUIET_SECONDS = 60.0
"""Between two lines about one fault, and without a failure before it counts as ended, where it may
come and go with each request."""

NEW_FAULT_SECONDS = 600.0
"""A failure so long after the last one begins another fault, also where no success was seen."""

log = structlog.get_logger()


class FaultLog:
    """Writes a line where a fault begins and one where it has ended, with how often it occurred and
    how long it went on. In between there is one where the reason changes, at most once a minute.

    What fails may be tried many times a second, so each failure by itself is in no log.
    """

    def __init__(
        self,
        failed: str,
        ended: str,
        *,
        quiet_seconds: float = QUIET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        failed, ended: the events of the two lines.
        quiet_seconds: how long nothing may have failed before a success ends the fault. 0: the
            first success ends it, for what is tried by one task.
        """
        self._failed = failed
        self._ended = ended
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._failures = 0
        self._reason = ""
        self._since = self._last = self._logged_at = 0.0

    def record_failure(self, reason: str, **fields: object) -> None:
        """It failed. ``fields``: what else the line says, if there is one."""
        now = self._clock()
        is_first = not self._failures or now - self._last >= NEW_FAULT_SECONDS
        if is_first:
            self._since, self._failures = now, 0
        self._failures += 1
        self._last = now
        is_due = reason != self._reason and now - self._logged_at >= QUIET_SECONDS
        if is_first or is_due:
            log.warning(self._failed, reason=reason, **fields)
            self._reason, self._logged_at = reason, now

    def record_success(self, **fields: object) -> None:
        """It succeeded, which ends the fault if nothing has failed for a while."""
        if self._failures and (now := self._clock()) - self._last >= self._quiet_seconds:
            end = self._last if self._quiet_seconds else now
            seconds = round(end - self._since, 1)
            log.info(self._ended, failures=self._failures, seconds=seconds, **fields)
            self._failures = 0
