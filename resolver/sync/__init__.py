"""Keeps the index current: sweeps, polls, notifications and health checks of each location."""

from resolver.sync.indexer import Indexer
from resolver.sync.indexer_watch import IndexerWatch
from resolver.sync.leased_work import WorkKey, WorkKind
from resolver.sync.process_watch import ProcessWatch
from resolver.sync.stats import Stats
from resolver.sync.timings import DEFAULT_TIMINGS, IndexerTimings

__all__ = [
    "DEFAULT_TIMINGS",
    "Indexer",
    "IndexerTimings",
    "IndexerWatch",
    "ProcessWatch",
    "Stats",
    "WorkKey",
    "WorkKind",
]
