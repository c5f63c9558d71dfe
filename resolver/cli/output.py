"""Tables that fit the terminal, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

STYLES = {
    "up": "green",
    "yes": "green",
    "ok": "green",
    "chosen": "green",
    "draining": "yellow",
    "maintenance": "yellow",
    "left out": "yellow",
    "down": "red",
    "no": "red",
}
"""Colours on a terminal, by the text of a cell up to its first colon."""


def print_json(value: Any, *, compact: bool = False) -> None:
    """``compact``: on one line."""
    click.echo(json.dumps(value, indent=None if compact else 2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table that fits the terminal. When piped: tab-separated and complete."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only if a table is shown
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for row in [[c.upper() for c in columns], *cells]:
            click.echo("\t".join(row))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, STYLES.get(cell.partition(":")[0], "")) for cell in row))
    console.print(table)


def print_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one pair per line, aligned."""
    rows = [(name, "" if value is None else str(value)) for name, value in fields]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def confirm(question: str) -> bool:
    """Asks on the terminal. False without one, or if the user breaks off."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False
