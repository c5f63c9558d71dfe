"""How the health checks of many locations are shared: each shard is checked by one process.

A checker suspects itself when many of the locations that it checks fail together, so that a shard
is never small.
"""

from __future__ import annotations

SHARD_LOCATIONS = 50
"""Locations in a shard, more or less."""

MAX_SHARDS = 64


def shard_count(locations: int) -> int:
    """Into how many shards so many locations are divided."""
    return min(max(locations // SHARD_LOCATIONS, 1), MAX_SHARDS)


def shard_of(number: int, count: int) -> int:
    """The shard of a location, by its number."""
    return number % count


def own_shards(count: int, position: int, members: int) -> range:
    """The shards of the process at this position among the members."""
    return range(position, count, members)
