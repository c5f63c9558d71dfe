"""The Lua scripts, each a value with the text and the SHA-1 that Redis knows it by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str


def load(name: str, *heads: str) -> Script:
    """The script ``<name>.lua`` behind its shared heads."""
    folder = resources.files(__package__)
    text = "".join((folder / f"{part}.lua").read_text("utf-8") for part in (*heads, name))
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
