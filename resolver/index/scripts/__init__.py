"""The Lua scripts, each a value with the text and the SHA-1 that Redis knows it by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str


READING: set[str] = set()
"""Names by which Redis knows the scripts that change nothing."""


def load(name: str, *heads: str, reading: bool = False) -> Script:
    """The script ``<name>.lua`` behind its shared heads. ``reading``: it changes nothing."""
    folder = resources.files(__package__)
    text = "".join((folder / f"{part}.lua").read_text("utf-8") for part in (*heads, name))
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    if reading:
        READING.add(sha)
    return Script(text, sha)
