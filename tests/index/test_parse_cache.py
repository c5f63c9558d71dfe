"""Parsed records are reused by the next load of the registry only."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from resolver.index.record_codec import (
    MAX_RECORD_BYTES,
    ParseCache,
    UnreadableRecord,
    parse_location,
)


def test_a_record_is_parsed_once_while_every_load_contains_it() -> None:
    cache, parsed = ParseCache(), []

    def parse(text: str) -> str:
        parsed.append(text)
        return text.upper()

    for _ in range(3):
        with cache.loading():
            assert cache.parsed(parse, "a") == "A"
    assert parsed == ["a"]


def test_a_record_missing_from_a_load_is_dropped_from_the_cache() -> None:
    cache = ParseCache()
    for version in range(50):
        with cache.loading():
            assert cache.parsed(int, "0") == 0
            assert cache.parsed(int, str(version)) == version
    assert len(cache) == 2


def test_what_cannot_be_read_is_remembered_too() -> None:
    cache, parsed = ParseCache(), []

    def parse(text: str) -> str:
        parsed.append(text)
        raise UnreadableRecord("it is junk")

    for _ in range(3):
        with cache.loading(), pytest.raises(UnreadableRecord, match="it is junk"):
            cache.parsed(parse, "a")
    assert parsed == ["a"]


def test_a_text_that_is_too_long_is_not_kept() -> None:
    cache = ParseCache()
    with cache.loading(), pytest.raises(UnreadableRecord):
        cache.parsed(parse_location, "a", "9 " + "[" * MAX_RECORD_BYTES)
    assert len(cache) == 0


def test_a_load_that_is_cancelled_leaves_what_it_has_parsed() -> None:
    cache = ParseCache()
    with cache.loading():
        cache.parsed(int, "1")
    with suppress(asyncio.CancelledError), cache.loading():
        cache.parsed(int, "2")
        raise asyncio.CancelledError
    assert len(cache) == 2
    with cache.loading():
        cache.parsed(int, "2")
    assert len(cache) == 1
