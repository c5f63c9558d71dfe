"""The intervals of the background work that are not settings. Tests shorten them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexerTimings:
    """All in seconds."""

    tick: float = 0.5
    """Between two checks of what is due."""

    lease: float = 30.0
    """How long the work of a dead indexer waits for another. A lease is renewed three times in this
    time, and by a sweep after each page."""

    sweep_retry: float = 30.0
    """Until a failed sweep is retried, where sweeps are not due sooner."""

    checkpoint: float = 1.0
    """Between two checkpoints of a sweep: the work that is repeated after a crash."""

    poll_overlap: float = 20.0
    """How long before the end of the last poll the next one begins. It covers the difference of the
    clocks of a cloud's nodes, and its longest transaction."""

    health_check_timeout: float = 5.0
    """For one health check: a server that takes longer is not well."""

    disconnect_gap: float = 30.0
    """Without a connection to the broker for this long, notifications may have been lost: the
    broker may have restarted meanwhile."""

    max_reconnect_delay: float = 15.0
    """Between two attempts to connect to the broker."""

    queue_check: float = 5.0
    """Without a notification for this long, the queue is checked."""

    drop_after: int = 5
    """How long the old buckets stay after a rebuild of the index: longer than any lookup in them
    may take."""


DEFAULT_TIMINGS = IndexerTimings()
