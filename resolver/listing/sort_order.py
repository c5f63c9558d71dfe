"""The order of a listing: Glance's sort keys and directions, and how rows compare.

From Glance's ``api/v2/images.py`` (``_get_sorting_params``) and ``db/sqlalchemy/api.py``
(``_image_get_all``): ``created_at`` and ``id`` follow the keys that are asked for, so that the
order is total. Their direction is the one that was given, if it was one, and descending otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

from resolver.errors import InvalidRequest

SORT_KEYS = (
    *("name", "status", "container_format", "disk_format"),
    *("size", "id", "created_at", "updated_at"),
)

TIME_KEYS = frozenset({"created_at", "updated_at"})
"""Databases sort these by microseconds, and rows show whole seconds."""

COMPARABLE_KEYS = TIME_KEYS | {"size", "id"}
"""Keys that every database sorts in the same way. How it sorts text depends on its collation."""

MAX_VALUE_CHARACTERS = 255
"""Of a text that images are sorted by. Glance's columns are no longer."""

Value = str | int | None
"""Of a sort key in a row. ``size`` is a number, all others are text."""

Values = tuple[Value, ...]
"""A row's place in an order: its values of the sort keys."""


class SortKey(NamedTuple):
    name: str
    descends: bool


class _Descending:
    """Reverses a comparison, so that keys can have both directions."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Descending) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and bool(self.value == other.value)

    __hash__ = None  # type: ignore[assignment]  # only for comparisons


@dataclass(frozen=True)
class SortOrder:
    """Sort keys, the most significant first. ``created_at`` and ``id`` are always among them."""

    keys: tuple[SortKey, ...]
    params: tuple[tuple[str, str], ...] = ()
    """What asks a location for this order. It is the older syntax, since servers that resemble
    Glance know no other; nothing where the order is Glance's own."""

    @classmethod
    def take_from(cls, pairs: list[tuple[str, str]]) -> SortOrder:
        """Removes the parameters that ask for an order, and returns it.

        Raises:
            InvalidRequest: as Glance answers 400.
        """
        names = {name for name, _ in pairs}
        if "sort" in names:
            if names & {"sort_key", "sort_dir"}:
                raise InvalidRequest("Old and new sorting syntax cannot be combined")
            if sum(name == "sort" for name, _ in pairs) > 1:  # Glance takes it for a property
                raise InvalidRequest("sort is given twice: separate its keys with commas")
            keys, directions = _parse_sort(_take_first(pairs, "sort"))
        else:
            keys, directions = _take_all(pairs, "sort_key"), _take_all(pairs, "sort_dir")
            for key in keys:
                _check_key(key)
            for direction in directions:
                _check_direction(direction)
            if len(directions) > 1 and len(directions) != len(keys):
                raise InvalidRequest("Number of sort dirs does not match the number of sort keys")
        return cls._of(keys, directions)

    @classmethod
    def _of(cls, keys: list[str], directions: list[str]) -> SortOrder:
        params = tuple(
            [("sort_key", key) for key in keys] + [("sort_dir", value) for value in directions]
        )
        keys = keys or ["created_at"]
        default = directions[0] if len(directions) == 1 else "desc"
        given = directions if len(directions) == len(keys) else [default] * len(keys)
        sort_keys = [SortKey(k, d == "desc") for k, d in zip(keys, given, strict=True)]
        sort_keys += [
            SortKey(name, default == "desc") for name in ("created_at", "id") if name not in keys
        ]
        return cls(tuple(sort_keys), params)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self.keys)

    @cached_property
    def text(self) -> str:
        """Names the order: orders with the same text are the same."""
        return ",".join(f"{'-' if key.descends else ''}{key.name}" for key in self.keys)

    def key(self, values: Values, *, ignore_case: bool = False) -> Any:
        """What orders rows: the smallest comes first. ``values``: the row's, of `names`.

        Rows without a value come first where the key ascends, as in SQLite and MySQL.
        ``ignore_case``: names are compared as MySQL does by default.
        """
        if ignore_case:
            values = tuple([v.casefold() if isinstance(v, str) else v for v in values])
        pairs = [(value is not None, value) for value in values]
        if self._all_descend:  # as most do: to compare all at once is faster
            return _Descending(pairs)
        return [
            _Descending(pair) if descends else pair
            for pair, (_, descends) in zip(pairs, self.keys, strict=True)
        ]

    @cached_property
    def _all_descend(self) -> bool:
        return all(key.descends for key in self.keys)

    def values_of(self, row: dict[str, Any]) -> Values:
        """A row's values of the sort keys.

        Raises:
            TypeError: one has a type that Glance does not give it.
        """
        values = tuple([row.get(name) for name in self.names])
        for name, value in zip(self.names, values, strict=True):
            if value is None:
                if name == "id":
                    raise TypeError(name)
            elif type(value) is not (int if name == "size" else str) or (
                isinstance(value, str) and len(value) > MAX_VALUE_CHARACTERS
            ):
                raise TypeError(name)
        return values

    def is_violated(self, before: Values, after: Values) -> bool:
        """Whether no database that sorts in this order gives these rows one after the other."""
        for key, value, next_value in zip(self.keys, before, after, strict=True):
            if value == next_value:
                if key.name in TIME_KEYS:
                    return False
                continue
            if key.name not in COMPARABLE_KEYS or value is None or next_value is None:
                return False
            first, second = (next_value, value) if key.descends else (value, next_value)
            if key.name == "id":  # databases differ in how they compare letter case
                return str(first).lower() > str(second).lower()
            return bool(first > second)  # type: ignore[operator]
        return False

    def used_up(self, place: Values | None, rows: Sequence[Values]) -> Values | None:
        """The place up to which rows are used up, when rows with these values follow ``place``.

        Rows that show the same second are in the order of microseconds that they do not show, so
        the place within it is the highest one that was reached.
        """
        places = [*rows] if place is None else [place, *rows]
        if not places:
            return None
        visible = places[-1][: self._visible]
        of_last_second = takewhile(lambda v: v[: self._visible] == visible, reversed(places))
        return max(of_last_second, key=self.key)

    def is_past(self, values: Values, end: Values) -> bool:
        """Whether every database puts rows with these values behind the other place. Known of
        orders only that begin with a time or an id: those have no null and no collation."""
        name, descends = self.keys[0]
        if name not in TIME_KEYS | {"id"}:
            return False
        first, second = str(values[0]).lower(), str(end[0]).lower()
        return first < second if descends else first > second

    @cached_property
    def _visible(self) -> int:
        """How many keys come before the first time or are it: rows do not show what orders those
        that are equal in them."""
        return next(i for i, name in enumerate(self.names, 1) if name in TIME_KEYS)

    def ignores_case(self, before: Values, after: Values) -> bool:
        """Whether the database that gives these rows one after the other must compare names
        without regard to letter case."""
        for key, value, next_value in zip(self.keys, before, after, strict=True):
            if value != next_value:
                if key.name != "name" or value is None or next_value is None:
                    return False
                first, second = str(value), str(next_value)
                if key.descends:
                    first, second = second, first
                return first > second and first.casefold() <= second.casefold()
            if key.name in TIME_KEYS:
                return False
        return False


def _parse_sort(text: str) -> tuple[list[str], list[str]]:
    keys, directions = [], []
    for part in text.strip().split(","):
        key, _, direction = part.partition(":")
        keys.append(_check_key(key.strip()))
        directions.append(_check_direction((direction or "desc").strip()))
    return keys, directions


def _take_first(pairs: list[tuple[str, str]], name: str) -> str:
    position = next(i for i, (key, _) in enumerate(pairs) if key == name)
    return pairs.pop(position)[1]


def _take_all(pairs: list[tuple[str, str]], name: str) -> list[str]:
    values = [value.strip() for key, value in pairs if key == name]
    pairs[:] = [pair for pair in pairs if pair[0] != name]
    return values


def _check_key(key: str) -> str:
    if key not in SORT_KEYS:
        raise InvalidRequest(
            f"Invalid sort key: {key[:64]}. It must be one of the following: "
            f"{', '.join(SORT_KEYS)}."
        )
    return key


def _check_direction(direction: str) -> str:
    if direction not in ("asc", "desc"):
        raise InvalidRequest(f"Invalid sort direction: {direction[:64]}")
    return direction
