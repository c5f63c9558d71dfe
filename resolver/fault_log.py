"""Log lines about faults that go on."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

QUIET_SECONDS = 60.0
"""Least time between two lines about one fault. Also how long nothing may have failed before a
success ends a fault, unless the caller gives another time."""

NEW_FAULT_SECONDS = 600.0
"""A failure so long after the last one begins another fault, also where no success was seen."""


class FaultLog:
    """Logs a fault when it begins and when it has ended, with the number of failures and the
    seconds that it went on. In between, a new reason is logged at most once a minute.

    An operation that fails may be tried many times a second, so single failures are not logged.
    """

    def __init__(
        self,
        logger: str,
        failed: str,
        ended: str,
        *,
        quiet_seconds: float = QUIET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        logger: the name of the module that fails, for the lines.
        failed, ended: the events of the two lines.
        quiet_seconds: how long nothing may have failed before a success ends the fault. 0: the
            first success ends it, for what only one task tries.
        clock: the time in seconds.
        """
        self._log = structlog.get_logger(logger)
        self._failed = failed
        self._ended = ended
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._failures = 0
        self._reason = ""
        self._since = self._last = self._logged_at = 0.0

    def record_failure(self, reason: str, *, lasts: float = 0.0, **fields: object) -> None:
        """Records a failure. ``lasts``: for how many seconds it goes on from now, if that is known.
        ``fields``: for its line, if it gets one."""
        now = self._clock()
        is_first = not self._failures or now - self._last >= NEW_FAULT_SECONDS
        if is_first:
            self._since, self._failures = now, 0
        self._failures += 1
        self._last = now + lasts
        is_due = reason != self._reason and now - self._logged_at >= QUIET_SECONDS
        if is_first or is_due:
            self._log.warning(self._failed, reason=reason, **fields)
            self._reason, self._logged_at = reason, now

    def record_success(self, **fields: object) -> None:
        """Records a success, which ends the fault if nothing has failed for ``quiet_seconds``.
        ``fields``: for the line about its end."""
        if self._failures and (now := self._clock()) - self._last >= self._quiet_seconds:
            end = self._last if self._quiet_seconds else now
            seconds = round(end - self._since, 1)
            self._log.info(self._ended, failures=self._failures, seconds=seconds, **fields)
            self._failures = 0
