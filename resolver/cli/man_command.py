"""``glance-resolver man``: the manual page, made from the commands and the settings themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

ENVIRONMENT = (
    "Settings of `serve`, in the environment or in the TOML file that `RESOLVER_CONFIG` names, "
    "there without the prefix and in lower case. Times are in seconds."
)

EXIT_STATUS = (
    "0 if all is well, 1 if the command failed, 2 if it was called wrongly. `resolve`: 3 if an "
    "image is absent, 4 if it is unknown. `doctor` and `status`: 3 if it works with less."
)

_CODE = re.compile(r"`([^`]+)`")


@click.command()
def man() -> None:
    """Print the manual page.

    Read it with `glance-resolver man | man -l -`, or write it to
    /usr/local/share/man/man1/glance-resolver.1.
    """
    from resolver import __version__  # noqa: PLC0415
    from resolver.cli import cli  # noqa: PLC0415 - it imports this module

    context = click.Context(cli, info_name="glance-resolver")
    click.echo("\n".join(_page(cli, context, __version__)))


def _page(group: click.Group, context: click.Context, version: str) -> Iterator[str]:
    """The lines of the page, in the macros of man(7)."""
    yield f'.TH GLANCE-RESOLVER 1 "" "glance-resolver {version}"'
    yield ".SH NAME"
    yield f"glance-resolver \\- {_text(_first_line(group)).rstrip('.')}"
    yield ".SH SYNOPSIS"
    yield ".B glance-resolver"
    yield ".I COMMAND"
    yield "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]"
    yield ".SH COMMANDS"
    yield from _commands(group, context)
    yield ".SH ENVIRONMENT"
    yield _text(ENVIRONMENT)
    yield from _settings()
    yield ".SH EXIT STATUS"
    yield _text(EXIT_STATUS)


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        child = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, child)
            continue
        arguments = " ".join(command.collect_usage_pieces(child))
        yield f".SS {_text(f'{child.command_path} {arguments}')}"
        yield from _paragraphs(command.help or "")
        for parameter in command.params:
            if isinstance(parameter, click.Option) and (shown := parameter.get_help_record(child)):
                yield from _item(*shown)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _settings() -> Iterator[str]:
    from resolver.setting_names import PREFIX  # noqa: PLC0415
    from resolver.settings import Settings  # noqa: PLC0415

    for name, field in Settings.model_fields.items():
        default = field.default
        text = "" if default in ("", (), None) else f" Default: {str(default).lower()}."
        yield from _item(f"{PREFIX}{name.upper()}", f"{field.description or ''}{text}")


def _item(term: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_text(term)}"
    yield _text(text)


def _first_line(command: click.Command) -> str:
    return (command.help or "").strip().partition("\n")[0]


def _text(text: str) -> str:
    """Text without a meaning for troff; what is in `backticks` is bold."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    plain = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in plain)
    marked = _CODE.sub(r"\\fB\1\\fR", plain)
    return f"\\&{marked}" if marked.startswith((".", "'")) else marked
