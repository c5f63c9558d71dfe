"""What the benchmarks share: cores, a Redis of their own, figures in rounds, progress and tables.

Machines are noisy, so contenders take turns: each round runs every one of them, and what is
printed is the median of the rounds with the least and the most. A ratio is the median of the
rounds' ratios, since the two sides of one round met much the same noise.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

T = TypeVar("T")

START_TIMEOUT = 10.0
"""Seconds that a server may take to listen."""

CORES = sorted(os.sched_getaffinity(0))

OTHERS_SHARE = 0.08
"""What others may use of the machine while a figure is taken."""

ATTEMPTS, PATIENCE = 5, 120.0
"""How often a figure is taken again, and seconds to wait for a quiet moment before each."""

err = Console(stderr=True)
out = Console() if Console().is_terminal else Console(width=110)


class MissingError(Exception):
    """A program that the benchmark needs is not here; the text says how to get it."""


def arguments(
    text: str | None, *numbers: tuple[str, int, str], parts: Sequence[str] = ()
) -> argparse.Namespace:
    """The command line: ``--small``, options that take a number, and which parts to run."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a quick run on little data")
    for name, default, what in numbers:
        parser.add_argument(name, type=int, default=default, help=what)
    if parts:
        parser.add_argument("parts", nargs="*", help=f"{', '.join(parts)}; all when none is named")
    given = parser.parse_args()
    if parts:
        if unknown := set(given.parts) - set(parts):
            parser.error(f"there is no part {sorted(unknown)[0]!r}: there are {', '.join(parts)}")
        given.parts = given.parts or list(parts)
    return given


def on_core(which: int) -> list[str]:
    """What to put before a command so that it runs on that core; nothing with fewer than two."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(CORES[which])] if taskset and len(CORES) > 1 else []


def pin(which: int) -> None:
    """Keeps this process on one core, where there are two."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[which]})


def program(name: str, package: str) -> str:
    """Path of a program. Raises MissingError."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if path is None:
        raise MissingError(f"there is no {name} (Debian: apt install {package})")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[Any]) -> None:
    """Ends a process that we started."""
    process.terminate()
    try:
        process.wait(START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class RedisServer:
    """A redis-server of our own on loopback, on one core, that keeps nothing on disk."""

    def __init__(self, core: int = 0) -> None:
        self.port = free_port()
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        binary = program("redis-server", "redis-server")
        self.process = subprocess.Popen(
            [*on_core(core), binary, "--port", str(self.port), *options], stdout=subprocess.DEVNULL
        )
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, socket_timeout=60)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.client.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    stop(self.process)
                    raise
                time.sleep(0.02)

    def flush(self) -> None:
        self.client.flushall()

    def info(self, section: str) -> dict[str, Any]:
        return dict(self.client.info(section))

    def cpu(self) -> float:
        """Seconds of processor that it has used."""
        figures = self.info("cpu")
        return float(figures["used_cpu_user"] + figures["used_cpu_sys"])

    def memory(self) -> dict[str, int]:
        """Bytes in use, now that replies and deletions under way have settled."""
        time.sleep(0.3)
        figures = self.info("memory")
        return {name: int(figures[name]) for name in ("used_memory", "used_memory_rss")}

    def compact_limit(self) -> tuple[str, int]:
        """Up to how many fields a hash stays compact, and the setting's name in this version."""
        for name in ("hash-max-listpack-entries", "hash-max-ziplist-entries"):
            if value := self.client.config_get(name).get(name):
                return name, int(value)
        raise MissingError("this Redis knows no limit for compact hashes")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        stop(self.process)


def sorted_ids(count: int, seed: int = 1) -> list[bytes]:
    """Random image ids in the order in which a listing brings them."""
    packed = random.Random(seed).randbytes(16 * count)
    return sorted(packed[at : at + 16] for at in range(0, len(packed), 16))


def text_id(raw: bytes) -> str:
    """An id as Glance writes it."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


class Rounds:
    """Figures of several contenders, one each a round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)

    def names(self) -> list[str]:
        return list(self._values)

    def median(self, name: str) -> float:
        return statistics.median(self._values[name])

    def shown(self, name: str, form: str = ",.0f") -> str:
        """Median (least - most)."""
        values = self._values[name]
        low, high = (format(end, form) for end in (min(values), max(values)))
        return f"{self.median(name):{form}} ({low} - {high})"

    def ratio(self, name: str, to: str) -> float:
        """Median of this one's share of another in the same round."""
        return statistics.median(self._ratios(name, to))

    def shown_ratio(self, name: str, to: str) -> str:
        """Median (least - most)."""
        found = self._ratios(name, to)
        return f"{statistics.median(found):.2f} ({min(found):.2f} - {max(found):.2f})"

    def _ratios(self, name: str, to: str) -> list[float]:
        pairs = zip(self._values[name], self._values[to], strict=True)
        return [a / b for a, b in pairs]


def in_turns(contenders: Sequence[T], number: int) -> list[T]:
    """The contenders of round ``number``: each round another one begins."""
    shift = number % len(contenders)
    return [*contenders[shift:], *contenders[:shift]]


@contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal, of ``total`` steps; call with the name of each that begins."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("starting", total=total)
        begun = False

        def step(what: str) -> None:
            nonlocal begun
            progress.update(task, description=what, advance=int(begun))
            begun = True

        yield step


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def machine() -> str:
    """When and on what these figures were taken."""
    load = os.getloadavg()[0]
    when = time.strftime("%Y-%m-%d %H:%M")
    return f"{when}, {len(CORES)} cores, load {load:.1f} at the start"


def descendants() -> list[int]:
    """The processes that this one started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        parents.setdefault(parent, []).append(int(file.parent.name))
    found = [os.getpid()]
    for pid in found:
        found += parents.get(pid, [])
    return found[1:]


def processor(pid: int) -> float:
    """Seconds of processor that a process has used; 0 when it is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Others:
    """What the rest of the machine does meanwhile: figures taken beside busy strangers say
    little, so they are taken again."""

    def __init__(self) -> None:
        self.disturbed = 0
        """Figures that had to be taken beside others all the same."""

    def undisturbed(self, measure: Callable[[], T]) -> T:
        """What ``measure`` gives when others use next to nothing, or after some patience."""
        for left in reversed(range(ATTEMPTS)):
            until = time.monotonic() + PATIENCE
            while self._used_during(lambda: time.sleep(0.5))[1] and time.monotonic() < until:
                pass
            value, busy = self._used_during(measure)
            if not busy or not left:
                self.disturbed += busy
                return value
        raise AssertionError

    def _used_during(self, measure: Callable[[], T]) -> tuple[T, bool]:
        """What it gives, and whether others used more than their share meanwhile."""
        begun, before = time.monotonic(), self._seconds()
        value = measure()
        used = (self._seconds() - before) / (time.monotonic() - begun)
        return value, used > OTHERS_SHARE * len(CORES)

    @staticmethod
    def _seconds() -> float:
        """Seconds of processor that others have used since the machine started."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, *_ = map(int, fields[1:])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
        mine = cpu() + waited_for.ru_utime + waited_for.ru_stime
        return busy - mine - sum(map(processor, descendants()))


def cpu() -> float:
    """Seconds of processor that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
