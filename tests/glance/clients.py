"""Glance's clients as users start them, each in a process of its own."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.glance.install import GlanceHome
from tests.support.process import clean_environment

CLIENT_TIMEOUT = 120.0
FORK_CLIENTS = Path(__file__).resolve().parent / "fork_clients.py"


def clean_env(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment that no OS_*, RESOLVER_* or proxy variable and no dot file reaches."""
    return clean_environment(HOME=str(home), **(extra or {}))


@dataclass(frozen=True)
class Ran:
    status: int
    out: bytes
    err: str
    file: bytes | None
    """What the client wrote to ``out.bin`` in its working directory."""


def run_program(
    command: Sequence[str | Path],
    env: Mapping[str, str],
    cwd: Path,
    timeout: float = CLIENT_TIMEOUT,
) -> Ran:
    """Runs a program to its end, with an empty standard input.

    Raises:
        subprocess.TimeoutExpired: after `timeout` seconds.
    """
    ran = subprocess.run(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr.decode(errors="replace"), None)


class Clients:
    """Runs the programs of a Glance venv, one after the other."""

    def __init__(self, home: GlanceHome, directory: Path) -> None:
        """``directory``: an empty one, the HOME in which the programs are imported."""
        self._parent = subprocess.Popen(
            [home.bin("python"), FORK_CLIENTS],
            env=clean_env(directory),
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def run(self, directory: Path, name: str, *arguments: str) -> Ran:
        """Runs ``glance``, ``openstack`` or ``python -c CODE`` in `directory`, which is its (empty)
        HOME too."""
        directory.mkdir(parents=True)
        command = {
            "name": name,
            "arguments": arguments,
            "environment": clean_env(directory),
            "directory": str(directory),
        }
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(command).encode() + b"\n")
        readable, _, _ = select.select([self._parent.stdout], [], [], CLIENT_TIMEOUT)
        assert readable, f"{name} {arguments} takes longer than {CLIENT_TIMEOUT:g} s"
        status = int(self._parent.stdout.readline())
        saved = directory / "out.bin"
        content = saved.read_bytes() if saved.exists() else None
        err = (directory / "err").read_text(errors="replace")
        return Ran(status, (directory / "out").read_bytes(), err, content)

    def close(self) -> None:
        self._parent.kill()
        self._parent.communicate()
