"""Several processes that answer at one address, kept by gunicorn's arbiter.

It replaces a worker that dies or hangs, on SIGHUP starts new ones with the settings read anew
before it ends the old, and on SIGTERM ends all when their requests are answered. What is ours is
what a worker does.

Each worker has a listening socket of its own (``SO_REUSEPORT``), so that the kernel spreads the
connections. The sockets belong to the arbiter's process, which never closes one while it runs:
connections that wait when a worker ends are its successor's.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import itertools
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from resolver import logs
from resolver.errors import ResolverError, SettingsError
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.net.listener import BACKLOG, bind_socket
from resolver.gateway.server import cannot_listen, serving, shown_url
from resolver.index import open_index
from resolver.registry import StartupLocations
from resolver.services import open_services
from resolver.settings import Settings

HUNG = 30
"""Seconds without a sign of life after which a worker is killed and replaced."""

BEAT = 1.0
"""Seconds between two signs of life."""

AGAIN = 1.0
"""Seconds that a worker which cannot start waits before it ends, so that tries do not pile up."""

FOLDER = "glance-resolver-workers-"
"""What the names of workers' folders begin with."""

LONGEST = 107 - len("/1000.socket")
"""Bytes of the path of a folder with sockets in it (``sun_path`` of unix(7) has 108)."""

log = logging.getLogger(__name__)


def listen(settings: Settings) -> list[list[socket.socket]]:
    """For each worker its listening sockets: one an address that the host has.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        port = settings.port
        sockets: list[list[socket.socket]] = [[] for _ in range(settings.workers)]
        for family, kind, protocol, _, address in dict.fromkeys(found):
            # Without SO_REUSEPORT this fails where somebody else listens already.
            with socket.socket(family, kind, protocol) as probe:
                port = bind_socket(probe, (address[0], port, *address[2:]))
            for mine in sockets:
                one = socket.socket(family, kind, protocol)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                bind_socket(one, (address[0], port, *address[2:]))
                one.listen(BACKLOG)
                mine.append(one)
    except OSError as error:
        raise cannot_listen(settings, error) from error
    return sockets


def make_folder() -> Path:
    """A folder for the workers' files. Those of arbiters that were killed are removed.

    Each is locked for as long as a process of its arbiter lives: the lock is inherited, and ends
    with the last of them.

    Raises:
        SettingsError: the path is too long for the sockets that will be in it.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if (lock := _locked(old)) is not None:
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER))
        if _locked(folder) is not None and folder.exists():  # or another start has removed it
            break
    if len(os.fsencode(folder)) > LONGEST:
        folder.rmdir()
        raise SettingsError(
            f"the temporary folder {tempfile.gettempdir()} has too long a path for the workers' "
            "sockets: set TMPDIR to another"
        )
    return folder


def _locked(folder: Path) -> int | None:
    """The lock of a folder of ours, as a file descriptor; None where somebody holds it."""
    try:
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(found).st_uid == os.geteuid():
            return found
    except BlockingIOError:
        pass
    os.close(found)
    return None


class Log(Logger):
    """The arbiter's log lines, among ours. It tells of each start; what matters are warnings."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


class GatewayWorker(Worker):
    """A worker: the server on one of the sockets."""

    number: int
    """Which of the listening sockets is its own."""
    column: int
    """Where its figures are, for it alone while it lives; a successor goes on there."""

    def init_signals(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # On a terminal ^C comes to all: the arbiter tells its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        try:
            asyncio.run(self._run())
        except ResolverError as error:
            log.error("worker cannot start: %s", error)  # noqa: TRY400 - the text says it all
            time.sleep(AGAIN)
            raise SystemExit(1) from error

    async def _run(self) -> None:
        application: Application = self.app
        for number, sockets in enumerate(application.sockets):
            if number != self.number:  # or they would listen on when their own worker does not
                for one in sockets:
                    one.close()
        stop = asyncio.Event()  # the arbiter may say it twice
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        beating = asyncio.create_task(self._beat(stop))
        worker_metrics = WorkerMetrics(application.folder, self.column)
        async with (
            open_services(
                application.settings, application.given, application.registered
            ) as services,
            serving(services, application.sockets[self.number], worker_metrics),
        ):
            gc.freeze()
            await stop.wait()
        beating.cancel()

    async def _beat(self, stop: asyncio.Event) -> None:
        while True:
            self.notify()
            if os.getppid() != self.ppid:  # the arbiter was killed
                stop.set()
            await asyncio.sleep(BEAT)


class Application(BaseApplication):
    """What the arbiter runs."""

    def __init__(
        self,
        load: Callable[[], Settings],
        settings: Settings,
        given: StartupLocations,
        registered: str,
        sockets: list[list[socket.socket]],
        folder: Path,
    ) -> None:
        self._load = load
        self.settings = settings
        self.given = given
        self.registered = registered
        self.sockets = sockets
        self.folder = folder
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "workers": len(self.sockets),
            "worker_class": GatewayWorker,
            "logger_class": Log,
            "pre_fork": _give_place,
            "timeout": HUNG,
            # Requests in flight, then what aiohttp and the indexer need.
            "graceful_timeout": int(self.settings.shutdown_timeout) + 5,
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def reload(self) -> None:
        """Takes the settings up anew, unless the new workers could not serve with them."""
        old = self.settings
        try:
            new = self._load()
            if new.redis_url != old.redis_url:
                asyncio.run(_reach(new))
        except ResolverError as error:
            log.error("the settings stay as they were: %s", error)  # noqa: TRY400 - likewise
        else:
            self.settings = new
            logs.configure(level=new.log_level, log_format=new.log_format)
            for name in ("host", "port", "workers"):
                if getattr(new, name) != getattr(old, name):
                    log.warning("RESOLVER_%s changes with a restart only", name.upper())
        super().reload()

    def load(self) -> Application:
        return self


async def _reach(settings: Settings) -> None:
    """Raises ResolverError unless there is an index to be had."""
    async with open_index(settings.redis_url, prefix=settings.prefix, bits=settings.index_bits):
        pass


class WorkerArbiter(Arbiter):
    """The arbiter, over sockets that are ours."""

    def start(self) -> None:
        self.LISTENERS = [one for mine in self.app.sockets for one in mine]
        super().start()

    def handle_int(self) -> None:
        """As SIGTERM: gunicorn's own would cut requests off."""
        self.handle_term()

    def stop(self, graceful: bool = True) -> None:
        super().stop(graceful)
        shutil.rmtree(self.app.folder, ignore_errors=True)


def _give_place(arbiter: Arbiter, worker: GatewayWorker) -> None:
    """A socket that no worker has, or in a reload one that is about to lose its worker; and where
    to count."""
    others = list(arbiter.WORKERS.values())
    having = Counter(other.number for other in others)
    worker.number = min(range(arbiter.cfg.workers), key=lambda number: having[number])
    taken = {other.column for other in others}
    worker.column = next(n for n in itertools.count() if n not in taken)


def run(
    load: Callable[[], Settings],
    settings: Settings,
    given: StartupLocations,
    registered: str,
    say: Callable[[str], None],
) -> None:
    """Serves with ``settings.workers`` processes until a signal ends it. Never returns. ``given``:
    locations; ``registered``: the identity of the index that has them already.

    Raises:
        SettingsError: the address cannot be listened on, or `make_folder` says so.
    """
    sockets = listen(settings)
    folder = make_folder()
    say(shown_url(settings, sockets[0][0].getsockname()[1]))
    gc.freeze()  # what is there now is shared with the workers, as long as nobody writes to it
    gc.enable()
    WorkerArbiter(Application(load, settings, given, registered, sockets, folder)).run()
