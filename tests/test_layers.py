"""Imports point one way, so that each layer can be read and tested without those above it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import resolver

ROOT = Path(resolver.__file__).parent
LAYERS = [
    {"errors"},
    {"location_fields"},
    {"models"},
    {"settings"},
    {"index"},
    {"glance"},
    {"registry"},
    {"resolution"},
    {"sync"},
    {"services"},
    {"gateway", "cli"},
]
"""From the bottom; a layer may import itself and those before it."""

OUTER = {"logs", "standin", "__main__"}
"""Used by `gateway` and `cli` only, and using nothing of the layers; `__main__` starts `cli`."""

STANDARD = {"", "__init__"}
"""The package itself: its version."""

FILES = sorted(ROOT.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, layer) of each import of ours, those within functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            names = [node.module or ""]
            if node.module == "resolver":
                names = [f"resolver.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "resolver":
                yield node.lineno, parts[1] if len(parts) > 1 else ""


def allowed(layer: str) -> set[str]:
    if layer == "__main__":
        return {"cli"}
    if layer in OUTER:
        return {layer}
    below: set[str] = set()
    for names in LAYERS:
        below |= names
        if layer in names:
            break
    return below | (OUTER if layer in LAYERS[-1] else set())


def test_every_module_has_a_layer() -> None:
    known = set().union(*LAYERS) | OUTER | STANDARD
    assert {layer_of(path) for path in FILES} <= known


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer in STANDARD:
        assert list(imports(path)) == []
        return
    may = allowed(layer) | {"__version__"}
    wrong = [
        f"{path}:{line}: {layer} imports {name}" for line, name in imports(path) if name not in may
    ]
    assert wrong == []


def test_the_check_sees_imports() -> None:
    """Else it would pass whatever is imported."""
    seen: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        seen[layer_of(path)] |= {name for _, name in imports(path)}
    assert "errors" in seen["models"]
    assert "services" in seen["gateway"]
    assert "services" not in allowed("registry")
    assert "logs" not in allowed("sync")
