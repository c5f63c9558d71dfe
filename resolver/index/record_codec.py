"""The registry's records as JSON: how locations and their status are stored, and read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from resolver.index.redis.replies import parses_reply
from resolver.models import (
    Api,
    Change,
    Check,
    Health,
    Location,
    Poll,
    Progress,
    State,
    SubscriptionStatus,
    Sweep,
)

T = TypeVar("T")


def to_json(value: Any) -> str:
    """The stored form. The same value always gives the same text."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


@parses_reply
def parse_location(name: str, stored: str) -> Location:
    """A location from ``<number> <JSON>``."""
    number, _, text = stored.partition(" ")
    fields = json.loads(text)
    fields["api"] = Api(fields["api"])
    fields["state"] = State(fields["state"])
    return Location(name=name, number=int(number), **fields)


@parses_reply
def parse_check(text: bytes) -> Check:
    fields = json.loads(text)
    fields["health"] = Health(fields["health"])
    fields["versions"] = tuple(fields["versions"])
    fields["changes"] = tuple(
        Change(**{**change, "health": Health(change["health"])})
        for change in fields.get("changes", ())
    )
    return Check(**fields)


@parses_reply
def parse_sweep(text: bytes) -> Sweep:
    return Sweep(**json.loads(text))


@parses_reply
def parse_poll(text: bytes) -> Poll:
    return Poll(**json.loads(text))


@parses_reply
def parse_subscription(text: bytes) -> SubscriptionStatus:
    return SubscriptionStatus(**json.loads(text))


@parses_reply
def parse_progress(text: bytes) -> Progress:
    fields = json.loads(text)
    fields["markers"] = tuple(fields["markers"])
    return Progress(**fields)


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
        """One load. Values that it does not ask for are forgotten at its end."""
        self._next = {}
        yield
        self._last = self._next

    def parsed(self, parse: Callable[..., T], *texts: Any) -> T:
        """``parse(*texts)``, from the last load if it had the same texts."""
        key = (parse, *texts)
        found = self._last.get(key)
        value: T = parse(*texts) if found is None else found
        self._next[key] = value
        return value
