"""The Lua scripts, each a value with its text and the SHA-1 by which Redis knows it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """One script."""

    text: str
    sha: str


READ_ONLY_SCRIPTS: set[str] = set()
"""The scripts that change nothing, by SHA-1 and by text."""


def load(name: str, *heads: str, read_only: bool = False) -> Script:
    """The script ``<name>.lua``, with the shared heads it uses in front."""
    folder = resources.files(__package__)
    text = "".join((folder / f"{part}.lua").read_text("utf-8") for part in (*heads, name))
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    if read_only:
        READ_ONLY_SCRIPTS.update((sha, text))
    return Script(text, sha)
