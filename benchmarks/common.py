"""What the benchmarks share: the command line, measurements, progress, tables and image ids.

Machines are noisy, so contenders take turns: each repeat runs every contender once. Printed are the
median of the repeats, and the least and the most. A ratio is the median of the ratios within each
repeat, because both sides of a repeat met much the same noise.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

T = TypeVar("T")

Step = Callable[[str], None]
"""Shows the name of the step that begins, in a progress bar."""

err = Console(stderr=True)
out = Console() if Console().is_terminal else Console(width=110)


def parse_arguments(
    text: str | None,
    *numbers: tuple[str, int, str],
    texts: Sequence[tuple[str, str]] = (),
    flags: Sequence[tuple[str, str]] = (),
    parts: Sequence[str] = (),
) -> argparse.Namespace:
    """The command line: ``--small``, options that take a number, and the parts to run.

    Args:
        text: the module's docstring, whose first line is the description.
        numbers: name, default and help of each option.
        texts: name and help of each option that takes a text; empty if it is not given.
        flags: name and help of each option that takes nothing.
        parts: names of the parts; all run if none is given.
    """
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a fast run with little data")
    for name, default, description in numbers:
        parser.add_argument(name, type=int, default=default, help=description)
    for name, description in texts:
        parser.add_argument(name, default="", help=description)
    for name, description in flags:
        parser.add_argument(name, action="store_true", help=description)
    if parts:
        parser.add_argument("parts", nargs="*", help=f"{', '.join(parts)}; all if none is given")
    options = parser.parse_args()
    if parts:
        if unknown := set(options.parts) - set(parts):
            parser.error(f"there is no part {sorted(unknown)[0]!r}: there are {', '.join(parts)}")
        options.parts = options.parts or list(parts)
    return options


def sorted_ids(count: int, seed: int = 1) -> list[bytes]:
    """Random image ids (UUID version 4), sorted as in a listing."""
    packed = bytearray(random.Random(seed).randbytes(16 * count))
    packed[6::16] = bytes(0x40 | byte & 0x0F for byte in packed[6::16])
    whole = bytes(packed)
    return sorted(whole[at : at + 16] for at in range(0, len(whole), 16))


def text_id(image_id: bytes) -> str:
    """An id as Glance writes it."""
    digits = image_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the sorted ``values`` does not exceed."""
    return values[min(len(values) - 1, int(len(values) * share))]


class Measurements:
    """Values of several contenders, one of each per repeat."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)

    def names(self) -> list[str]:
        return list(self._values)

    def median(self, name: str) -> float:
        return statistics.median(self._values[name])

    def format(self, name: str, number_format: str = ",.0f") -> str:
        """Median (least - most)."""
        values = self._values[name]
        low, high = (format(value, number_format) for value in (min(values), max(values)))
        return f"{self.median(name):{number_format}} ({low} - {high})"

    def ratio(self, name: str, to: str) -> float:
        """Median of the contender's ratio to another in the same repeat."""
        return statistics.median(self._ratios(name, to))

    def format_ratio(self, name: str, to: str) -> str:
        """Median (least - most)."""
        ratios = self._ratios(name, to)
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"

    def _ratios(self, name: str, to: str) -> list[float]:
        pairs = zip(self._values[name], self._values[to], strict=True)
        return [value / other for value, other in pairs]


def rotated(contenders: Sequence[T], repeat: int) -> list[T]:
    """The contenders in the order of this repeat: each repeat starts with another one."""
    shift = repeat % len(contenders)
    return [*contenders[shift:], *contenders[:shift]]


@contextmanager
def progress_bar(total: int) -> Iterator[Step]:
    """A progress bar of ``total`` steps, on a terminal only."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("starting", total=total)
        started = False

        def step(name: str) -> None:
            nonlocal started
            progress.update(task, description=name, advance=int(started))
            started = True

        yield step


def make_table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose other columns are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def print_verdict(result: str, aim: str, *, met: bool) -> None:
    out.print(f"{result}; aim of {aim} {'met' if met else 'NOT met'}")
