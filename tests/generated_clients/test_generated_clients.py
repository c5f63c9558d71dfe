"""The linter spectral, and clients that others generate from ``/openapi.json``.

They need npm, Java (Debian: npm, default-jre-headless) and the network, once::

    pytest -m long tests/generated_clients
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resolver.gateway.api.status import openapi_document
from resolver.standin import StandIn
from tests.cli.test_serve import found, serve
from tests.gateway.conftest import TOKEN
from tests.generated_clients.calls import IMAGE, NOT_CALLED, calls
from tests.glance.install import Home, default_cache, install_packages
from tests.support.process import ServerUnavailableError, find_program
from tests.support.requirements import cannot_run
from tests.support.wait import wait_until

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
SPECTRAL = "@stoplight/spectral-cli@6.16.3"
TIMEOUT_SECONDS = 300.0

OPERATIONS = {
    operation["operationId"]
    for path in openapi_document()["paths"].values()
    for method, operation in path.items()
    if method != "parameters"
}


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, check=False, timeout=TIMEOUT_SECONDS
    )


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """``/openapi.json`` as a file."""
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(openapi_document()))
    return file


@pytest.fixture(scope="module")
def spectral() -> Path:
    """The program."""
    folder = default_cache("spectral")
    program = folder / "node_modules" / ".bin" / "spectral"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        npm = find_program("npm", "npm")
    except ServerUnavailableError as error:
        cannot_run(str(error))
    # npm does nothing where this version is there.
    installed = run(npm, "install", "--silent", "--no-fund", "--no-audit", SPECTRAL, cwd=folder)
    if installed.returncode:
        cannot_run(f"no spectral to test with: {installed.stdout}{installed.stderr}")
    return program


def test_spectral_finds_nothing(spectral: Path, document: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("extends: spectral:oas\n")
    report = run(spectral, "lint", "--fail-severity=hint", f"--ruleset={rules}", document)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.fixture(scope="module")
def generators() -> Home:
    """A virtual environment with both generators, and with what their clients need."""
    try:
        find_program("java", "default-jre-headless")
        return install_packages("generated-clients", HERE / "requirements.txt")
    except ServerUnavailableError as error:
        cannot_run(f"no generators to test with: {error}")


def openapi_python_client(home: Home, document: Path) -> str:
    """Generates a client in the folder of the document. Returns what the generator printed."""
    return generate(
        home.bin("openapi-python-client"),
        *("generate", "--meta", "none", "--path", document, "--output-path", "out"),
        *("--config", HERE / "openapi-python-client.yaml"),
        cwd=document.parent,
    )


def openapi_generator(home: Home, document: Path) -> str:
    """As `openapi_python_client`."""
    return generate(
        home.bin("openapi-generator-cli"),
        *("generate", "-g", "python", "-i", document, "-o", "."),
        cwd=document.parent,
    )


def generate(*command: str | Path, cwd: Path) -> str:
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


async def call_all(home: Home, folder: Path, script: str, url: str, two: str) -> dict[str, Any]:
    """Makes all calls with the client in ``folder``. Returns status and data by operation."""
    process = await asyncio.create_subprocess_exec(
        home.bin("python"),
        HERE / script,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, err = await process.communicate(json.dumps([url, TOKEN, calls(two)]).encode())
    assert process.returncode == 0, err.decode()
    results: dict[str, Any] = json.loads(out)
    return results


@pytest.mark.parametrize("generator", [openapi_python_client, openapi_generator])
async def test_generated_clients_can_make_every_call(
    generators: Home, document: Path, generator: Callable[[Home, Path], str]
) -> None:
    assert {call.operation for call in calls("")} == OPERATIONS - NOT_CALLED
    printed = await asyncio.to_thread(generator, generators, document)
    assert "skipp" not in printed.lower(), printed
    async with StandIn() as one, StandIn() as two:
        one.add(id=IMAGE, name="debian", visibility="public")
        async with serve("--location", f"one={one.url}", RESOLVER_ADMIN_TOKENS=TOKEN) as server:
            await wait_until(lambda: found(server, IMAGE))
            script = f"call_{generator.__name__}.py"
            results = await call_all(generators, document.parent, script, server.url, two.url)
    statuses = {operation: status for operation, (status, _) in results.items()}
    assert statuses == {call.operation: call.status for call in calls("")}
    data = {operation: given for operation, (_, given) in results.items()}
    assert [answer["outcome"] for answer in data["resolve_many"]] == ["found", "invalid"]
    assert data["resolve_one"]["owners"][0]["location"] == "one"
    assert [row["name"] for row in data["list_locations"]["locations"]] == ["one"]
    assert data["show_location"]["region"] == "East"
    assert data["change_locations"]["added"] == ["three"]
    assert [image["id"] for image in data["list_images"]["images"]] == [IMAGE]
    assert data["import_index"]["locations"] == 2
    assert data["audit_log"]["changes"]
