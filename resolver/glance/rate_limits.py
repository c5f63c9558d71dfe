"""How often each location may be asked: its registered `rate`, and what the server itself demands
with 429 or 413 and ``Retry-After``.

Everything that asks a location shares its `rate`: sweeps, polls, probes and health checks, of all
processes that use the index. While Redis does not answer, each process keeps to the rate by itself.
A pause that the server demands is known to the process whose request was refused.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from resolver.errors import IndexUnavailable, LocationUnavailable
from resolver.fault_log import FaultLog
from resolver.index import Turns
from resolver.models import Location

MIN_RETRY_AFTER_SECONDS = 0.5
"""The shortest wait, whatever the server says; doubled for each such answer in a row. Requests that
were under way together are refused together, and count once."""

MAX_RETRY_AFTER_SECONDS = 60.0
"""The longest wait for the next try. Limits are mostly by the minute; a server that really wants an
hour gets one request a minute meanwhile, and one that only says so is not left alone for an hour.
"""

NEVER_DELAYED = None
"""As the longest wait: the request is counted and made at once. For checks of health, which are few
and must not take our own limit for the server's failure."""

PROBE_WAIT_SECONDS = 1.0
"""How long a client's question waits for its turn."""

POLL_WAIT_SECONDS = 15.0

TURN_TIMEOUT_SECONDS = 0.25
"""How long Redis may take to say when it is our turn."""

TURN_RETRY_SECONDS = 1.0
"""How long after Redis did not, it is not asked again."""

SWEEP_WAIT_SECONDS = 120.0
"""How long one request of a sweep waits for its turn, before the sweep fails and makes room for
another location. It is resumed where it stopped."""


@dataclass(slots=True)
class RateLimiter:
    """The limiter of one location. Times are on `time.monotonic`."""

    name: str
    number: int = 0
    turns: Turns | None = None
    """Shared with other processes; None: there are none."""
    use_turns_at: float = 0.0
    """When Redis is asked for a turn again."""
    next_free: float = 0.0
    """When the rate allows the next request, without ``turns``. It allows no bursts: a server may
    count by the second or by the minute."""
    paused_until: float = 0.0
    """Until when the server wants no requests."""
    refusals: int = 0
    """How often in a row the server refused requests because of its limit."""
    faults: FaultLog = field(
        default_factory=lambda: FaultLog(__name__, "rate limited", "no longer rate limited")
    )

    async def reserve(self, rate: float, max_wait: float | None) -> float:
        """Takes a turn; returns the seconds to wait for it. ``rate``: requests a second, 0 for no
        limit. ``max_wait``: the longest wait in seconds, or `NEVER_DELAYED`.

        Raises:
            LocationUnavailable: the wait would be longer. No turn was taken.
        """
        pause = max(self.paused_until - time.monotonic(), 0.0)
        taken, wait = True, pause
        if rate:
            taken, wait = await self._take_turn(rate, pause, max_wait)
        if not taken or (max_wait is not NEVER_DELAYED and wait > max_wait):
            why = "it asked us to pause" if pause else "its `rate` is used up"
            raise LocationUnavailable(
                f"{why}: the next request can be made in {wait:.1f} s",
                code="rate-limited",
                extra={"retry_after": wait},
            )
        return 0.0 if max_wait is NEVER_DELAYED else wait

    async def _take_turn(
        self, rate: float, pause: float, max_wait: float | None
    ) -> tuple[bool, float]:
        """Whether a turn was taken that is no more than ``max_wait`` seconds away, and how far away
        it is. ``pause``: the least seconds."""
        if self.turns is not None and time.monotonic() >= self.use_turns_at:
            try:
                async with asyncio.timeout(TURN_TIMEOUT_SECONDS):
                    return await self.turns.take(self.number, rate, pause, max_wait)
            except (IndexUnavailable, TimeoutError):
                self.use_turns_at = time.monotonic() + TURN_RETRY_SECONDS
        now = time.monotonic()
        wait = 0.0 if max_wait is NEVER_DELAYED else max(pause, self.next_free - now)
        taken = max_wait is NEVER_DELAYED or wait <= max_wait
        if taken:
            self.next_free = max(self.next_free, now + wait + 1 / rate)
        return taken, wait

    def record_refusal(self, retry_after: str | None, date: str | None = None) -> float:
        """The server refused a request because of its limit; returns the seconds to wait.
        ``retry_after``: its ``Retry-After``; ``date``: its ``Date``."""
        now = time.monotonic()
        is_first = self.paused_until <= now  # others were sent before this pause began
        if is_first:
            self.refusals += 1
        least = MIN_RETRY_AFTER_SECONDS * (1 << min(max(self.refusals - 1, 0), 8))
        asked = parse_retry_after(retry_after, date) or 0.0
        wait = min(max(asked, least), MAX_RETRY_AFTER_SECONDS)
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

    def __init__(self, turns: Turns | None = None) -> None:
        """``turns``: shared with other processes; None: there are none."""
        self._turns = turns
        self._limiters: dict[int, RateLimiter] = {}

    def of(self, location: Location) -> RateLimiter:
        """The limiter of a location."""
        limiter = self._limiters.get(location.number)
        if limiter is None or limiter.name != location.name:
            limiter = RateLimiter(location.name, location.number, self._turns)
            self._limiters[location.number] = limiter
        return limiter


def parse_retry_after(text: str | None, date: str | None = None) -> float | None:
    """The seconds of a ``Retry-After`` (RFC 9110), which has seconds or a date; None where it has
    neither. ``date``: when the server wrote it, by its own clock, which may not be ours."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text[:9])
    when = _parse_date(text)
    if when is None:
        return None
    written = _parse_date(date or "") or datetime.now(UTC)
    return max((when - written).total_seconds(), 0.0)


def _parse_date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
