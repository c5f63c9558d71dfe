"""Text of others, made safe for a terminal: it would obey escape sequences in it.

Everything that a gateway answers passes here when it is decoded, and every error before it is
shown. A gateway's own texts are printable, so nothing of them is lost.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "?"


def printable(text: str) -> str:
    """The text on one line, with a question mark for what a terminal would not show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else REPLACEMENT for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any) -> Any:
    """A decoded JSON value with all texts in it printable, also the names of members."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_json(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): printable_json(item) for name, item in value.items()}
    return value
