"""Prints pip constraints: each direct dependency at the lowest version that pyproject.toml allows.

Use: ``pip install -e '.[all]' --group test-base --constraint <(python .ci/lowest.py)``
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest(requirements: list[str]) -> list[str]:
    """``name==version`` of each requirement, without its extras: constraints cannot have any.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    pins = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w-]+)(?:\[[\w,-]+\])?>=([\d.]+)(?:,<[\d.]+)?", requirement)
        if match is None:
            raise ValueError(f"{requirement}: write it as name>=version or name>=version,<version")
        pins.append(f"{match[1]}=={match[2]}")
    return pins


def main() -> None:
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    extras = [
        requirement
        for name, requirements in project["optional-dependencies"].items()
        if name != "all"  # the others together
        for requirement in requirements
    ]
    print("\n".join(lowest([*project["dependencies"], *extras])))


if __name__ == "__main__":
    main()
