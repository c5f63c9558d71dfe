"""Options of the model test: how long it plays, and from which seed."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    # Known when pytest is given this directory; the whole suite plays the default.
    group = parser.getgroup("model")
    group.addoption("--steps", type=int, help="steps that each variant of the model test plays")
    group.addoption("--seed", type=int, help="its first seed, as a failing run prints it")
