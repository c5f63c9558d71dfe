"""Which installed packages have versions that this program cannot use."""

from __future__ import annotations

import re
from importlib import metadata

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?([<>=][^;]*)?(;.*)?")
_BOUND = re.compile(r"(>=|<)([0-9.]+)")


def unfit_packages() -> list[str]:
    """A text for each: its version, and what is needed. Empty where this program is not installed,
    since its requirements are not known then."""
    try:
        requirements = metadata.requires("glance-resolver") or []
    except metadata.PackageNotFoundError:
        return []
    texts = []
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None or match[3]:  # of an extra, which may be missing
            continue
        name, bounds = match[1], (match[2] or "").strip()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            texts.append(f"{name} is not installed, {name}{bounds} is needed")
            continue
        if not is_within(version, bounds):
            texts.append(f"{name} {version} is installed, {name}{bounds} is needed")
    return texts


def is_within(version: str, bounds: str) -> bool:
    """Whether a version is within bounds such as ``<4,>=3.14``."""
    number = _numbers(version)
    return all(
        number >= _numbers(bound) if sign == ">=" else number < _numbers(bound)
        for sign, bound in _BOUND.findall(bounds)
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end."""
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
