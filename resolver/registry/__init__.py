"""Locations: the registry, the table that answers are made from, and their files."""

from resolver.registry.admission import Admission
from resolver.registry.bootstrap import Bootstrap, StartupLocations
from resolver.registry.coverage import NO_INDEXER, FreshnessPolicy
from resolver.registry.location_batch import BatchRequest, Progress, ignore_progress
from resolver.registry.location_problems import ACTION_FOR_LOST, LocationProblems
from resolver.registry.location_view import LocationView
from resolver.registry.registry import Registry
from resolver.registry.table import Table, TableKeeper
from resolver.registry.target_policy import OwnPorts

__all__ = [
    "ACTION_FOR_LOST",
    "NO_INDEXER",
    "Admission",
    "BatchRequest",
    "Bootstrap",
    "FreshnessPolicy",
    "LocationProblems",
    "LocationView",
    "OwnPorts",
    "Progress",
    "Registry",
    "StartupLocations",
    "Table",
    "TableKeeper",
    "ignore_progress",
]
