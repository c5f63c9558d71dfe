"""Times for people: how long ago something was."""

from __future__ import annotations

from datetime import UTC, datetime

UNITS = ((172_800, 86_400, "days"), (7_200, 3_600, "h"), (120, 60, "min"))
"""From how many seconds on, the seconds in a unit, its name."""


def age(text: str | None, now: datetime | None = None) -> str:
    """``12 min`` for a time of the API (RFC 3339); empty for none."""
    if not text:
        return ""
    moment = datetime.fromisoformat(text)
    seconds = max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds())
    for least, unit, name in UNITS:
        if seconds >= least:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
