"""The progress bar of an export or import."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

ID_PREFIX_DIGITS = 4
"""Leading hexadecimal digits of an id that progress is computed from."""


class TransferProgress:
    """Counts images, and shows a progress bar on a terminal.

    An export is sorted by id, and ids are evenly distributed. So the first digits of the latest id
    show which part is done.
    """

    def __init__(self, title: str) -> None:
        from rich.console import Console  # noqa: PLC0415 - only if it is shown
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            TextColumn("{task.fields[images]:,} images, {task.fields[rate]:,.0f} a second"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        total = 16**ID_PREFIX_DIGITS
        self._task = self._progress.add_task("", total=total, images=0, rate=0.0)
        self._started = time.monotonic()
        self._images = 0

    @property
    def seconds(self) -> float:
        """Since the start; never zero."""
        return max(time.monotonic() - self._started, 0.001)

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the chunks of an export unchanged, and shows progress as they pass."""
        with self._progress:
            for data in chunks:
                yield data
                self._update(data)

    def _update(self, data: bytes) -> None:
        self._images += data.count(b"\n") - data.count(b"\nsum ")
        start = data.rfind(b"\n", 0, -(ID_PREFIX_DIGITS + 1)) + 1
        try:
            done = int(data[start : start + ID_PREFIX_DIGITS], 16)
        except ValueError:
            return  # the last line is not about an image
        rate = self._images / self.seconds
        self._progress.update(self._task, completed=done, images=self._images, rate=rate)
