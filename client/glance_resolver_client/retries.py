"""When a request is sent again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.5
"""Where the server names no time. It doubles with each retry."""


@dataclass(frozen=True, slots=True)
class Retries:
    """Bounds of the retries of one call."""

    attempts: int = 3
    """Retries after the first request."""
    max_wait: float = 60.0
    """Seconds of all pauses together. A longer `Retry-After` ends the call."""


DEFAULT_RETRIES = Retries()


class Backoff:
    """The pauses of one call."""

    def __init__(self, retries: Retries) -> None:
        self._attempts_left = retries.attempts
        self._seconds_left = retries.max_wait
        self._default_pause = FIRST_PAUSE_SECONDS

    def next_pause(self, retry_after: float | None) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none."""
        pause = retry_after
        if pause is None:
            # Clients that failed together do not return together.
            pause = self._default_pause * random.uniform(0.5, 1)
            self._default_pause *= 2
        if self._attempts_left <= 0 or pause > self._seconds_left:
            return None
        self._attempts_left -= 1
        self._seconds_left -= pause
        return pause


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` names (RFC 9110, 10.2.3); None without a usable one."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
