"""``glance-resolver man``."""

from __future__ import annotations

import re
import subprocess

import pytest
from click.testing import CliRunner

from resolver.cli import COMMANDS, cli
from resolver.settings import Settings
from tests.support.process import ServerUnavailableError, find_program
from tests.support.requirements import cannot_run


@pytest.fixture(scope="module")
def page() -> str:
    result = CliRunner().invoke(cli, ["man"])
    assert result.exit_code == 0
    return result.stdout


def test_the_manual_page_has_each_command_and_setting(page: str) -> None:
    plain = page.replace("\\-", "-").replace("\\", "")
    for name in COMMANDS:
        assert re.search(rf"^\.SS glance-resolver {name}\b", plain, re.MULTILINE), name
    assert ".SS glance-resolver locations add [OPTIONS] NAME URL" in plain
    for name in Settings.model_fields:
        assert f".B RESOLVER_{name.upper()}\n" in plain


def test_groff_prints_no_warning(page: str) -> None:
    try:
        groff = find_program("groff", "groff-base")
    except ServerUnavailableError as error:
        cannot_run(str(error))
    ran = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-P-cbou"],
        input=page.encode(),
        capture_output=True,
        check=True,
    )
    assert ran.stderr.decode() == ""
    shown = " ".join(ran.stdout.decode().split())
    assert "glance-resolver - Finds the OpenStack Glance server" in shown
    assert "--confirm-shrink Let it release more images" in shown
