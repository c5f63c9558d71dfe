"""The filters of a listing: functions that say whether an image matches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from resolver.standin.answers import fail
from resolver.standin.image import Image

Filter = Callable[[Image], bool]

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    **{"gt": operator.gt, "gte": operator.ge, "lt": operator.lt},
    **{"lte": operator.le, "eq": operator.eq, "neq": operator.ne},
}


def split_choices(value: str) -> list[str]:
    """The values of `in:a,b`, or the single value of a plain filter."""
    return value[3:].split(",") if value.startswith("in:") else [value]


def field_filter(name: str, value: str) -> Filter:
    """Matches a field, or a property if the name is not a field of an image."""
    if name == "os_hash_value":
        return lambda image: image.sha512 == value
    if name in {"name", "status", "owner", "disk_format", "container_format", "checksum"}:
        return lambda image: getattr(image, name) in split_choices(value)
    return lambda image: image.properties.get(name) == value


def time_filter(name: str, value: str) -> Filter:
    """Matches a time, as in `gte:2024-01-01T00:00:00Z`. Microseconds count, but v2 hides them."""
    try:
        comparison, when = "eq", datetime.fromisoformat(value)
    except ValueError:
        comparison, _, value = value.partition(":")
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            fail(400, f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.')
    if comparison not in _OPERATORS:
        fail(400, "Unable to filter on a unknown operator.")
    compare = _OPERATORS[comparison]
    bound = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    read_time = operator.attrgetter(name.removesuffix("_at"))
    return lambda image: compare(read_time(image), bound)


def all_of(filters: list[Filter]) -> Filter:
    """Matches images that match all filters."""
    return lambda image: all(matches(image) for matches in filters)
