"""Parsed records are reused by the next load of the registry only."""

from __future__ import annotations

from resolver.index.record_codec import ParseCache


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
