"""The number of examples, and a log that must stay empty."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck

from resolver.index.redis.client import RedisTimeouts

PATIENT = RedisTimeouts(connect=60, reply=60)
"""A busy machine changes no result."""

LONG = "long"
"""A profile with ten times as many examples."""

hypothesis.settings.register_profile(LONG, deadline=None, print_blob=True)

EXAMPLES_RUN: Counter[str] = Counter()
"""Examples by target."""


def factor() -> int:
    """How many times as many examples run as without a profile."""
    return 10 if hypothesis.settings.get_current_profile_name() == LONG else 1


def examples(count: int) -> hypothesis.settings:
    """Settings for this number of examples; a long run has `factor` times as many."""
    return hypothesis.settings(
        max_examples=count * factor(),
        deadline=None,
        # All examples of a test share their fixtures. A busy machine must not fail a test.
        suppress_health_check=list(HealthCheck),
    )


def count_examples(target: str, count: int = 1) -> None:
    EXAMPLES_RUN[target] += count


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist reports its counts."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["examples run"] = dict(EXAMPLES_RUN)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended."""
    EXAMPLES_RUN.update(getattr(node, "workeroutput", {}).get("examples run", {}))


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
