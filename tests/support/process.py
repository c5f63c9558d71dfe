"""Server processes of tests: one way to start them, to wait until they are ready, to end them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.support.wait import wait_until_blocking

START_ATTEMPTS = 5
"""Another process may take a free port before the server listens on it."""
STOP_TIMEOUT_SECONDS = 10.0
LOG_TAIL_CHARACTERS = 3000
LOWEST_PORT, HIGHEST_PORT = 10_000, 32_000
"""Below Linux's range for outgoing connections: a port stays free while its server is down."""

_random_ports = random.SystemRandom()


class ServerUnavailableError(Exception):
    """A server's program is missing, or it does not start. The message ends with its log."""


def free_port() -> int:
    """A port on which nothing listens."""
    while True:
        port = _random_ports.randrange(LOWEST_PORT, HIGHEST_PORT)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether nothing listens on a port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def find_program(name: str, package: str) -> str:
    """Path of a program. Raises ServerUnavailableError that names the Debian package."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if path is None:
        raise ServerUnavailableError(f"no {name} in PATH (Debian: apt install {package})")
    return path


def log_tail(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:] if log.exists() else "(no log)"


def clean_environment(**values: str) -> dict[str, str]:
    """`values`, and the few variables that any program needs. A developer's own OS_*, RESOLVER_*
    or proxy variables do not reach the program."""
    passed = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return passed | values


class Startable(ABC):
    """Something that runs between `start` and `close`: one server or a group of them."""

    def __init__(self, directory: Path | None = None) -> None:
        """Keeps its files in `directory`, or in a new one that `close` removes."""
        self._remove_directory = None
        if directory is None:
            directory = Path(tempfile.mkdtemp(prefix="glr-"))
            self._remove_directory = weakref.finalize(
                self, shutil.rmtree, directory, ignore_errors=True
            )
        self.directory = directory.absolute()

    @abstractmethod
    def start(self) -> Self:
        """Returns once it is ready. Raises ServerUnavailableError."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it as a crash would. It can be started again."""

    def close(self) -> None:
        """Ends it for good, and removes its files."""
        self.kill()
        if self._remove_directory is not None:
            self._remove_directory()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ServerProcess(Startable):
    """A server in a process of its own on loopback. Started again it keeps its port.

    A subclass says how it is started (`command`) and when it is ready (`is_ready`).
    """

    name: ClassVar[str]
    start_timeout: ClassVar[float] = 60.0
    """Seconds; many times what an idle machine takes."""
    working_directory: ClassVar[Path | None] = None

    def __init__(self, directory: Path | None = None) -> None:
        super().__init__(directory)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The command line for `self.port`. Raises ServerUnavailableError."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers. May raise OSError while it does not."""

    def choose_ports(self) -> None:
        self.port = free_port()

    def prepare(self) -> None:
        """Writes the files that the command names."""

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self.directory / f"{self.name}.log"

    def start(self) -> Self:
        is_first = not self.port
        for _ in range(START_ATTEMPTS):
            if is_first:
                self.choose_ports()
            if self._launch():
                return self
            tail = log_tail(self.log)
            if is_first:
                self.port = 0
        raise ServerUnavailableError(f"{self.name} does not start:\n{tail}")

    def _launch(self) -> bool:
        """Whether it is ready; False when it has ended by itself."""
        self.prepare()
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                cwd=self.working_directory,
                stdin=subprocess.PIPE,  # some programs end with it: none outlives a test run
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_blocking(
                lambda: process.poll() is not None or self.is_ready(),
                self.start_timeout,
                f"{self.name} is ready",
                ignored=(OSError,),
            )
        except AssertionError as error:
            tail = log_tail(self.log)
            self.kill()
            raise ServerUnavailableError(f"{error}\n{tail}") from error
        except BaseException:
            self.kill()
            raise
        if self.has_ended:
            self.kill()
            return False
        return True

    @property
    def is_running(self) -> bool:
        """Whether it was started and not ended by us."""
        return self._process is not None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def pause(self) -> None:
        """Connections stay open, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM, and SIGKILL where that takes too long. Returns the exit status."""
        if self._process is not None:
            self._process.terminate()
            try:
                return self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            finally:
                self.kill()
            return -signal.SIGKILL
        return 0

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT_SECONDS)
        if process.stdin is not None:
            process.stdin.close()
