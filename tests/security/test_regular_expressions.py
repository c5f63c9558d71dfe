"""No regular expression takes long, whatever a client, a location or a file sends.

Each pattern of the package is run on 8 KiB of inputs that make careless patterns backtrack: long
runs, pairs of runs, and beginnings that match followed by something that does not.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import resolver

SIZE = 8192
MAX_SECONDS = 0.001
ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"

CHARACTERS = "aA0 \t\r\n/.-:;,=&?%@\"\\'"
BEGINNINGS = (
    *("", ID, f"req-{ID}", f"GET /v2/images/{ID} HTTP/1.1\r\n", f"/v2/images/{ID}/", "/v2"),
    *("/resolve/", "https://a.example", "tcp://", "redis+sentinel://", "?password=", "/x?key="),
    *("HTTP/1.1 200 OK\r\ncontent-length: 1", "2026-11-26T00:00:00.", "X: ", "location 1 {", "a1;"),
)
ENDINGS = ("", "!", "\x00", "é")


def modules() -> Iterator[tuple[str, Path]]:
    root = Path(resolver.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if path.name != "__main__.py" and "standin" not in path.parts:
            yield name.removesuffix(".__init__"), path


def patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict):
        yield from patterns_in(tuple(value.values()))
    elif isinstance(value, tuple | list | set | frozenset):
        for item in value:
            yield from patterns_in(item)


Found = tuple[re.Pattern[Any], frozenset[str]]
"""A pattern, and the methods by which it is used."""

ANCHORED = frozenset({"match", "fullmatch"})
ANYWHERE = frozenset({"search"})
"""What `re.sub`, `re.split` and the like do, too."""


def inline_patterns(path: Path) -> Iterator[Found]:
    """The first arguments of `re.search` and its like."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            methods = ANCHORED if node.func.attr in ANCHORED else ANYWHERE
            if node.func.attr != "compile":
                yield re.compile(node.args[0].value, re.ASCII), methods


def all_patterns() -> dict[str, Found]:
    found: dict[str, Found] = {}
    for module_name, path in modules():
        source = path.read_text("utf-8")
        for pattern, methods in inline_patterns(path):
            found[f"{pattern.pattern!r}"] = pattern, methods
        for name, value in vars(importlib.import_module(module_name)).items():
            is_searched = re.search(rf"\b{name}\.(search|sub|split|find)", source) is not None
            for pattern in patterns_in(value):
                key = f"{pattern.pattern!r}"
                before = found[key][1] if key in found else frozenset()
                found[key] = pattern, before | (ANYWHERE if is_searched else ANCHORED)
    return found


def hostile_texts() -> Iterable[str]:
    runs = [character * SIZE for character in CHARACTERS]
    pairs = [(a + b) * (SIZE // 2) for a, b in itertools.permutations(CHARACTERS, 2)]
    halves = [a * (SIZE // 2) + b * (SIZE // 2) for a, b in itertools.permutations("a0 /.=", 2)]
    begun = [start + run for start in BEGINNINGS for run in runs]
    repeated = [start * (SIZE // len(start)) for start in BEGINNINGS if start]
    for number, text in enumerate((*runs, *pairs, *halves, *begun, *repeated)):
        yield text[:SIZE] + ENDINGS[number % len(ENDINGS)]


TEXTS = tuple(hostile_texts())
PATTERNS = all_patterns()


def seconds_of(pattern: re.Pattern[Any], method: str, text: Any) -> float:
    """The least processor time of some runs: others use the machine too."""
    run, least = getattr(pattern, method), float("inf")
    for _ in range(5):
        started = time.thread_time()
        run(text)
        least = min(least, time.thread_time() - started)
        if least < MAX_SECONDS:
            break
    return least


@pytest.mark.parametrize("found", PATTERNS.values(), ids=PATTERNS.keys())
def test_hostile_input_takes_less_than_a_millisecond(found: Found) -> None:
    pattern, methods = found
    slow = []
    for text in TEXTS:
        given = text.encode("latin-1") if isinstance(pattern.pattern, bytes) else text
        for method in methods:
            seconds = seconds_of(pattern, method, given)
            if seconds > MAX_SECONDS:
                slow.append((method, text[:40], text[-20:], seconds))
    assert slow == []


def test_a_careless_pattern_is_found() -> None:
    """The mask of secrets in the access log was such a pattern."""
    careless = re.compile(r"([?&;][^=&;]*key[^=&;]*)=")
    text = "/x" + "?" * 300 + "key" * 100  # with 8 KiB it runs for a minute
    assert seconds_of(careless, "search", text) > MAX_SECONDS


def test_the_patterns_that_see_clients_are_among_them() -> None:
    assert len(PATTERNS) > 40
    assert any("HTTP/1" in name for name in PATTERNS)
