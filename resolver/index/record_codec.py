"""The registry's records as JSON: how locations and their status are stored, and read again.

Programs of several versions use one index at the same time, so

- fields that this version does not know are kept in ``unknown`` and written back with the record;
- a field of the wrong type makes its record unreadable, and nothing else;
- a field that is younger than format 1 is stored only where it differs from its default, since the
  programs of format 1 refuse a record with a field that they do not know.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from resolver.errors import InvalidLocation
from resolver.index.codec import FIRST_MARK
from resolver.index.redis.redis_errors import DECODE_ERRORS
from resolver.location_fields import MAX_TEXT_LENGTH, is_location_name
from resolver.models import (
    LOCATION_FIELDS,
    Change,
    Check,
    Location,
    Poll,
    Progress,
    SubscriptionStatus,
    Sweep,
)

T = TypeVar("T")

Checker = Callable[[Any], Any]
"""Turns a JSON value into that of a field. Raises one of `DECODE_ERRORS` for another type."""

UNKNOWN = "unknown"
"""The field of a record that has the stored fields which this version does not know."""

FORMAT_1_FIELDS: dict[type, frozenset[str]] = {
    Location: frozenset(
        [
            "url",
            "region",
            "api",
            "priority",
            "weight",
            "state",
            "reason",
            "sees_all",
            "auth",
            "notifications",
            "created",
            "updated",
        ]
    ),
    Change: frozenset(["at", "health", "reason"]),
    Check: frozenset(
        ["at", "health", "failures", "successes", "reason", "versions", "versions_at", "changes"]
    ),
    Sweep: frozenset(
        [
            "started",
            "ended",
            "images",
            "claimed",
            "released",
            "sees_all",
            "sees_all_why",
            "error",
            "error_code",
            "failed",
        ]
    ),
    Poll: frozenset(
        ["ended", "mark", "images", "claimed", "released", "error", "error_code", "failed"]
    ),
    SubscriptionStatus: frozenset(["connected", "since", "at", "error", "error_code"]),
    Progress: frozenset(["started", "images", "claimed", "before", "front", "markers", "at"]),
}
"""Fields that are always stored. Never add to them: see the third rule above."""

NOT_IN_THE_JSON = frozenset({"name", "number"})
"""Members of a location that its row has apart from the JSON."""


MAX_RECORD_BYTES = 65_536
"""Longest text that is parsed. The longest that this program writes has some 50,000: a location
with as many networks as it may have."""

MIN_NUMBER, MAX_NUMBER = -62_135_596_800, 253_402_300_799
"""Range of all numbers. As times they are the years 1 to 9999, which Python can show."""

CHECKED_WHERE_USED = frozenset({"url", "auth", "notifications"})
"""Fields of a location that make it unusable, and not its record unreadable, where this version
would not let operators write what is stored."""

TEXTS = frozenset({"region", "reason"})
"""Fields of a location that go into answers as they are."""


class UnreadableRecord(ValueError):
    """A record that this version cannot read."""


def to_json(value: Any) -> str:
    """The stored form. The same value always gives the same text."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def record_to_json(record: Any) -> str:
    """The stored form of a record, one of the classes in `FORMAT_1_FIELDS`."""
    return to_json(_stored_fields(record))


def _stored_fields(record: Any) -> dict[str, Any]:
    always = FORMAT_1_FIELDS[type(record)]
    stored = dict(record.unknown)
    for field in dataclasses.fields(record):
        name, value = field.name, getattr(record, field.name)
        if name in always or (
            name not in NOT_IN_THE_JSON and name != UNKNOWN and value != _default(field)
        ):
            stored[name] = _stored_value(value)
    return stored


def _stored_value(value: Any) -> Any:
    if type(value) in FORMAT_1_FIELDS:
        return _stored_fields(value)
    return [_stored_value(item) for item in value] if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def parse_record(kind: type[T], text: bytes | str) -> T:
    """A record from its JSON.

    Raises:
        UnreadableRecord: it is not a JSON object, lacks a field, or has one of another type.
    """
    try:
        return _decode(kind, _load_json(text))
    except DECODE_ERRORS as error:
        raise UnreadableRecord(f"{type(error).__name__}: {error}"[:200]) from error


def parse_location(name: str, stored: str) -> Location:
    """A location from ``<number> <JSON>``.

    Raises:
        UnreadableRecord: this version cannot read it.
    """
    try:
        number, _, text = stored.partition(" ")
        location = _decode(Location, {**_load_json(text), "name": name, "number": int(number)})
        _check_location(location)
    except (*DECODE_ERRORS, InvalidLocation) as error:
        raise UnreadableRecord(f"{type(error).__name__}: {error}"[:200]) from error
    return location


def _check_location(location: Location) -> None:
    """Raises ValueError or InvalidLocation for what no version of this program writes, so that
    the readers of a location need not check where it came from."""
    if not is_location_name(location.name) or not 0 < location.number < FIRST_MARK:
        raise ValueError("it has a name or number that no location has")
    for name, field in LOCATION_FIELDS.items():
        value = getattr(location, name)
        if name in TEXTS:
            if len(value) > MAX_TEXT_LENGTH or not value.isprintable():
                raise ValueError(f"{name}: it is too long or has characters that are not printable")
        elif name not in CHECKED_WHERE_USED:
            field.parse(value, name)


def parse_number(stored: bytes) -> int | None:
    """The number of a location; None for what no location has, which something else has written."""
    is_short = stored.isdigit() and len(stored) <= len(str(FIRST_MARK))
    number = int(stored) if is_short else 0
    return number if 0 < number < FIRST_MARK else None


def _load_json(text: bytes | str) -> Any:
    """Raises one of `DECODE_ERRORS`."""
    if len(text) > MAX_RECORD_BYTES:
        raise ValueError(f"it is longer than {MAX_RECORD_BYTES} bytes")
    value = json.loads(text)
    has_escapes = "\\u" in text if isinstance(text, str) else b"\\u" in text
    if has_escapes:
        to_json(value).encode()  # half of a surrogate pair could never be written again
    return value


def _decode(kind: type[T], fields: Any) -> T:
    if not isinstance(fields, dict):
        raise TypeError(f"{kind.__name__}: not an object")
    checkers = _checkers(cast("Hashable", kind))
    known, unknown = {}, {}
    for name, value in fields.items():
        checker = checkers.get(name)
        if checker is None:
            unknown[name] = value
            continue
        try:
            known[name] = checker(value)
        except DECODE_ERRORS as error:
            raise TypeError(f"{kind.__name__}.{name}: {error}") from error
    record: Any = kind  # one of the classes in `FORMAT_1_FIELDS`
    return cast("T", record(**known, unknown=unknown))


@cache
def _checkers(kind: Any) -> Mapping[str, Checker]:
    """By field, from the annotations of a record's class."""
    hints = get_type_hints(kind)
    return {
        field.name: _checker(hints[field.name])
        for field in dataclasses.fields(kind)
        if field.name != UNKNOWN
    }


def _checker(hint: Any) -> Checker:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(tuple(_checker(argument) for argument in arguments))
    if origin is tuple:  # of any length
        return _sequence(_checker(arguments[0]))
    if origin is dict:
        return _mapping(_checker(arguments[1]))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if dataclasses.is_dataclass(hint):
        return partial(_decode, cast("type[Any]", hint))
    return _plain((int, float) if hint is float else (hint,))


def _plain(allowed: tuple[type, ...]) -> Checker:
    def check(value: Any) -> Any:
        # bool is a subclass of int: `type` and not isinstance.
        if type(value) not in allowed:
            raise TypeError(f"{type(value).__name__} is not {allowed[-1].__name__}")
        if type(value) in (int, float) and not MIN_NUMBER <= value <= MAX_NUMBER:
            raise ValueError("the number is out of range")
        return value

    return check


def _union(checkers: tuple[Checker, ...]) -> Checker:
    def check(value: Any) -> Any:
        for checker in checkers[:-1]:
            try:
                return checker(value)
            except DECODE_ERRORS:
                pass
        return checkers[-1](value)

    return check


def _sequence(checker: Checker) -> Checker:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError("not a list")
        return tuple(checker(item) for item in value)

    return check


def _mapping(checker: Checker) -> Checker:
    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError("not an object")
        return {name: checker(item) for name, item in value.items()}

    return check


class _Unreadable(NamedTuple):
    """What `ParseCache` keeps of a text that cannot be read."""

    why: str


class ParseCache:
    """What the last load of the registry has parsed.

    Most texts are the same at the next load. With 200 locations, of which one has changed, a load
    takes a quarter of the time, during which this process answers no request.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[Any, ...], Any] = {}
        self._next: dict[tuple[Any, ...], Any] = {}

    def __len__(self) -> int:
        """Texts whose values are kept."""
        return len(self._last)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """One load. Values that it does not ask for are forgotten at its end. If it is cancelled,
        the next one has what it has parsed, and so gets further in the same time."""
        self._next = {}
        try:
            yield
        except BaseException:
            self._last = self._last | self._next
            raise
        self._last = self._next

    def parsed(self, parse: Callable[..., T], *texts: Any) -> T:
        """``parse(*texts)``, from the last load if it had the same texts.

        Raises:
            UnreadableRecord: by ``parse``, now or in the last load.
        """
        if len(texts[-1]) > MAX_RECORD_BYTES:
            return parse(*texts)
        key = (parse, *texts)
        found = self._last.get(key)
        if found is None:
            try:
                found = parse(*texts)
            except UnreadableRecord as error:
                found = _Unreadable(str(error))
        self._next[key] = found
        if isinstance(found, _Unreadable):
            raise UnreadableRecord(found.why)
        value: T = found
        return value
