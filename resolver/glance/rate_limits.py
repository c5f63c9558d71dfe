"""How often each location may be asked: its registered `rate`, and what the server itself demands
with 429 or 413 and ``Retry-After``.

One process has one limiter for each location, which everything that asks it shares: sweeps, polls,
probes and health checks. Processes do not coordinate. Sweeps, polls and health checks run in one
process at a time, so with G gateways that probe, a location is asked at most ``(1 + G) * rate``
times a second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from resolver.errors import LocationUnavailable
from resolver.fault_log import FaultLog
from resolver.models import Location

MIN_RETRY_AFTER_SECONDS = 0.5
"""The shortest wait, whatever the server says; doubled for each such answer in a row. Requests that
were under way together are refused together, and count once."""

MAX_RETRY_AFTER_SECONDS = 3600.0

NEVER_DELAYED = None
"""As the longest wait: the request is counted and made at once. For checks of health, which are few
and must not take our own limit for the server's failure."""

PROBE_WAIT_SECONDS = 1.0
"""How long a client's question waits for its turn."""

POLL_WAIT_SECONDS = 15.0

SWEEP_WAIT_SECONDS = 120.0
"""How long one request of a sweep waits for its turn, before the sweep fails and makes room for
another location. It is resumed where it stopped."""


@dataclass(slots=True)
class RateLimiter:
    """The limiter of one location. Times are on `time.monotonic`."""

    name: str
    next_free: float = 0.0
    """When the rate allows the next request. It allows no bursts: a server may count by the second
    or by the minute."""
    paused_until: float = 0.0
    """Until when the server wants no requests."""
    refusals: int = 0
    """How often in a row the server refused requests because of its limit."""
    faults: FaultLog = field(
        default_factory=lambda: FaultLog(__name__, "rate limited", "no longer rate limited")
    )

    def reserve(self, rate: float, max_wait: float | None) -> float:
        """Takes a turn; returns the seconds to wait for it. ``rate``: requests a second, 0 for no
        limit. ``max_wait``: the longest wait in seconds, or `NEVER_DELAYED`.

        Raises:
            LocationUnavailable: the wait would be longer. No turn was taken.
        """
        now = time.monotonic()
        turn = max(now, self.paused_until, self.next_free if rate else 0.0)
        wait = turn - now
        if max_wait is not NEVER_DELAYED and wait > max_wait:
            why = "it asked us to pause" if self.paused_until > now else "its `rate` is used up"
            raise LocationUnavailable(
                f"{why}: the next request can be made in {wait:.1f} s",
                code="rate-limited",
                extra={"retry_after": wait},
            )
        if rate:
            self.next_free = turn + 1 / rate
        return 0.0 if max_wait is NEVER_DELAYED else wait

    def record_refusal(self, retry_after: str | None) -> float:
        """The server refused a request because of its limit; returns the seconds to wait.
        ``retry_after``: its ``Retry-After``."""
        now = time.monotonic()
        is_first = self.paused_until <= now  # others were sent before this pause began
        if is_first:
            self.refusals += 1
        least = MIN_RETRY_AFTER_SECONDS * (1 << min(max(self.refusals - 1, 0), 8))
        wait = min(max(parse_retry_after(retry_after) or 0.0, least), MAX_RETRY_AFTER_SECONDS)
        if is_first:
            self.faults.record_failure(
                "it refuses requests for a while",
                lasts=wait,
                location=self.name,
                retry_after=round(wait, 1),
            )
        self.paused_until = max(self.paused_until, now + wait)
        return wait

    def record_success(self) -> None:
        self.refusals = 0
        self.faults.record_success(location=self.name)


class RateLimits:
    """The limiters of a process, one for each location."""

    def __init__(self) -> None:
        self._limiters: dict[int, RateLimiter] = {}

    def of(self, location: Location) -> RateLimiter:
        """The limiter of a location."""
        limiter = self._limiters.get(location.number)
        if limiter is None or limiter.name != location.name:
            limiter = self._limiters[location.number] = RateLimiter(location.name)
        return limiter


def parse_retry_after(text: str | None) -> float | None:
    """The seconds of a ``Retry-After`` (RFC 9110), which has seconds or a date; None where it has
    neither."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)
