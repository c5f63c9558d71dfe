"""Tables that fit the terminal, JSON, YAML and plain names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from resolver.cli.completing import list_of
from resolver.suggestions import did_you_mean

STYLES = {
    "up": "green",
    "yes": "green",
    "ok": "green",
    "chosen": "green",
    "draining": "yellow",
    "maintenance": "yellow",
    "left out": "yellow",
    "failing": "red",
    "down": "red",
    "no": "red",
}
"""Colours on a terminal, by the text of a cell up to its first colon."""

COLUMN_GAP = 3
"""Characters between two columns of a table."""

F = TypeVar("F", bound=Callable[..., Any])


def counted(number: int, noun: str) -> str:
    """``1 change``, ``2 changes``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_json(value: Any, *, compact: bool = False) -> None:
    """``compact``: on one line."""
    click.echo(json.dumps(value, indent=None if compact else 2, ensure_ascii=False))


def print_yaml(value: Any) -> None:
    import yaml  # noqa: PLC0415 - only if it is asked for

    click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def shown(value: Any) -> str:
    """A value of the API as text for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    value: Callable[[dict[str, Any]], Any]
    """Of one row."""
    is_wide: bool = False
    """Shown with ``-o wide`` only, or where it is asked for."""
    is_optional: bool = False
    """Left out where the terminal is too narrow for all."""


@dataclass(frozen=True, slots=True)
class Output:
    """How the rows of a command are printed: ``-o`` and ``--columns``."""

    form: str
    columns: tuple[str, ...]

    def print(self, rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
        """Prints rows of the API. JSON and YAML have all of each row, a table some columns.

        Raises:
            click.UsageError: a column is asked for that there is not.
        """
        chosen = self._choose(columns)
        if self.form == "json":
            print_json(rows)
        elif self.form == "yaml":
            print_yaml(rows)
        elif self.form == "name":
            for row in rows:
                click.echo(shown(columns[0].value(row)))
        else:
            print_table(
                [column.name for column in chosen],
                [[column.value(row) for column in chosen] for row in rows],
                optional=[column.name for column in chosen if column.is_optional],
                is_wide=self.form == "wide" or bool(self.columns),
            )

    def _choose(self, columns: Sequence[Column]) -> list[Column]:
        if not self.columns:
            return [column for column in columns if self.form == "wide" or not column.is_wide]
        by_name = {column.name: column for column in columns}
        for name in self.columns:
            if name not in by_name:
                raise click.UsageError(
                    f"--columns: there is no column {name!r}{did_you_mean(name, by_name)}; there "
                    f"are {', '.join(by_name)}"
                )
        return [by_name[name] for name in self.columns]


def output_options(columns: Iterable[Column]) -> Callable[[F], F]:
    """Adds ``-o``, ``--columns`` and ``--json``, which the command gets as ``output``. ``columns``:
    those that there are."""

    def make(ctx: click.Context, _: click.Parameter, form: str) -> Output:
        names = ctx.params.pop("columns", None) or ""
        if ctx.params.pop("as_json", False):
            form = "json"
        return Output(form, tuple(name.strip() for name in names.split(",") if name.strip()))

    def add(command: F) -> F:
        command = click.option(
            "-o",
            "--output",
            type=click.Choice(["table", "wide", "json", "yaml", "name"]),
            default="table",
            show_default=True,
            callback=make,
            help="wide: all columns, whatever the width of the terminal. name: only the names.",
        )(command)
        command = click.option(
            "--columns",
            metavar="A,B,…",
            is_eager=True,
            shell_complete=list_of(column.name for column in columns),
            help="These columns, in this order.",
        )(command)
        return click.option(
            "--json", "as_json", is_flag=True, is_eager=True, help="The same as -o json."
        )(command)

    return add


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    optional: Sequence[str] = (),
    is_wide: bool = False,
) -> None:
    """A table that fits the terminal. When piped: tab-separated and complete.

    Args:
        optional: columns that are left out, the last first, where the terminal is too narrow.
        is_wide: nothing is left out, and no cell is broken.
    """
    from rich.console import Console  # noqa: PLC0415 - only if a table is shown

    console = Console(highlight=False)
    cells = [[shown(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for row in [[c.upper() for c in columns], *cells]:
            click.echo("\t".join(row))
        return
    names = list(columns)
    left_out: list[str] = []
    while not is_wide and optional and _width(names, cells) > console.width:
        *optional, name = optional
        position = names.index(name)
        left_out.insert(0, names.pop(position))
        cells = [[*row[:position], *row[position + 1 :]] for row in cells]
    if is_wide:
        console.width = max(console.width, _width(names, cells))
    _print_in(console, names, cells)
    if left_out:
        click.echo(f"-o wide also shows: {', '.join(left_out)}", err=True)


def _print_in(console: Any, names: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, STYLES.get(cell.partition(":")[0], "")) for cell in row))
    console.print(table)


def _width(names: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """The characters of the widest row."""
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    return sum(widths) + COLUMN_GAP * len(widths)


def print_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one pair per line, aligned."""
    rows = [(name, shown(value)) for name, value in fields]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def notify(text: str, *, nl: bool = True) -> None:
    """Writes a line about a service to standard error. A full disk there does not end the service,
    whose answers do not depend on it."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True, nl=nl)


def confirm(question: str) -> bool:
    """Asks on the terminal. False without one, or if the user breaks off."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def health_text(health: Mapping[str, Any]) -> str:
    """The health of a location for a table. What was found before all indexers ended is not known
    to be so now."""
    state = str(health["state"])
    return f"was {state}" if health.get("current") is False else state
