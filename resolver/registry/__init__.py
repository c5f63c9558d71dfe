"""Locations: the registry, the table that answers are made from, and their files."""

from resolver.registry.bootstrap import Bootstrap, StartupLocations
from resolver.registry.registry import Registry
from resolver.registry.table import FreshnessPolicy, LocationView, Table, TableKeeper

__all__ = [
    "Bootstrap",
    "FreshnessPolicy",
    "LocationView",
    "Registry",
    "StartupLocations",
    "Table",
    "TableKeeper",
]
