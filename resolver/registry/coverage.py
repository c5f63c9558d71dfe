"""Coverage: whether the index is complete and fresh enough to prove that an image is absent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resolver.models import QUICK_POLL_SECONDS, Status, SubscriptionStatus

SUBSCRIPTION_LOST_SECONDS = 45.0
"""After this long without a confirmation, no indexer holds the subscription to a location's
notifications."""


GUARDED = "more of its images seem to be gone than RESOLVER_SHRINK_GUARD allows"
"""Why the "no" of a location does not count while its shrink guard is tripped."""

NO_INDEXER = "no indexer is running, so what changed there is not known"
"""Why the index proves nothing of any location while nothing keeps it up to date."""


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """How long the results of sweeps and polls count as fresh."""

    swept_within: float
    """Seconds after the end of a sweep. The duration of that sweep is added."""
    polled_within: float | None = None
    """Seconds for which polls may fail; None if polls are off."""
    no_indexer: Callable[[], bool] = lambda: False
    """Whether no indexer is running anywhere: then nothing is kept up to date."""


def coverage_problem(
    status: Status, policy: FreshnessPolicy, scope_problem: str, now: float, *, losses: int = 0
) -> str:
    """Why the index may lack an image of the location with this status; empty if it cannot.
    ``losses``: how often Redis may have lost claims by now."""
    sweep, poll = status.sweep, status.poll
    if policy.no_indexer():
        return NO_INDEXER
    if sweep.ended is None or sweep.started is None:
        return f"never swept ({sweep.error_code})" if sweep.error else "not swept yet"
    if scope_problem:
        return scope_problem
    if sweep.listing_gap:
        return sweep.listing_gap
    if sweep.guarded is not None:
        return GUARDED
    if sweep.losses != losses:
        return "Redis may have lost claims since its last sweep began"
    duration = max(sweep.ended - sweep.started, 0.0)
    age = now - sweep.ended
    # If the clock was set back since, the age is negative and the sweep may be of any time.
    if abs(age) > policy.swept_within + duration:
        why = f" ({sweep.error_code})" if sweep.error else ""
        return f"the last complete sweep ended {age:.0f} s ago{why}"
    since_changes_read = now - max(sweep.ended, poll.ended or 0.0)
    # Successful polls do not change the registry's version, so the table may show an old one.
    # Failed polls do, so the age of the last good poll counts only after a failure.
    within = policy.polled_within
    if poll.error and within is not None and abs(since_changes_read) > within:
        return f"what changed was last read {since_changes_read:.0f} s ago ({poll.error_code})"
    return ""


def proof_age(status: Status, now: float) -> float:
    """Seconds since the moment up to which sweeps and polls have shown every image of the location
    with this status. Infinite before the first sweep.

    Notifications do not count: a Glance that sends none looks like one where nothing changes.
    """
    sweep, poll = status.sweep, status.poll
    if sweep.started is None:
        return math.inf
    # What is created while a listing is read may be missing in it.
    polled = poll.began or (poll.ended or 0.0) - QUICK_POLL_SECONDS
    return abs(now - max(sweep.started, polled))


def describe_coverage(
    status: Status,
    policy: FreshnessPolicy,
    scope_problem: str,
    now: float,
    *,
    losses: int,
    listens: bool,
) -> dict[str, Any]:
    """The coverage of a location as the HTTP API shows it. ``listens``: the location has
    `notifications`."""
    problem = coverage_problem(status, policy, scope_problem, now, losses=losses)
    return {
        "covered": not problem,
        "why": problem or "its last sweep is complete and fresh",
        "sweep": _describe_sweep(status, now),
        "poll": _describe_poll(status, policy, now),
        "events": _describe_events(status.subscription, now)
        if listens
        else "none: the location has no `notifications`",
        "credential": scope_problem or "sees every image",
    }


def _describe_sweep(status: Status, now: float) -> str:
    sweep = status.sweep
    text = "not swept yet"
    if sweep.ended is not None:
        text = f"complete {_ago(now, sweep.ended)}: {sweep.images} images"
    if sweep.error:
        text += f"; the latest failed ({sweep.error_code})"
    return text


def _describe_poll(status: Status, policy: FreshnessPolicy, now: float) -> str:
    if policy.polled_within is None:
        return "off"
    poll = status.poll
    text = "not polled yet" if poll.ended is None else _ago(now, poll.ended)
    if poll.error:
        text += f"; the latest failed ({poll.error_code})"
    return text


def _describe_events(subscription: SubscriptionStatus | None, now: float) -> str:
    if subscription is None:
        return "not connected yet"
    if now - subscription.at > SUBSCRIPTION_LOST_SECONDS:
        return f"not known: last confirmed {_ago(now, subscription.at)}"
    if subscription.connected:
        return f"connected {_ago(now, subscription.since)}"
    return f"lost {_ago(now, subscription.since)} ({subscription.error_code})"


def _ago(now: float, at: float) -> str:
    return f"{max(now - at, 0):.0f} s ago"
