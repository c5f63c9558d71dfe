"""Random changes, faults and requests: every answer is checked against the truth.

A longer run: ``pytest tests/model --steps 100000``. The same run: ``pytest tests/model --seed N``.
"""

from __future__ import annotations

import logging
import os
import random
import time
import traceback

import pytest

from tests.model.model_run import run_world
from tests.model.world import TOKEN
from tests.model.world_events import TOKEN_VARIABLE, WrongAnswer

STEPS = 1000
"""Steps of each variant by default: ten seconds. Worlds differ; more of them find more."""

STEPS_PER_WORLD = 1000
"""Steps in one world; the next has the next seed."""


@pytest.mark.parametrize(
    ("backend", "gateways"), [("memory:", 1), pytest.param("redis", 2, marks=pytest.mark.redis)]
)
async def test_every_answer_is_correct_under_random_changes(
    request: pytest.FixtureRequest,
    backend: str,
    gateways: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    caplog.set_level(logging.CRITICAL)  # a run has thousands of failing sweeps
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
        async with run_world(url, seed, gateways) as model:
            try:
                await model.run(min(left, STEPS_PER_WORLD))
            except Exception as error:
                if not isinstance(error, WrongAnswer):
                    traceback.print_exc()
                history = "\n".join([*model.history, f"{model.step:6} {error!r}"])
                again = f"pytest tests/model --seed {seed} --steps {STEPS_PER_WORLD}"
                failure = f"{history}\n\nTo run it again: {again}"
                break
        counts = ", ".join(f"{name} {count}" for name, count in sorted(model.counts.items()))
        print(f"seed {seed}: {model.step} steps in {time.monotonic() - begun:.1f} s: {counts}")
        left -= STEPS_PER_WORLD
        seed += 1
    if failure:
        pytest.fail(failure, pytrace=False)
