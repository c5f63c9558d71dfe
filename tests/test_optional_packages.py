"""What a process that serves does not import, and how libraries are kept from it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from resolver.optional_packages import without_package

UNUSED = {"rich", "pygments", "opentelemetry", "psutil", "yaml", "openstack", "gunicorn"}
"""What a gateway without tracing, clouds and workers has no use for."""

SERVING = """
import sys
import resolver.cli.serve_command, resolver.gateway.reloading
print(*sys.modules)
import rich.console, opentelemetry.sdk.metrics  # other commands and tracing still can
"""


def test_a_serving_process_imports_nothing_that_it_does_not_use() -> None:
    pytest.importorskip("opentelemetry")
    imported = subprocess.run(
        [sys.executable, "-c", SERVING], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "structlog" in imported
    assert "redis" in imported
    assert UNUSED.isdisjoint(imported)


def test_an_import_fails_within_it_and_works_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without_package("colorsys"), pytest.raises(ModuleNotFoundError):
        import_module("colorsys")
    assert import_module("colorsys").rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_what_is_imported_already_stays() -> None:
    with without_package("json"):
        assert import_module("json").loads("[1]") == [1]
