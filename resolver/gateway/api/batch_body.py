"""The body of ``POST /locations``, read one location at a time.

Python's JSON decoder holds the interpreter until it has read a whole document: 4 MiB of a hostile
shape would hold up all clients for half a second. Here it reads at most what one location may have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from typing import Any

from resolver.errors import InvalidRequest, TooLarge
from resolver.turns import in_turns

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Longest body with many locations: ten thousand take 2 to 3 MB."""

MAX_BATCH_LOCATIONS = 10_000
"""Most locations that one request may put, and most that it may remove."""

MAX_VALUE_CHARACTERS = 65_536
"""Longest text of a location's fields, as in a ``PUT``."""

_SPACE = re.compile(r"[ \t\n\r]*")

Members = dict[str, Any]
Steps = Generator[None, None, tuple[Any, int]]
"""Reads a value in steps; returns it and the position behind it."""
ReadValue = Callable[[str, str, int], Steps]
"""Reads the value of a member, from its name, the text and the value's position."""


def duplicate_name_error() -> InvalidRequest:
    """The error for a name that is given twice: parsers differ on which value counts."""
    return InvalidRequest("the JSON has a name twice in one object")


def object_without_duplicates(pairs: list[tuple[str, Any]]) -> Members:
    """Raises InvalidRequest if a name is given twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise duplicate_name_error()
    return value


_decode = json.JSONDecoder(object_pairs_hook=object_without_duplicates).raw_decode


async def read_batch(text: str) -> Members:
    """The members of a request's body. Other tasks get turns in between.

    Raises:
        ValueError, RecursionError: the text is not a JSON object.
        InvalidRequest: it has a name twice in one object.
        TooLarge: it has too many locations, or one of them has too many characters.
    """
    batch: Members = {}
    async for _ in in_turns(_read_document(text, batch)):
        pass
    return batch


def _read_document(text: str, batch: Members) -> Generator[None, None, None]:
    members, end = yield from _read_object(text, _skip(text, 0), _read_member)
    if end != len(text):
        raise ValueError("something follows the object")
    batch.update(members)


def _read_object(text: str, at: int, read_value: ReadValue) -> Steps:
    """Reads an object, a member each step."""
    members: Members = {}
    at = _after(text, at, "{")
    while not text.startswith("}", at):
        if members:
            at = _after(text, at, ",")
        if len(members) == MAX_BATCH_LOCATIONS:
            raise _too_many_error()
        if not text.startswith('"', at):
            raise ValueError("no name")
        name, at = _read_value(text, at)
        if name in members:
            raise duplicate_name_error()
        members[name], at = yield from read_value(name, text, _after(text, at, ":"))
        yield
    return members, _after(text, at, "}")


def _read_member(name: str, text: str, at: int) -> Steps:
    """Reads a member of the document."""
    if name == "put" and text.startswith("{", at):
        return (yield from _read_object(text, at, _read_fields))
    if name == "remove" and text.startswith("[", at):
        return _read_names(text, at)
    return _read_value(text, at)


def _read_fields(_name: str, text: str, at: int) -> Steps:
    """Reads what a location should be."""
    yield from ()  # no steps: it is short
    return _read_value(text, at)


def _read_names(text: str, at: int) -> tuple[Any, int]:
    """A list of names of locations, and the position behind it. (No such name has a bracket.)"""
    end = text.find("]", at) + 1
    if text.count(",", at, end) >= MAX_BATCH_LOCATIONS:
        raise _too_many_error()
    if text.find("[", at + 1, end) >= 0 or text.find("{", at, end) >= 0:
        raise ValueError("a value is not a name")
    return _decode(text[at:end])[0], _skip(text, end)


def _read_value(text: str, at: int) -> tuple[Any, int]:
    """A value of a bounded length, and the position behind it and white space."""
    part = text[at : at + MAX_VALUE_CHARACTERS]
    try:
        value, length = _decode(part)
    except json.JSONDecodeError as error:
        if at + len(part) == len(text):
            raise
        raise TooLarge(
            f"a location is longer than {MAX_VALUE_CHARACTERS} characters, or not JSON"
        ) from error
    return value, _skip(text, at + length)


def _too_many_error() -> TooLarge:
    return TooLarge(f"one request may have {MAX_BATCH_LOCATIONS} locations: send several")


def _after(text: str, at: int, expected: str) -> int:
    """The position behind a character and the white space that follows it."""
    if not text.startswith(expected, at):
        raise ValueError(f"no {expected}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    """The position behind white space."""
    match = _SPACE.match(text, at)
    return match.end() if match else at
