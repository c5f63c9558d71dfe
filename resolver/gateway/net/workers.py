"""Several worker processes that answer at one address, supervised by gunicorn's arbiter.

The arbiter replaces a worker that dies or hangs. On SIGHUP it starts new workers with the settings
read again before it ends the old ones, and on SIGTERM it ends all workers when their requests are
answered. This module decides what a worker does and which sockets it listens on.

Each worker has listening sockets of its own (``SO_REUSEPORT``), so the kernel spreads connections
over the workers. The arbiter's process opens these sockets and keeps them open: connections that
wait while a worker is replaced are answered by its replacement.

What is used of gunicorn. Documented: `BaseApplication`, the settings, the hooks ``pre_fork``,
``child_exit``, ``worker_exit``, ``when_ready`` and ``on_exit``, and ``bind = fd://N``, which hands
our sockets over. Not documented, and held by `tests/cli/test_gunicorn.py`: `Worker.init_signals`,
``SIGNALS``, ``sockets``, ``ppid``, ``pid`` and ``app``; `BaseApplication.run`; `Arbiter.reload` and
``app``; `Logger.setup` and ``error_log``. That is the price of a `Worker`, an `Arbiter` and a
`Logger` that are not gunicorn's own: a new release may rename them, so gunicorn has an upper
version bound.

A simpler way would be ``reuse_port = True``: each worker then opens its own sockets, and `listen`
and the choice of a socket per worker are not needed. But then a worker's sockets close when it dies
or is replaced, and the kernel resets the connections that wait in their queues. Under load every
reload would lose some requests, so the sockets stay with the arbiter.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from resolver.errors import ResolverError, SettingsError
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.net.listener import BACKLOG, bind_socket
from resolver.gateway.reloading import RELOAD_REFUSED, Startup, log_reload, read_again, register
from resolver.gateway.server import Sockets, listen_error, serving, shown_url
from resolver.service_manager import READY, STOPPING, ServiceManager
from resolver.services import open_services
from resolver.settings import Settings

HEARTBEAT_TIMEOUT_SECONDS = 30
"""A worker without a heartbeat for this long is killed and replaced."""

HEARTBEAT_SECONDS = 1.0
"""Time between two heartbeats of a worker."""

FAILED_START_DELAY_SECONDS = 1.0
"""How long a worker that cannot start waits before it exits, so that retries do not pile up."""

EXTRA_SHUTDOWN_SECONDS = 5
"""What aiohttp and the indexer need to stop after the last request is answered."""

FOLDER_PREFIX = "glance-resolver-workers-"
"""How the names of the workers' shared folders begin."""

MAX_FOLDER_PATH_BYTES = 107 - len("/1000.socket")
"""Longest path of a folder with sockets in it (``sun_path`` of unix(7) has 108 bytes)."""

log = logging.getLogger(__name__)


def listen(settings: Settings) -> list[list[socket.socket]]:
    """The listening sockets of each worker: one per address of the configured host, then those of
    the management port.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    by_worker: list[list[socket.socket]] = [[] for _ in range(settings.workers)]
    for host, port in settings.addresses():
        try:
            _listen(host, port, by_worker)
        except OSError as error:
            raise listen_error(host, port, error) from error
    return by_worker


def _listen(host: str, port: int, by_worker: list[list[socket.socket]]) -> None:
    """Adds the sockets of a port. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in dict.fromkeys(found):
        # Without SO_REUSEPORT this fails if another server listens there already.
        with socket.socket(family, kind, protocol) as probe:
            port = bind_socket(probe, (address[0], port, *address[2:]))
        for sockets in by_worker:
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bind_socket(listener, (address[0], port, *address[2:]))
            listener.listen(BACKLOG)
            sockets.append(listener)


def make_folder() -> Path:
    """Makes the folder that the workers share, and removes those that killed arbiters left behind.

    The folder is locked while any process of its arbiter lives: child processes inherit the lock.

    Raises:
        SettingsError: the path is too long for the sockets that will be in it.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if (lock := _try_lock(old)) is not None:
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        # Another process that starts right now may have removed it before it was locked.
        if _try_lock(folder) is not None and folder.exists():
            break
    if len(os.fsencode(folder)) > MAX_FOLDER_PATH_BYTES:
        folder.rmdir()
        raise SettingsError(
            f"the temporary folder {tempfile.gettempdir()} has too long a path for the workers' "
            "sockets: set TMPDIR to another"
        )
    return folder


def _try_lock(folder: Path) -> int | None:
    """Locks a folder of this user; returns a file descriptor, or None if it cannot be locked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_uid == os.geteuid():
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


class ArbiterLog(Logger):
    """Sends the arbiter's warnings and errors to our own log. It logs each start as info, which
    is left out."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


class GatewayWorker(Worker):
    """A worker process: the server on its share of the sockets."""

    socket_number: int
    """Which share of the listening sockets is its own, from 0."""
    metrics_slot: int
    """Names its metrics file. No other live worker has the same; a replacement may get it."""

    def init_signals(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # ^C on a terminal reaches all processes, and the arbiter then ends its workers by SIGTERM.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except ResolverError as error:
            log.error("worker cannot start: %s", error)  # noqa: TRY400 - the text is enough
            time.sleep(FAILED_START_DELAY_SECONDS)
            raise SystemExit(1) from error

    def _take_sockets(self) -> list[socket.socket]:
        """This worker's listening sockets. The others are closed: this process must not keep them
        open when their own worker stops listening."""
        count = self.app.sockets_per_worker
        first = self.socket_number * count
        own = [
            socket.socket(fileno=os.dup(listener.fileno()))
            for listener in self.sockets[first : first + count]
        ]
        for listener in self.sockets:
            listener.close()
        return own

    async def _serve(self) -> None:
        application: Application = self.app
        sockets = Sockets.by_port(self._take_sockets())
        stop = asyncio.Event()  # the arbiter may send SIGTERM twice
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        heartbeat = asyncio.create_task(self._send_heartbeats(stop), name="heartbeat")
        worker_metrics = WorkerMetrics(application.folder, self.metrics_slot)
        async with (
            open_services(*application.started, application.registered_index) as services,
            serving(
                services,
                sockets,
                worker_metrics,
                is_replaced=lambda: (
                    application.is_replaced(os.getpid()) or os.getppid() != self.ppid
                ),
            ),
        ):
            services.problems.add_source(
                lambda: [RELOAD_REFUSED] if application.refusal_mark.exists() else []
            )
            gc.freeze()
            manager = application.manager
            keep_alive = asyncio.create_task(manager.keep_alive(), name="watchdog")
            manager.notify(READY)  # each worker says so, and the first one counts
            await stop.wait()
            keep_alive.cancel()
        heartbeat.cancel()

    async def _send_heartbeats(self, stop: asyncio.Event) -> None:
        while True:
            self.notify()
            if os.getppid() != self.ppid:  # the arbiter was killed
                stop.set()
            await asyncio.sleep(HEARTBEAT_SECONDS)


class ReloadingArbiter(Arbiter):
    """Replaces the workers only where new ones could serve."""

    def reload(self) -> None:
        """Handles SIGHUP."""
        if self.app.read_again():
            super().reload()


class Application(BaseApplication):
    """What the arbiter runs: its settings, its hooks, and what the workers need."""

    def __init__(
        self,
        load: Callable[[], Startup],
        started: Startup,
        registered_index: str,
        sockets: list[list[socket.socket]],
        folder: Path,
        manager: ServiceManager,
    ) -> None:
        """``sockets`` are handed over to the arbiter. The rest is as in `run`."""
        self._load = load
        self.started = started
        self.registered_index = registered_index
        self.worker_count, self.sockets_per_worker = len(sockets), len(sockets[0])
        self.folder = folder
        self.refusal_mark = folder / "reload-refused"
        """A file that exists if the last reload failed. Workers look for it, too."""
        self.manager = manager
        self._bind = [
            f"fd://{listener.detach()}" for listeners in sockets for listener in listeners
        ]
        self._live_workers: list[GatewayWorker] = []
        super().__init__()

    def load_config(self) -> None:
        settings = self.started.settings
        options: dict[str, Any] = {
            "bind": self._bind,
            "backlog": BACKLOG,
            "workers": self.worker_count,
            "worker_class": GatewayWorker,
            "logger_class": ArbiterLog,
            "when_ready": self._handle_sigint,
            "on_exit": self._report_end,
            "pre_fork": self._prepare_worker,
            "child_exit": self._forget_worker,
            "worker_exit": self._forget_worker,
            "timeout": HEARTBEAT_TIMEOUT_SECONDS,
            "graceful_timeout": int(settings.drain_seconds + settings.shutdown_timeout)
            + EXTRA_SHUTDOWN_SECONDS,
            "control_socket_disable": True,  # newer versions only
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def run(self) -> None:
        """Runs the arbiter. Never returns."""
        ReloadingArbiter(self).run()

    def read_again(self) -> bool:
        """Reads the settings and startup locations again, and registers the locations. False if
        workers could not serve with these: then the old ones stay, with what they know."""
        try:
            started = asyncio.run(read_again(self._load, self.started.settings))
            if started.locations:
                self.registered_index = asyncio.run(register(started))
        except ResolverError as error:
            self.refusal_mark.touch()
            log.error("the old settings stay: %s", error)  # noqa: TRY400 - the text is enough
            return False
        self.refusal_mark.unlink(missing_ok=True)
        log_reload(self.started.settings, started.settings)
        self.started = started
        for worker in self._live_workers:
            if isinstance(worker.pid, int):
                self._replacement_mark(worker.pid).touch()
        return True

    def load(self) -> Application:
        return self

    def is_replaced(self, pid: int) -> bool:
        """Whether a worker that ends has a replacement already. Workers ask this, too."""
        return self._replacement_mark(pid).exists()

    def _replacement_mark(self, pid: int) -> Path:
        return self.folder / f"{pid}.replaced"

    def _handle_sigint(self, _arbiter: object) -> None:
        """Makes the first SIGINT to the arbiter act as SIGTERM, and the second end the workers at
        once. gunicorn's own handler would break off requests in flight with the first."""

        def terminate(*_: object) -> None:
            signal.signal(signal.SIGINT, kill_workers)
            os.kill(os.getpid(), signal.SIGTERM)

        def kill_workers(*_: object) -> None:
            for worker in [*self._live_workers]:
                if isinstance(worker.pid, int):  # else it is being forked
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGQUIT)

        signal.signal(signal.SIGINT, terminate)

    def _report_end(self, _arbiter: object) -> None:
        self.manager.notify(STOPPING)

    def _prepare_worker(self, _arbiter: object, worker: GatewayWorker) -> None:
        """Gives a new worker the sockets that no live worker has. In a reload all are taken: then
        those of a worker that will end soon."""
        users = Counter(other.socket_number for other in self._live_workers)
        worker.socket_number = min(range(self.worker_count), key=lambda number: users[number])
        taken = {other.metrics_slot for other in self._live_workers}
        worker.metrics_slot = next(slot for slot in itertools.count() if slot not in taken)
        self._live_workers.append(worker)

    def _forget_worker(self, _arbiter: object, worker: GatewayWorker) -> None:
        if worker in self._live_workers:
            self._live_workers.remove(worker)
            if isinstance(worker.pid, int):  # another process may get the same number
                self._replacement_mark(worker.pid).unlink(missing_ok=True)


def run(
    load: Callable[[], Startup],
    started: Startup,
    registered_index: str,
    on_listening: Callable[[str], None],
    manager: ServiceManager,
) -> None:
    """Serves with ``RESOLVER_WORKERS`` processes until a signal ends it. Never returns.

    Args:
        load: reads settings and startup locations again for a reload.
        started: those to start with.
        registered_index: the identity of the index that has these locations already.
        on_listening: called with the gateway's URL before the workers start.
        manager: the service manager, which hears of each worker that serves.

    Raises:
        SettingsError: the address cannot be listened on, or `make_folder` says so.
    """
    sockets = listen(started.settings)
    folder = make_folder()
    on_listening(shown_url(started.settings, sockets[0][0].getsockname()[1]))
    gc.freeze()  # the workers share these objects while nobody writes to them
    gc.enable()
    arbiter_pid = os.getpid()
    try:
        Application(load, started, registered_index, sockets, folder, manager).run()
    finally:
        if os.getpid() == arbiter_pid:  # the workers are forks and get here too
            shutil.rmtree(folder, ignore_errors=True)
