"""The filters of a listing, each a test that an image passes or fails."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from resolver.standin.answers import fail
from resolver.standin.image import Image

Test = Callable[[Image], bool]

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    **{"gt": operator.gt, "gte": operator.ge, "lt": operator.lt},
    **{"lte": operator.le, "eq": operator.eq, "neq": operator.ne},
}


def choices(value: str) -> list[str]:
    """The values of `in:a,b`, or the one of a plain filter."""
    return value[3:].split(",") if value.startswith("in:") else [value]


def equal(name: str, value: str) -> Test:
    """A plain filter; a name that is no field of an image is one of its properties."""
    if name == "tag":
        return lambda image: value in image.tags
    if name in {"name", "status", "owner", "disk_format", "container_format", "checksum"}:
        return lambda image: getattr(image, name) in choices(value)
    return lambda image: image.properties.get(name) == value


def moment(name: str, value: str) -> Test:
    """A filter like `gte:2024-01-01T00:00:00Z`, against times with their microseconds."""
    try:
        sign, when = "eq", datetime.fromisoformat(value)
    except ValueError:
        sign, _, value = value.partition(":")
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            fail(400, f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.')
    if sign not in _OPERATORS:
        fail(400, "Unable to filter on a unknown operator.")
    compare = _OPERATORS[sign]
    bound = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    of_image = operator.attrgetter(name.removesuffix("_at"))
    return lambda image: compare(of_image(image), bound)


def every(tests: list[Test]) -> Test:
    """All of them at once."""
    return lambda image: all(test(image) for test in tests)
