"""Completion: the scripts, where they are installed, and what a real bash completes."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from resolver.cli import cli, main
from resolver.cli.location_completing import location_names
from tests.cli.test_commands import gateway
from tests.gateway.conftest import TOKEN, Gateway, start
from tests.support.wait import TIMEOUT_SECONDS

__all__ = ["gateway", "start"]

FREE_TEXT = (
    *("ids", "base_url", "--location", "--url", "--public-url", "--endpoint", "--gateway"),
    *("--token", "--auth-token", "--token-env", "--broker-env"),
    *("--host", "--port", "--workers", "--limit", "--bits", "--timeout", "--interval"),
    *("--priority", "--weight", "--rate", "--networks", "--reason", "--min-age"),
    *("--name", "--hash", "--tag", "--prefix", "--service"),
)
"""Arguments and options whose values nobody can list: numbers, texts, secrets, ids, URLs, and
variables of another host."""


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli, arguments)


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".local/share/bash-completion/completions/glance-resolver"),
        ("zsh", ".local/share/zsh/site-functions/_glance-resolver"),
        ("fish", ".config/fish/completions/glance-resolver.fish"),
    ],
)
def test_completion_is_installed_where_the_shell_looks(
    shell: str, place: str, tmp_path: Path
) -> None:
    nothing = {"XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}
    result = invoke(
        "completion", "--install", HOME=str(tmp_path), SHELL=f"/usr/bin/{shell}", **nothing
    )
    assert result.exit_code == 0, result.output
    assert "_GLANCE_RESOLVER_COMPLETE" in (tmp_path / place).read_text()
    assert str(tmp_path / place) in result.output


def test_completion_that_cannot_be_installed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("completion", "fish", "--install", XDG_CONFIG_HOME=str(tmp_path / "file"))
    assert result.exit_code == 1
    assert "cannot write" in str(result.exception)
    result = invoke("completion", SHELL="/bin/nologin")
    assert result.exit_code == 2
    assert "give one of bash, zsh, fish" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["completion", shell])
    assert not end.value.code
    assert "_GLANCE_RESOLVER_COMPLETE" in capsys.readouterr().out


def _values(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Parameter]]:
    """The parameters of all commands that have a value, with the command's name."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _values(inner, f"{path} {name}")
        return
    for parameter in command.get_params(context):
        if not getattr(parameter, "is_flag", False):
            yield path, parameter


@pytest.fixture
async def known(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment of a user whose gateway has locations, and who has a clouds.yaml."""
    for name in ("oslo", "frankfurt"):
        await gateway.location(name, region=name.title(), domain=f"{name}-keystone")
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text("clouds: {bergen: {auth: {auth_url: 'http://keystone.example'}}}")
    environment = {
        "RESOLVER_URL": gateway.url,
        "RESOLVER_TOKEN": TOKEN,
        "OS_CLIENT_CONFIG_FILE": str(clouds),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.mark.usefixtures("known")
async def test_each_value_is_completed_unless_nobody_can_know_it() -> None:
    def completed() -> Iterator[str]:
        for path, parameter in _values(cli):
            is_new = (path, parameter.name) == (" locations add", "name")
            if parameter.opts[-1] in FREE_TEXT or is_new:
                continue
            context = click.Context(click.Command(path))
            found = [item.value for item in parameter.shell_complete(context, "")]
            yield f"{path} {parameter.opts[-1]}: {found}"

    lines = await asyncio.to_thread(list, completed())
    assert [line for line in lines if line.endswith(": []")] == []
    assert " resolve --exclude: ['frankfurt', 'oslo']" in lines
    assert " report missing --region: ['Frankfurt', 'Oslo']" in lines
    assert " locations discover --cloud: ['bergen']" in lines
    assert " locations add --domain: ['frankfurt-keystone', 'oslo-keystone']" in lines


def test_without_a_gateway_nothing_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_URL", "http://127.0.0.1:1")
    context = click.Context(click.Command("show"))
    assert location_names(context, click.Argument(["name"]), "") == []


class Bash:
    """An interactive bash that has read the installed script."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        program = folder / "bin" / "glance-resolver"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m resolver "$@"\n')
        program.chmod(0o755)
        installed = invoke("completion", "bash", "--install", XDG_DATA_HOME=str(folder))
        assert installed.exit_code == 0
        self._terminal, side = pty.openpty()
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=folder,
            start_new_session=True,
            env={
                **os.environ,
                **environment,
                "PATH": f"{program.parent}:{os.environ['PATH']}",
                "PS1": "",
                "TERM": "dumb",
                "INPUTRC": "/dev/null",
            },
        )
        os.close(side)
        script = folder / "bash-completion" / "completions" / "glance-resolver"
        self._type(f"source {script}; bind 'set enable-bracketed-paste off'\n")

    def _type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def complete(self, line: str, completed: str) -> None:
        """Types a line and TAB, and waits until bash has completed it."""
        self._type(f"{line}\t")
        self._wait_for(completed)
        self._type("\x15\n")  # deletes the line

    def _wait_for(self, text: str) -> None:
        shown, end = b"", time.monotonic() + TIMEOUT_SECONDS
        while text.encode() not in shown:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} is not in {shown.decode(errors='replace')!r}"
            if select.select([self._terminal], [], [], left)[0]:
                shown += os.read(self._terminal, 65536)

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)


async def test_bash_completes(known: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "locations.yaml").touch()
    bash = Bash(tmp_path, known)

    def press_tab() -> None:
        for line, completed in (
            ("glance-resolver locations ap", "locations apply "),
            ("glance-resolver locations show fr", "show frankfurt "),
            ("glance-resolver resolve --exclude os", "--exclude oslo "),
            ("glance-resolver resolve --region=Fr", "--region=Frankfurt "),
            ("glance-resolver locations list --columns name,reg", "name,region "),
            ("glance-resolver locations apply loc", "apply locations.yaml "),
        ):
            bash.complete(line, completed)

    try:
        await asyncio.to_thread(press_tab)
    finally:
        bash.close()
