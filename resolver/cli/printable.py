"""Text of others, made safe for a terminal: it would obey escape sequences in it.

Everything that a gateway answers passes here when it is decoded, and every error before it is
shown. A gateway's own texts are printable, so nothing of them is lost.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "?"

MAX_DEPTH = 50
"""Of the values in an answer. A gateway's are a few levels deep."""


def printable(text: str) -> str:
    """The text on one line, with a question mark for what a terminal would not show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else REPLACEMENT for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A decoded JSON value with all texts in it printable, also the names of members.

    Raises:
        ValueError: it is deeper than ``depth``.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | dict) and not depth:
        raise ValueError("it is too deep")
    if isinstance(value, list):
        return [printable_json(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {printable(name): printable_json(item, depth - 1) for name, item in value.items()}
    return value
