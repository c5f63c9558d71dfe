"""Which paths the front answers, and what metrics call their routes: as the application does."""

from __future__ import annotations

from resolver.gateway.api.any_location import any_location_label
from resolver.gateway.api.image_reads import RESOLVE_LABEL, is_image_read
from resolver.gateway.image_path import REGION_LABEL, ROUTE_LABEL, split_region

VERSION_PATHS = frozenset({"/", "/versions", "/v1", "/v1/", "/v2", "/v2/"})
VERSION_PATHS_OF_REGION = VERSION_PATHS | {""}
VERSION_ROUTE_LABELS = {"/v1": "/{api}", "/v2": "/{api}", "/v1/": "/{api}/", "/v2/": "/{api}/"}
"""What metrics call the routes of version paths that are not named like their route."""

LIVENESS_PATHS = frozenset({"/healthcheck", "/livez"})


def is_front_path(path: str) -> bool:
    """Whether the front answers reads of a path."""
    return (
        is_image_read(path)
        or is_version_path(path)
        or path in LIVENESS_PATHS
        or bool(any_location_label(path))
    )


def is_version_path(path: str) -> bool:
    """Whether a path has a version document."""
    if path.startswith("/region/"):
        prefix, path = split_region(path)
        return bool(prefix) and path in VERSION_PATHS_OF_REGION
    return path in VERSION_PATHS


def route_label(path: str) -> str:
    """What metrics call the route of a path that the front answers."""
    if path.startswith("/resolve/"):
        return RESOLVE_LABEL
    if label := any_location_label(path):
        return label
    prefix, path = split_region(path)
    is_named = path in VERSION_PATHS_OF_REGION or path in LIVENESS_PATHS
    label = VERSION_ROUTE_LABELS.get(path, path) if is_named else ROUTE_LABEL
    return REGION_LABEL + label if prefix else label
