"""What tests of the files for operators share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.process import ServerUnavailableError, find_program
from tests.support.requirements import cannot_run

ROOT = Path(__file__).parent.parent.parent

RunTool = Callable[..., str]


@pytest.fixture
def run_tool() -> RunTool:
    """Returns a function that runs a program of a Debian package and returns its output. The test
    fails with that output if the program fails, and is skipped without the program, but in CI."""

    def run(name: str, package: str, *arguments: str | Path) -> str:
        try:
            program = find_program(name, package)
        except ServerUnavailableError as error:
            cannot_run(str(error))
        done = subprocess.run(
            [program, *arguments],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run
