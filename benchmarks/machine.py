"""Cores, processes and processor time of the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

START_TIMEOUT_SECONDS = 10.0
"""How long a server may take to listen, or to end."""

CORES = sorted(os.sched_getaffinity(0))

MAX_OTHER_LOAD = 0.08
"""Part of all cores that other processes may use during a measurement."""

MAX_ATTEMPTS = 5
"""Measurements of one result, until other processes leave the machine alone."""

QUIET_TIMEOUT_SECONDS = 120.0
"""How long to wait for a quiet machine before each attempt."""


class MissingError(Exception):
    """A program that the benchmark needs is not installed; the text says how to get it."""


def on_core(number: int) -> list[str]:
    """The words before a command that make it run on this core; none with fewer than two cores."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(CORES[number])] if taskset and len(CORES) > 1 else []


def pin_to_core(number: int) -> None:
    """Makes this process run on one core only, if there are at least two."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[number]})


def find_program(name: str, package: str) -> str:
    """The path of a program.

    Raises:
        MissingError: it is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if path is None:
        raise MissingError(f"there is no {name} (Debian: apt install {package})")
    return path


def stop_process(process: subprocess.Popen[Any]) -> None:
    """Ends a process that this one started, and waits for it."""
    process.terminate()
    try:
        process.wait(START_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def printing_process(command: Sequence[str], lines: int) -> Iterator[list[str]]:
    """Runs a command, gives the first lines that it prints, and ends it at the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield [process.stdout.readline().strip() for _ in range(lines)]
    finally:
        stop_process(process)
        if process.stdout:
            process.stdout.close()


def describe_machine() -> str:
    """The time, the number of cores and their load, and the version of Python, to be printed with
    the results. How Python was compiled makes a quarter of a difference: docs/performance.md."""
    load = os.getloadavg()[0]
    now = time.strftime("%Y-%m-%d %H:%M")
    python = f"Python {platform.python_version()}"
    return f"{now}, {len(CORES)} cores, load {load:.1f} at the start, {python}"


def resident_mib(pid: int) -> float:
    """Memory that a process has, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds() -> float:
    """Processor time that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def descendants() -> list[int]:
    """Pids of the processes that this one started, and of those that they started."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(file.parent.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


class NoiseGuard:
    """Repeats measurements during which other processes used the machine: they say little."""

    def __init__(self) -> None:
        self.disturbed_results = 0
        """Results that were disturbed in every attempt."""

    def measure(self, measurement: Callable[[], T]) -> T:
        """The result of an undisturbed run, or of the last attempt."""
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            deadline = time.monotonic() + QUIET_TIMEOUT_SECONDS
            while time.monotonic() < deadline:
                if not self._run(lambda: time.sleep(0.5))[1]:
                    break
            result, disturbed = self._run(measurement)
            if not disturbed or not attempts_left:
                self.disturbed_results += disturbed
                return result
        raise AssertionError("unreachable")

    def _run(self, measurement: Callable[[], T]) -> tuple[T, bool]:
        """The result, and whether other processes used more than `MAX_OTHER_LOAD` meanwhile."""
        started, before = time.monotonic(), self._other_cpu_seconds()
        result = measurement()
        used = (self._other_cpu_seconds() - before) / (time.monotonic() - started)
        return result, used > MAX_OTHER_LOAD * len(CORES)

    @staticmethod
    def _other_cpu_seconds() -> float:
        """Processor time that all other processes have used since the machine started."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, *_ = map(int, fields[1:])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = own_cpu_seconds() + ended.ru_utime + ended.ru_stime
        return busy - ours - sum(map(cpu_seconds, descendants()))


def memory_kib(field: str) -> int:
    """This process's memory: ``VmRSS`` for now, ``VmHWM`` for its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(field)


def reset_peak_memory() -> None:
    """Makes ``VmHWM`` the peak from now on."""
    Path("/proc/self/clear_refs").write_text("5")
