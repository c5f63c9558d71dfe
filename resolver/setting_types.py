"""What kinds of settings there are, and how their values are read.

A value comes from the environment as text, from a TOML file as text, a number, a truth value or a
list, and from the command line with its type.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
FALSE = frozenset({"0", "f", "false", "n", "no", "off"})

_SETTING = "setting"
"""The key of a field's metadata."""


class Setting(NamedTuple):
    """What is known of a setting besides its name."""

    default: Any
    description: str
    least: float | None
    above: float | None
    """What it must be greater than."""
    most: float | None
    check: Callable[[Any], Any] | None
    """Returns the value as it is used. Raises ValueError for one that cannot be used."""


def setting(
    default: Any,
    description: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    check: Callable[[Any], Any] | None = None,
) -> Any:
    """A field of a dataclass that is a setting. See `Setting`. Text is a str; names, separated by
    commas where they are text, are a tuple."""
    described = Setting(default, description, least, above, most, check)
    return dataclasses.field(default=default, metadata={_SETTING: described})


def seconds(default: float, description: str) -> Any:
    """A time that is not 0."""
    return setting(default, description, above=0, most=86400 * 30)


def settings_of(cls: Any) -> dict[str, Setting]:
    """The settings of a dataclass by name."""
    fields = dataclasses.fields(cls)
    return {f.name: f.metadata[_SETTING] for f in fields if _SETTING in f.metadata}


def read_values(cls: Any, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The usable values of settings by name, and what is wrong with the others. The names must be
    settings of the dataclass."""
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    kinds, known = get_type_hints(cls), settings_of(cls)
    for name in known:
        if name not in given:
            continue
        try:
            values[name] = _read(given[name], kinds[name], known[name])
        except ValueError as error:
            faults[name] = str(error)
    return values, faults


def _read(value: Any, kind: Any, described: Setting) -> Any:
    """A value with the type ``kind``. Raises ValueError for one that cannot be used."""
    if NoneType in get_args(kind):
        if value is None:
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"it must be one of {', '.join(get_args(kind))}")
    elif get_origin(kind) is tuple:
        value = _read_names(value)
    elif kind is bool:
        value = _read_bool(value)
    elif kind is str:
        value = _read_text(value)
    else:
        value = _read_number(value, kind)
        _check_bounds(value, described)
    return value if described.check is None else described.check(value)


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be text")  # noqa: TRY004 - every fault is a ValueError
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it must be UTF-8") from None
    return value


def _read_names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ValueError("it must be text with commas, or a list of texts")
    return tuple(_read_text(name) for name in value)


def _read_bool(value: Any) -> bool:
    text = str(value).lower()
    if text not in TRUE | FALSE:
        raise ValueError("it must be on or off")
    return text in TRUE


def _read_number(value: Any, kind: type) -> Any:
    what = "a whole number" if kind is int else "a number"
    allowed = (str, int) if kind is int else (str, int, float)
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ValueError(f"it must be {what}")  # noqa: TRY004 - as above
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        raise ValueError(f"it must be {what}") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"it must be {what}")
    return number


def _check_bounds(number: float, described: Setting) -> None:
    if described.above is not None and number <= described.above:
        raise ValueError(f"it must be greater than {described.above:g}")
    if described.least is not None and number < described.least:
        raise ValueError(f"it must be at least {described.least}")
    if described.most is not None and number > described.most:
        raise ValueError(f"it must be at most {described.most}")
