"""How many examples run, how many ran, and what the logs may not hold meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
from hypothesis import HealthCheck

LONG = "long"
TIMES = 10
"""How many times as many examples run on the long profile."""

hypothesis.settings.register_profile(LONG, deadline=None, print_blob=True)

RAN: Counter[str] = Counter()
"""Examples by target."""


def long_run() -> bool:
    return hypothesis.settings.get_current_profile_name() == LONG


def examples(count: int) -> hypothesis.settings:
    """The settings of a test with so many examples, or `TIMES` as many on a long run."""
    return hypothesis.settings(
        max_examples=count * TIMES if long_run() else count,
        deadline=None,
        # Fixtures live through all examples of a test, and a busy machine is no failure.
        suppress_health_check=list(HealthCheck),
    )


def ran(target: str, count: int = 1) -> None:
    RAN[target] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if RAN:
        terminalreporter.section("fuzzing: examples run")
        for target, count in sorted(RAN.items()):
            terminalreporter.line(f"{count:>9,}  {target}")
        terminalreporter.line(f"{RAN.total():>9,}  in all")


class Quiet(logging.Handler):
    """Collects what is logged as an error: a traceback of ours, or of asyncio about our tasks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))

    def check(self) -> None:
        """Fails with what was logged since the last check."""
        said, self.said = self.said, []
        assert not said, "\n".join(said)


@pytest.fixture
def quiet() -> Iterator[Quiet]:
    """The errors logged so far; none may be there at the end."""
    handler = Quiet()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
    handler.check()


@pytest.fixture
async def loop_quiet(quiet: Quiet) -> AsyncIterator[Quiet]:
    """The same of a running loop: no exception may reach it."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: quiet.said.append(f"{context['message']}: {context.get('exception')!r}")
    )
    yield quiet
    quiet.check()
