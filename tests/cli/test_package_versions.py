"""Packages of other versions than this program needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resolver.cli.package_versions import is_within, unfit_packages


def test_an_old_aiohttp_is_refused_with_one_clear_line(tmp_path: Path) -> None:
    """Versions before 3.14 lack names that are imported."""
    (tmp_path / "aiohttp").mkdir()
    (tmp_path / "aiohttp" / "__init__.py").write_text("")
    (tmp_path / "aiohttp-3.11.18.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: aiohttp\nVersion: 3.11.18\n"
    (tmp_path / "aiohttp-3.11.18.dist-info" / "METADATA").write_text(metadata)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "resolver", "serve", "--port", "0"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "aiohttp 3.11.18 is installed, aiohttp" in line
    assert ">=3.14" in line
    assert "pip install --upgrade ." in line


def test_what_is_installed_here_fits() -> None:
    assert unfit_packages() == []


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("3.14.0", ">=3.14,<4", True),
        ("3.14", "<4,>=3.14.0", True),
        ("3.9.5", ">=3.14,<4", False),
        ("4.0.0a1", ">=3.14,<4", False),
        ("10.1", ">=9.4", True),
        ("1", "", True),
    ],
)
def test_bounds(version: str, bounds: str, *, fits: bool) -> None:
    assert is_within(version, bounds) is fits
