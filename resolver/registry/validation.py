"""Validation of what operators write about a location, with messages that say what to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resolver.errors import InvalidLocation
from resolver.location_fields import is_location_name
from resolver.models import LOCATION_FIELDS, Location
from resolver.suggestions import did_you_mean

MAX_NAMED_FIELDS = 5
"""Unknown fields that an error names. To look for what each may mean takes some 20 microseconds."""


def check_name(name: str) -> str:
    """The name, if a location may have it.

    Raises:
        InvalidLocation: it may not.
    """
    if not is_location_name(name):
        raise InvalidLocation(
            f"{name[:80]!r} is not a location name: use a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or digit, at most 63 characters"
        )
    return name


def parse_location(name: str, fields: Mapping[str, Any], base: Location | None = None) -> Location:
    """The location that ``fields`` describe, given as JSON values: a complete one, or ``base`` with
    the given fields changed. Another URL is another server: it gets no credential that was meant
    for the one before, unless ``fields`` have `auth` too.

    Raises:
        InvalidLocation: a field is unknown, missing or wrong. The message names the first one.
    """
    check_name(name)
    if "name" in fields and fields["name"] != name:
        raise InvalidLocation(f"`name` in the body is not {name!r}; a location cannot be renamed")
    known = {"name", *LOCATION_FIELDS}
    if unknown := [str(field)[:40] for field in fields if field not in known]:
        named = ", ".join(
            f"{field if field.isprintable() else repr(field)}{did_you_mean(field, LOCATION_FIELDS)}"
            for field in unknown[:MAX_NAMED_FIELDS]
        )
        if len(unknown) > MAX_NAMED_FIELDS:
            named += f" and {len(unknown) - MAX_NAMED_FIELDS} more"
        raise InvalidLocation(f"unknown field {named}: a location has {', '.join(LOCATION_FIELDS)}")
    values = {
        field: spec.parse(fields.get(field), field)
        for field, spec in LOCATION_FIELDS.items()
        if field in fields or (field == "url" and base is None)
    }
    if base is None:
        return _checked(Location(name=name, **values))
    if values.get("url", base.url) != base.url and base.auth and "auth" not in values:
        # What that credential saw says nothing about what nobody's sees.
        values = {"sees_all": None, **values, "auth": None}
    return _checked(replace(base, **values))


def _checked(location: Location) -> Location:
    """Raises InvalidLocation where fields do not fit each other."""
    if location.networks and not location.region:
        raise InvalidLocation("`networks` choose a region for clients: give `region` too")
    return location
