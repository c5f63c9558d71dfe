"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

from collections.abc import Iterable

SIMILARITY = 0.6
"""From 0 to 1: how much two names must have in common."""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`` (did you mean 'port'?)``, or nothing where no known name is similar. ``prefix``: put
    before a name that is shown; names are compared without it."""
    import difflib  # noqa: PLC0415 - rarely needed

    similar = difflib.get_close_matches(name, list(known), 1, SIMILARITY)
    return f" (did you mean {prefix + similar[0]!r}?)" if similar else ""
