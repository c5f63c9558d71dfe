"""Following a listing to its end, and what it should be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Get = Callable[[str], Awaitable[tuple[Any, Any]]]
"""Sends a GET; returns the response and its JSON."""

MAX_PAGES = 500


async def pages(get: Get, path: str) -> list[list[dict[str, Any]]]:
    """The rows of all pages of a listing, from ``path`` along its ``next`` links."""
    found: list[list[dict[str, Any]]] = []
    next_path: str | None = path
    while next_path is not None:
        response, document = await get(next_path)
        assert response.status == 200, document
        found.append(document["images"])
        next_path = document.get("next")
        assert len(found) < MAX_PAGES
    return found


async def all_rows(get: Get, path: str) -> list[dict[str, Any]]:
    return [row for page in await pages(get, path) for row in page]


def sort_value(row: dict[str, Any], keys: Iterable[tuple[str, bool]]) -> tuple[Any, ...]:
    """A key for `sorted`: Glance's order, with the times that rows show."""
    values = [((row[name] is not None, row[name]), descends) for name, descends in keys]
    return tuple(_Reversed(value) if descends else value for value, descends in values)


class _Reversed:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Reversed) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)
