"""The units of `deploy/systemd`, judged by systemd itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from resolver.cli import main
from resolver.settings import Settings
from tests.operations.conftest import ROOT, RunTool

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))

PROGRAM = "/opt/glance-resolver/bin/glance-resolver"

MAX_EXPOSURE = "20"
"""In tenths, as systemd-analyze takes it; what it calls OK ends at 4."""


@pytest.fixture(params=UNITS, ids=lambda unit: unit.stem)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a unit that starts a program that exists here."""
    source: Path = request.param
    copy = tmp_path / source.name
    copy.write_text(source.read_text("utf-8").replace(PROGRAM, sys.executable))
    return copy


@pytest.mark.systemd
def test_systemd_accepts_each_unit(unit: Path, run_tool: RunTool) -> None:
    assert run_tool("systemd-analyze", "systemd", "verify", "--man=no", unit) == ""


@pytest.mark.systemd
def test_a_unit_is_sandboxed(unit: Path, run_tool: RunTool) -> None:
    options = ("security", "--offline=true", f"--threshold={MAX_EXPOSURE}")
    assert "Overall exposure" in run_tool("systemd-analyze", "systemd", *options, unit)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_exists(
    unit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = re.findall(rf"^ExecStart={PROGRAM} (.*)$", unit.read_text("utf-8"), re.MULTILINE)
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert "--role" in capsys.readouterr().out


def test_the_ports_of_the_units_and_of_the_documents_differ() -> None:
    """An operator who sets what the documents say on a host with both units has no clash."""
    units = "".join(unit.read_text("utf-8") for unit in UNITS)
    documents = [ROOT / "SECURITY.md", ROOT / "docs" / "operators.md"]
    management = {
        port
        for document in documents
        for port in re.findall(r"RESOLVER_MANAGEMENT_PORT=(\d+)", document.read_text("utf-8"))
    }
    (indexer,) = re.findall(r"^Environment=RESOLVER_PORT=(\d+)$", units, re.MULTILINE)
    gateway = str(Settings.model_fields["port"].default)
    assert len({gateway, indexer, *management}) == 2 + len(management)
    assert management
