"""Each regular expression of the program runs on 8 KiB that resemble what it looks for."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import count_examples, examples
from tests.support.patterns import FoundPattern, all_patterns

SIZE = 8192
MAX_SECONDS = 0.02
"""Of processor time. One that is quadratic takes a second for this size, and a busy machine makes
none take 20 times as long as `tests/security/test_regular_expressions.py` allows."""

CHARACTERS = st.text(st.characters(max_codepoint=255), min_size=1, max_size=6)


def matching(found: FoundPattern) -> st.SearchStrategy[str]:
    """Texts that have a match."""
    pattern = found.pattern
    if isinstance(pattern.pattern, bytes):
        return st.from_regex(pattern).map(lambda text: bytes(text).decode("latin-1"))
    return st.from_regex(pattern).map(str)


def literals(found: FoundPattern) -> st.SearchStrategy[str]:
    """Characters that the pattern itself is written with."""
    text = found.pattern.pattern
    written = text.decode("latin-1") if isinstance(text, bytes) else text
    return st.text(st.sampled_from(re.sub(r"\\[a-zA-Z]", " a0", written) or "a"), max_size=6)


@examples(200)
@given(st.data())
def test_no_pattern_takes_long(data: st.DataObject) -> None:
    count_examples("regular expressions")
    found = data.draw(st.sampled_from([*all_patterns().values()]))
    pieces = matching(found).map(lambda text: text[:80]) | literals(found) | CHARACTERS
    before, repeated, after = data.draw(st.tuples(pieces, pieces, pieces))
    filler = (repeated or "a") * SIZE
    text = f"{before}{filler[: SIZE - len(before) - len(after)]}{after}"
    assert found.seconds(text, enough=MAX_SECONDS) < MAX_SECONDS, (found.pattern, text[:200])
