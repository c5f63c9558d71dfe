"""Fixtures of the gateway tests, and a table of the effects of each fault."""

from __future__ import annotations

from typing import Any

from tests.distributed.conftest import own_cluster, sentinels
from tests.faults.load import COLUMNS, ROWS
from tests.gateway.conftest import start

__all__ = ["own_cluster", "sentinels", "start"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if ROWS:
        terminalreporter.section("faults")
        for row in (COLUMNS, ["---"] * len(COLUMNS), *ROWS):
            terminalreporter.write_line(f"| {' | '.join(row)} |")
