"""Locations files in YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from resolver.errors import InvalidLocation, SettingsError
from resolver.registry.validation import parse_location
from resolver.text_files import read_bytes

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Largest file that is read. Ten thousand locations take 2 MB."""


MISSING_COLON = ("mapping values are not allowed here", "could not find expected ':'")
"""What PyYAML reports of the line after one without a colon."""


class _UniqueKeys(yaml.constructor.SafeConstructor):
    """Refuses a key that occurs twice in a mapping. PyYAML would silently use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.MarkedYAMLError(
                        None, None, f"{key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Loader(_UniqueKeys, yaml.SafeLoader):
    pass


class _FastLoader(_UniqueKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """On libyaml, where PyYAML has it: a thousand locations take a seventh of the time."""


def _load(text: bytes) -> Any:
    """The document. Raises what PyYAML raises."""
    try:
        return yaml.load(text, Loader=_FastLoader)
    except Exception:  # whatever it is, the other loader describes it in the same words everywhere
        return yaml.load(text, Loader=_Loader)


def read_locations(path: str, *, may_be_pipe: bool = False) -> dict[str, dict[str, Any]]:
    """The locations of a file: the fields of each by its name, validated. ``may_be_pipe``: this
    process has nothing else to do than to wait for what it reads.

    The file contains ``locations:`` and below it a mapping of names to the fields of
    ``PUT /locations/{name}``.

    Raises:
        SettingsError: the file cannot be read or a location is not valid. The message names the
            file, the location and what is wrong.
    """
    try:
        text = read_bytes(Path(path), MAX_FILE_BYTES, may_be_pipe=may_be_pipe)
    except OSError as error:
        raise SettingsError(f"locations file {path}: {error.strerror}") from error
    try:
        document = _load(text)
    except Exception as error:  # PyYAML's own errors, and those of tags such as !!timestamp
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "it is not YAML text"
        if why in MISSING_COLON:
            why += " (or the line before lacks its ':')"
        raise SettingsError(f"locations file {path}{where}: {why}") from error
    listed = document.get("locations") if isinstance(document, dict) else None
    if not isinstance(listed, dict) or set(document) != {"locations"}:
        raise SettingsError(
            f"locations file {path}: it must be `locations:` and below it `NAME:` with `url:` "
            "(config/locations.example.yaml shows one)"
        )
    names = [str(name) for name in listed]
    for name, count in Counter(names).items():
        if count > 1:  # YAML keys of different types, such as 1 and "1"
            raise SettingsError(f"locations file {path}: {name!r} is given twice")
    for name, fields in listed.items():
        if not isinstance(fields, dict):
            raise SettingsError(f"locations file {path}: {name!r} must have fields, at least `url`")
        try:
            parse_location(str(name), fields)
        except InvalidLocation as error:
            hint = "" if isinstance(name, str) else "; in YAML, quote names such as no and 1.0"
            raise SettingsError(f"locations file {path}: {name}: {error.detail}{hint}") from error
    return {str(name): dict(fields) for name, fields in listed.items()}
