"""The main promise, against random changes, troubles and questions, with the truth kept beside.

More: ``pytest tests/model --steps 100000``. Again: ``pytest tests/model --seed N``.
"""

from __future__ import annotations

import logging
import os
import random
import time
import traceback

import pytest

from tests.model.play import Wrong, playing

STEPS = 3000
"""Steps of each variant, unless told otherwise."""

WORLD = 1000
"""Steps in one world; the next has the next seed."""


@pytest.mark.parametrize(
    ("backend", "gateways"), [("memory:", 1), pytest.param("redis", 2, marks=pytest.mark.redis)]
)
async def test_answers_are_true(
    request: pytest.FixtureRequest,
    backend: str,
    gateways: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)  # a run has thousands of sweeps that fail
    config = request.config
    left = config.getoption("steps", None) or STEPS
    seed = config.getoption("seed", None)
    if seed is None:
        seed = 1 if os.environ.get("CI") else random.randrange(10**6)
    failure = ""
    while left > 0:
        url = backend if backend == "memory:" else request.getfixturevalue("redis_url")
        if backend != "memory:":
            request.getfixturevalue("redis_server").flush()
        begun = time.monotonic()
        async with playing(url, seed, gateways) as play:
            try:
                await play.run(min(left, WORLD))
            except Exception as error:
                if not isinstance(error, Wrong):
                    traceback.print_exc()
                story = "\n".join([*play.story, f"{play.step:6} {error!r}"])
                again = f"pytest tests/model --seed {seed} --steps {WORLD}"
                failure = f"{story}\n\nAgain: {again}"
                break
        counts = ", ".join(f"{name} {count}" for name, count in sorted(play.counts.items()))
        print(f"seed {seed}: {play.step} steps in {time.monotonic() - begun:.1f} s: {counts}")
        left -= WORLD
        seed += 1
    if failure:
        pytest.fail(failure, pytrace=False)
