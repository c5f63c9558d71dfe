"""Every regular expression of the package, the client and the routes, found in the source.

Each call of `re` is evaluated in its module, so that patterns in tables, with flags and made of
constants are found as they are used, wherever they lie.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import glance_resolver_client
from aiohttp import web

import resolver
from resolver.gateway.app import admin_routes, client_routes, metrics_routes

ANCHORED = ("match", "fullmatch")
"""Methods of a pattern that is tried at one position."""
EVERYWHERE = (*ANCHORED, "search")
"""Methods of a pattern that is tried at each position, by `search`, `sub`, `split` and the like."""
RUNS = 5

AnyPattern = re.Pattern[str] | re.Pattern[bytes]


@dataclass
class FoundPattern:
    """A pattern, and the methods by which it is used."""

    pattern: AnyPattern
    methods: tuple[str, ...]

    def seconds(self, text: str, *, enough: float) -> float:
        """The processor time of its slowest method on this text (Latin-1 for a pattern of bytes).

        Each is run until it took less than `enough`, at most `RUNS` times: others use the machine,
        too.
        """
        run: Any = self.pattern
        given = text.encode("latin-1", "replace") if isinstance(run.pattern, bytes) else text
        return max(_least_seconds(getattr(run, name), given, enough) for name in self.methods)


def _least_seconds(run: Any, text: str | bytes, enough: float) -> float:
    least = float("inf")
    for _ in range(RUNS):
        started = time.thread_time()
        run(text)
        least = min(least, time.thread_time() - started)
        if least < enough:
            break
    return least


class UnknownPatternError(Exception):
    """A regular expression that cannot be read from the source, so no test would run it."""


def package_modules() -> Iterator[tuple[str, Path]]:
    """Name and file of the modules of the program and the client. The stand-in Glance is a tool for
    demos and tests."""
    for package in (resolver, glance_resolver_client):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            if path.name != "__main__.py" and "standin" not in path.parts:
                name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
                yield name.removesuffix(".__init__"), path


def patterns_of(source: str, names: dict[str, Any], *, all_sources: str = "") -> list[FoundPattern]:
    """The patterns of a module, whose names have these values.

    A named pattern counts as searched with where `NAME.search` and the like stand in
    `all_sources`, a nameless one where the module searches with anything.

    Raises:
        UnknownPatternError: a pattern is no constant of the module.
    """
    tree = ast.parse(source)
    variables = {
        id(node.value): target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    searching = _searching_names(source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "re":
            raise UnknownPatternError(f"line {node.lineno}: write re.compile, not compile")
        if not (isinstance(node, ast.Call) and _function_of_re(node) in PATTERN_FUNCTIONS):
            continue
        function = _function_of_re(node)
        variable = variables.get(id(node))
        if function != "compile":
            is_searching = function not in ANCHORED
        elif variable is not None:
            is_searching = variable in searching | _searching_names(all_sources)
        else:
            is_searching = bool(searching)
        methods = EVERYWHERE if is_searching else ANCHORED
        found.append(FoundPattern(_pattern_of(node, names), methods))
    return found


PATTERN_FUNCTIONS = frozenset(
    ("compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")
)


def _function_of_re(call: ast.Call) -> str | None:
    function = call.func
    if (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "re"
    ):
        return function.attr
    return None


@functools.cache
def _searching_names(source: str) -> frozenset[str]:
    """The names whose `search` and the like are called there, except `re` itself."""
    called = re.findall(r"\b(\w+)\.(?:search|subn?|split|find(?:all|iter))\(", source)
    return frozenset(called) - {"re"}


_FLAGS_POSITION = {"sub": 4, "subn": 4, "split": 3}
"""Where `flags` stands among positional arguments; third in the other functions."""


def _pattern_of(call: ast.Call, names: dict[str, Any]) -> AnyPattern:
    position = _FLAGS_POSITION.get(str(_function_of_re(call)), 2)
    by_keyword = [keyword.value for keyword in call.keywords if keyword.arg == "flags"]
    flags = (by_keyword or call.args[position : position + 1])[:1]
    try:
        pattern, *given = (
            eval(compile(ast.Expression(node), "pattern", "eval"), names)
            for node in (call.args[0], *flags)
        )
    except NameError as error:
        raise UnknownPatternError(
            f"line {call.lineno}: {error}. Make the pattern of constants of its module, so that it "
            "is tested with hostile input"
        ) from error
    compiled: AnyPattern = re.compile(pattern, *given)
    return compiled


def route_patterns() -> Iterator[FoundPattern]:
    """Those that aiohttp makes of the paths of routes."""
    app = web.Application()
    app.add_routes([*client_routes(), *metrics_routes(), *admin_routes()])
    for resource in app.router.resources():
        if (pattern := resource.get_info().get("pattern")) is not None:
            yield FoundPattern(pattern, ANCHORED)


@functools.cache
def all_patterns() -> dict[str, FoundPattern]:
    """Each pattern once, by its text and flags.

    Raises:
        UnknownPatternError: naming the file.
    """
    modules = [(name, path.read_text("utf-8")) for name, path in package_modules()]
    together = "\n".join(source for _, source in modules)
    found: dict[str, FoundPattern] = {}
    for name, source in modules:
        if re.search(r"^\s*(import|from) re\b", source, re.MULTILINE) is None:
            continue  # what it imports may be missing
        values = vars(importlib.import_module(name))
        try:
            patterns = patterns_of(source, values, all_sources=together)
        except UnknownPatternError as error:
            raise UnknownPatternError(f"{name}, {error}") from error
        for pattern in patterns:
            _add(found, pattern)
    for pattern in route_patterns():
        _add(found, pattern)
    return found


def _add(found: dict[str, FoundPattern], new: FoundPattern) -> None:
    key = f"{new.pattern.pattern!r} {new.pattern.flags}"
    known = found.setdefault(key, new)
    known.methods = max(known.methods, new.methods, key=len)
