"""``glance-resolver completion``."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from resolver.errors import ResolverError

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--install", is_flag=True, help="Install it for this user instead of printing it.")
def completion(shell: str | None, install: bool) -> None:
    """Print a shell's completion script, or install it.

    Without SHELL it is for that of $SHELL. With --install the script is written to where that
    shell looks for it; a new shell then completes commands, options and their values: names and
    regions of locations, columns, clouds and files.
    """
    from resolver.cli import cli  # noqa: PLC0415 - it imports this module

    shell = shell or _login_shell()
    completion_class = get_completion_class(shell)
    assert completion_class is not None
    script = completion_class(cli, {}, "glance-resolver", "_GLANCE_RESOLVER_COMPLETE").source()
    if not install:
        click.echo(script)
        return
    file = script_file(shell)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{script}\n", "utf-8")
    except OSError as error:
        raise ResolverError(f"cannot write {file}: {error.strerror}") from error
    click.echo(f"{file} is written; start a new shell to use it")
    if hint := HINTS.get(shell):
        click.echo(hint.format(folder=file.parent))


def _login_shell() -> str:
    """Raises click.UsageError where $SHELL is not one of `SHELLS`."""
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError(f"give one of {', '.join(SHELLS)}: $SHELL does not say which")
    return name


def script_file(shell: str) -> Path:
    """Where a shell looks for the completion script of this program, for one user."""
    data, config = _folder("XDG_DATA_HOME", ".local/share"), _folder("XDG_CONFIG_HOME", ".config")
    return {
        "bash": data / "bash-completion" / "completions" / "glance-resolver",
        "zsh": data / "zsh" / "site-functions" / "_glance-resolver",
        "fish": config / "fish" / "completions" / "glance-resolver.fish",
    }[shell]


def _folder(variable: str, default: str) -> Path:
    """A folder of the XDG base directories."""
    given = os.environ.get(variable, "")
    return Path(given) if given else Path.home() / default


HINTS = {
    "bash": "(it is found by the package bash-completion; without that, put `source` and this file "
    "into ~/.bashrc)",
    "zsh": "put this before `compinit` in ~/.zshrc, if it is not there: fpath+=({folder})",
}
"""What a shell needs besides the file."""
