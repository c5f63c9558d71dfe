"""No regular expression takes long, whatever a client, a location or a file sends.

Each pattern of the package, the client and the routes is run on 8 KiB of inputs that make careless
patterns backtrack: long runs, pairs of runs, and beginnings that match followed by something that
does not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import cache

import pytest

from tests.support.patterns import (
    EVERYWHERE,
    FoundPattern,
    UnknownPatternError,
    all_patterns,
    patterns_of,
)

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


def make_hostile_texts() -> Iterable[str]:
    runs = [character * SIZE for character in CHARACTERS]
    pairs = [(a + b) * (SIZE // 2) for a, b in itertools.permutations(CHARACTERS, 2)]
    halves = [a * (SIZE // 2) + b * (SIZE // 2) for a, b in itertools.permutations("a0 /.=", 2)]
    begun = [start + run for start in BEGINNINGS for run in runs]
    repeated = [start * (SIZE // len(start)) for start in BEGINNINGS if start]
    for number, text in enumerate((*runs, *pairs, *halves, *begun, *repeated)):
        yield text[:SIZE] + ENDINGS[number % len(ENDINGS)]


PARTS = 4
"""Tests that share the patterns. To name a test after each, every worker would search for them."""


@cache
def hostile_texts() -> tuple[str, ...]:
    return tuple(make_hostile_texts())


@pytest.mark.parametrize("part", range(PARTS))
def test_hostile_input_takes_less_than_a_millisecond(part: int) -> None:
    slow = [
        f"{name}: {text[:40]!r} ... {text[-20:]!r} takes {seconds:.4f} s"
        for name, found in [*all_patterns().items()][part::PARTS]
        for text in hostile_texts()
        if (seconds := found.seconds(text, enough=MAX_SECONDS)) > MAX_SECONDS
    ]
    assert not slow, "\n".join(slow)


def test_a_pattern_with_quadratic_time_is_detected() -> None:
    """The mask of secrets in the access log was such a pattern."""
    careless = FoundPattern(re.compile(r"([?&;][^=&;]*key[^=&;]*)="), EVERYWHERE)
    text = "/x" + "?" * 300 + "key" * 100  # with 8 KiB it runs for a minute
    assert careless.seconds(text, enough=MAX_SECONDS) > MAX_SECONDS


SOURCE = r"""
import re
ID = "[0-9]+"
ONE = re.compile(ID)
TWO = re.compile(r"a" + ID, re.ASCII)
TABLE = {"x": [("GET", re.compile(rf"/{ID}"))]}

def f(text):
    TWO.sub("", text)
    return ONE.match(text) or re.fullmatch("b", text) or re.split("c", text, flags=re.I)
"""


def test_patterns_are_found_wherever_they_stand() -> None:
    names: dict[str, object] = {}
    exec(SOURCE, names)
    found = {item.pattern.pattern: item for item in patterns_of(SOURCE, names)}
    assert found.keys() == {"[0-9]+", "a[0-9]+", "/[0-9]+", "b", "c"}
    assert found["c"].pattern.flags & re.IGNORECASE
    assert {text for text, one in found.items() if one.methods == EVERYWHERE} == {
        *("a[0-9]+", "c"),
        "/[0-9]+",  # it has no name, and its module searches
    }


@pytest.mark.parametrize(
    "source", ["import re\ndef f(a):\n    re.compile(a)", "from re import compile"]
)
def test_a_pattern_that_could_not_be_tested_is_an_error(source: str) -> None:
    with pytest.raises(UnknownPatternError, match="line"):
        patterns_of(source, {"re": re})


def test_patterns_of_requests_are_among_those_tested() -> None:
    texts = {item.pattern.pattern for item in all_patterns().values()}
    assert len(texts) > 80
    assert any(isinstance(text, bytes) and b"HTTP/1" in text for text in texts)
    assert "/actions/[^/]+" in texts, "of a table"
    assert any("(?P<name>" in str(text) for text in texts), "of a route"
