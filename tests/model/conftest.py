"""Options of the model test: how many steps it runs, and from which seed."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    # Known when pytest is given this directory; the whole suite runs the defaults.
    group = parser.getgroup("model")
    group.addoption("--steps", type=int, help="steps of each variant of the model test")
    group.addoption("--seed", type=int, help="first seed, as a failing run prints it")
