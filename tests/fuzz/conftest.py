"""The number of examples, and a log that must stay empty."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
from hypothesis import HealthCheck

LONG = "long"
LONG_FACTOR = 10
"""How many times as many examples run on the long profile."""

hypothesis.settings.register_profile(LONG, deadline=None, print_blob=True)

EXAMPLES_RUN: Counter[str] = Counter()
"""Examples by target."""


def is_long_run() -> bool:
    return hypothesis.settings.get_current_profile_name() == LONG


def examples(count: int) -> hypothesis.settings:
    """Settings for this number of examples; a long run has `LONG_FACTOR` times as many."""
    return hypothesis.settings(
        max_examples=count * LONG_FACTOR if is_long_run() else count,
        deadline=None,
        # All examples of a test share their fixtures. A busy machine must not fail a test.
        suppress_health_check=list(HealthCheck),
    )


def count_examples(target: str, count: int = 1) -> None:
    EXAMPLES_RUN[target] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if EXAMPLES_RUN:
        terminalreporter.section("fuzzing: examples run")
        for target, count in sorted(EXAMPLES_RUN.items()):
            terminalreporter.line(f"{count:>9,}  {target}")
        terminalreporter.line(f"{EXAMPLES_RUN.total():>9,}  in all")


class ErrorLog(logging.Handler):
    """Collects logged errors: tracebacks of the resolver, or of asyncio about its tasks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))

    def check(self) -> None:
        """Fails with the errors logged since the last check."""
        messages, self.messages = self.messages, []
        assert not messages, "\n".join(messages)


@pytest.fixture
def logged_errors() -> Iterator[ErrorLog]:
    """The errors logged so far; there must be none at the end."""
    handler = ErrorLog()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
    handler.check()


@pytest.fixture
async def loop_errors(logged_errors: ErrorLog) -> AsyncIterator[ErrorLog]:
    """Also exceptions that reach the event loop."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: logged_errors.messages.append(
            f"{context['message']}: {context.get('exception')!r}"
        )
    )
    yield logged_errors
    logged_errors.check()
