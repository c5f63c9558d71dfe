"""A Chromium, and axe-core, which finds what keeps people from using a page."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import started
from tests.gateway.conftest import start
from tests.glance.install import default_cache
from tests.support.chromium import Chromium, Tab
from tests.support.process import ServerUnavailableError, find_program
from tests.support.requirements import cannot_run

__all__ = ["start"]

AXE = "axe-core@4.14.1"
NPM_TIMEOUT_SECONDS = 120.0


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    browser = started(Chromium())
    yield browser
    browser.close()


@pytest.fixture
async def tab(chromium: Chromium) -> AsyncIterator[Tab]:
    async with chromium.tab() as tab:
        yield tab


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, from npm once, then from a cache outside the tree."""
    cached = default_cache(AXE) / "axe.min.js"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            script = _download()
        except (ServerUnavailableError, subprocess.SubprocessError) as error:
            cannot_run(f"no axe-core to test with: {error}")
        with tempfile.NamedTemporaryFile("w", dir=cached.parent, delete=False) as file:
            file.write(script)
        shutil.move(file.name, cached)
    return cached.read_text("utf-8")


def _download() -> str:
    with tempfile.TemporaryDirectory() as folder:
        npm = [find_program("npm", "npm"), "pack", "--silent", AXE]
        subprocess.run(npm, cwd=folder, check=True, timeout=NPM_TIMEOUT_SECONDS)
        (package,) = Path(folder).glob("*.tgz")
        with tarfile.open(fileobj=io.BytesIO(package.read_bytes())) as archive:
            file = archive.extractfile("package/axe.min.js")
            assert file is not None
            return file.read().decode()
