"""What it costs to ask many locations, counted in function calls instead of seconds."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import resolver
from resolver.models import format_id
from tests.support.clouds import clouds
from tests.support.ids import make_ids

PACKAGE = f"{Path(resolver.__file__).parent}/"
STANDIN = f"{PACKAGE}standin/"

LOCATIONS = 20

MAX_CALLS = 140
"""Function calls of the package for each location of a miss, with each time that a coroutine goes
on. There were 109 when this was written."""


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Counts calls of Python functions: of the package, and of aiohttp's client."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            file = frame.f_code.co_filename
            if file.startswith(PACKAGE) and not file.startswith(STANDIN):
                counts["package"] += 1
            elif file.endswith("/aiohttp/client.py"):
                counts["client"] += 1

    sys.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(None)


async def test_a_miss_costs_little_for_each_location() -> None:
    async with clouds() as cloud:
        for number in range(LOCATIONS):
            await cloud.add(f"location-{number}")
        first, second = (format_id(image_id) for image_id in make_ids(2))
        assert (await cloud.resolve(first)).outcome == "absent"  # opens the connections
        with counted_calls() as counts:
            assert (await cloud.resolve(second)).outcome == "absent"
    assert counts["client"] == 0, "aiohttp's client takes most of the time"
    assert counts["package"] < LOCATIONS * MAX_CALLS
