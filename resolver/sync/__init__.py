"""Keeping the index true: sweeps and checks of each location, by one process at a time."""

from resolver.sync.indexer import Indexer

__all__ = ["Indexer"]
