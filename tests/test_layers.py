"""Each package can be read without those above it: imports point one way."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

import resolver

ROOT = Path(resolver.__file__).parent

LAYERS = [
    {"admin_tokens", "errors", "fault_log", "image_facts", "masking", "latency", "problems"}
    | {
        "service_manager",
        "spans",
        "otel_spans",
        "suggestions",
        "task_groups",
        "text_files",
        "turns",
        "bounded_http",
        "certificate_dates",
        "optional_packages",
    }
    | {"trace_context"},
    {"location_fields"},
    {"models"},
    {"setting_names"},
    {"environment", "keystone_urls"},
    {"settings"},
    {"faulty_settings"},
    {"index.scripts"},
    {"index.redis"},
    {"index"},
    {"glance"},
    {"registry"},
    {"resolution"},
    {"sync", "listing", "callers"},
    {"services"},
    # In gateway: what knows no application, sockets and counters, what handlers share, handlers,
    # the front that answers with them, the application and its server, and its processes.
    {
        f"gateway.{name}"
        for name in ("access_log", "bounded_render", "browser_guard", "image_path", "limits")
    }
    | {f"gateway.{name}" for name in ("methods", "negotiation", "problem", "reply")}
    | {f"gateway.{name}" for name in ("clients", "error_form", "request_host", "request_ids")}
    | {"gateway.tokens"},
    {"gateway.metrics", "gateway.net"},
    {"gateway.app_keys", "gateway.middleware", "gateway.request_body", "gateway.page"}
    | {"gateway.read_auth"},
    {"gateway.api"},
    {"gateway.net.absent_template", "gateway.net.found_template", "gateway.net.known_reads"}
    | {"gateway.net.front", "gateway.net.front_connection", "gateway.net.front_routes"}
    | {"gateway.net.front_server"},
    {"gateway"},
    {"gateway.net.workers"},
    {"cli"},
]
"""From the bottom; a layer may import itself and those before it. A file belongs to the longest
name that fits it, so a package in a package is a layer of its own."""

OUTER = {"logs", "standin"}
"""Import nothing of the package, and only `gateway` and `cli` import them."""

MAX_LINES = 500
"""Of a file of the package, of its client or of their tests."""

FORBIDDEN_LIBRARIES = {
    "resolution": {"aiohttp", "redis", "hiredis"},
    "listing": {"aiohttp", "redis", "hiredis"},
    "callers": {"aiohttp", "redis", "hiredis"},
    "registry": {"aiohttp", "redis", "hiredis"},
    "index": {"aiohttp"},
    "glance": {"redis", "hiredis"},
    "sync": {"redis", "hiredis"},
    "gateway": {"redis", "hiredis"},
    "cli": {"redis", "hiredis"},
}
"""The rule is free of HTTP and Redis, the index of HTTP, and only the index speaks to Redis."""

PRIVATE_NAMES: dict[str, dict[str, str]] = {
    "index/redis/transport.py": {
        "_writer": "redis-py opens the connection and has no public way to its transport",
    },
}
"""Private names of other libraries that the package uses, by file, each with the reason. The
library has an upper bound in pyproject.toml, and a test fails when the name is gone."""

FILES = sorted(ROOT.rglob("*.py"))


def tree_of(path: Path) -> ast.Module:
    """Not kept: the garbage collector would walk the trees of all files during all tests."""
    return ast.parse(path.read_text("utf-8"))


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    """``index.redis.client``; a package's own file has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def layer_of(module: str) -> str:
    """The longest name of a layer that fits."""
    names = set().union(*LAYERS) | OUTER
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in names:
            return name
    return parts[0]


@cache
def imports(path: Path) -> Sequence[tuple[int, str]]:
    """(line, full name) of each import, those in functions and for type checking too.

    Of ``from package import name`` the name is part of it where it is a module of ours.
    """
    return [*_find_imports(path)]


def _find_imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full.removeprefix("resolver.") in MODULES else base


def imports_of_ours(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of each import from this package, without the package's name."""
    for line, name in imports(path):
        first, _, rest = name.partition(".")
        if first == "resolver":
            yield line, rest


def allowed(layer: str) -> set[str]:
    if layer in OUTER:
        return {layer}
    below: set[str] = set()
    for names in LAYERS:
        below |= names
        if layer in names:
            break
    top = layer.split(".", maxsplit=1)[0] in {"gateway", "cli"}
    return below | (OUTER if top else set())


def test_every_module_has_a_layer() -> None:
    known = set().union(*LAYERS) | OUTER | {"", "__main__"}
    assert {layer_of(module) for module in MODULES} <= known


def may_import(module: str) -> set[str]:
    if module == "":
        return set()
    return {"cli"} if module == "__main__" else allowed(layer_of(module)) | {""}


def test_imports_point_one_way() -> None:
    wrong = [
        f"{short(path)}:{line}: {layer_of(module)} imports {name}"
        for module, path in MODULES.items()
        for line, name in imports_of_ours(path)
        if layer_of(name) not in may_import(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_libraries_are_used_only_where_they_belong() -> None:
    wrong = [
        f"{short(path)}:{line}: {name}"
        for module, path in MODULES.items()
        for line, name in imports(path)
        if name.split(".")[0] in FORBIDDEN_LIBRARIES.get(module.split(".")[0], set())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_index_is_used_through_its_public_face() -> None:
    """Nobody else knows its buckets, its cache or its connection."""
    wrong = [
        f"{short(path)}:{line}: {name}"
        for module, path in MODULES.items()
        if module.split(".")[0] != "index"
        for line, name in imports_of_ours(path)
        if name.startswith("index.")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_client_stands_alone() -> None:
    """It is installed without the gateway."""
    files = (ROOT.parent / "client").rglob("*.py")
    imports = [
        line
        for file in files
        for line in re.findall(r"^\s*(?:from|import) resolver\b.*", file.read_text(), re.M)
    ]
    assert imports == []


def test_there_are_no_import_cycles() -> None:
    graph = {
        short(path): {short(MODULES[name]) for _, name in imports_of_ours(path) if name in MODULES}
        for path in FILES
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_file_has_more_than_500_lines() -> None:
    tests = Path(__file__).parent
    client = tests.parent / "client"
    files = [file for folder in (ROOT, client, tests) for file in folder.rglob("*.py")]
    lengths = {str(file): len(file.read_text().splitlines()) for file in files}
    assert {file: lines for file, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_two_files_have_the_same_name() -> None:
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        by_name[path.name].append(short(path))
    del by_name["__init__.py"]
    assert [paths for paths in by_name.values() if len(paths) > 1] == []


def is_private(name: str) -> bool:
    """Documented names of named tuples are public in spite of their underscore."""
    named_tuple = {"_replace", "_asdict", "_fields"}
    return name.startswith("_") and not name.startswith("__") and name not in {"_", *named_tuple}


def defined_names(tree: ast.Module) -> set[str]:
    """Names that a file defines: at its top, in classes, in ``__slots__`` and in ``__init__``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name, body=body):
                names |= {name, *assigned_names(body), *slots(body)}
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__new__"):
            names |= {n.attr for n in ast.walk(node) if is_stored_attribute(n)}
    return names | assigned_names(tree.body)


def is_stored_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def assigned_names(body: list[ast.stmt]) -> set[str]:
    return {
        node.id
        for statement in body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def slots(body: list[ast.stmt]) -> set[str]:
    return {
        constant.value
        for statement in body
        if isinstance(statement, ast.Assign) and "__slots__" in assigned_names([statement])
        for constant in ast.walk(statement.value)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }


def foreign_private_names(tree: ast.Module, inherited: set[str]) -> set[str]:
    """Private attributes and imports that the file itself does not define.

    ``inherited``: names that ``self`` may have from classes of other files of ours.
    """
    own = defined_names(tree)
    used = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=attr):
                parts = [] if attr in inherited else [attr]
            case ast.Attribute(attr=attr):
                parts = [attr]
            case ast.ImportFrom(module=module, names=names):
                parts = [*(module or "").split("."), *(alias.name for alias in names)]
            case ast.Import(names=names):
                parts = [part for alias in names for part in alias.name.split(".")]
            case _:
                continue
        used |= {part for part in parts if is_private(part)}
    return used - own


@cache
def defined_names_of(path: Path) -> set[str]:
    return defined_names(tree_of(path))


def names_of_imported_files(path: Path) -> set[str]:
    modules = {name for _, name in imports_of_ours(path) if name in MODULES}
    return set().union(*(defined_names_of(MODULES[name]) for name in modules))


def test_private_names_of_others_are_listed() -> None:
    used = {
        short(path): foreign_private_names(tree_of(path), names_of_imported_files(path))
        for path in FILES
    }
    assert {path: names for path, names in used.items() if names} == {
        path: set(names) for path, names in PRIVATE_NAMES.items()
    }


def test_the_layer_checks_detect_violations() -> None:
    """Otherwise they would pass for any code."""
    seen: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        seen[layer_of(module_of(path))] |= {layer_of(name) for _, name in imports_of_ours(path)}
    assert "errors" in seen["models"]
    assert "services" in seen["gateway"]
    assert "services" not in allowed("registry")
    assert "logs" not in allowed("sync")
    assert "index" not in allowed("index.redis")
    source = """
from socket import _thing
class Server(Base):
    def __init__(self):
        self._ours = 1
    def run(self):
        return self._ours + self._base + self._theirs + asyncio.tasks._all
"""
    found = foreign_private_names(ast.parse(source), {"_base", "_all"})
    assert found == {"_thing", "_theirs", "_all"}
