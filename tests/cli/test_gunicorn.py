"""What `resolver.gateway.net.workers` uses of gunicorn beyond its documentation is still there.

A failure here means that the new release of gunicorn needs a look at that module.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import socket
import subprocess
import sys

import pytest
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.sock import create_sockets
from gunicorn.workers.base import Worker

from resolver.gateway.net.workers import Application, ArbiterLog, GatewayWorker


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_gunicorns_worker_has_the_names_that_our_worker_uses() -> None:
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGABRT} <= set(Worker.SIGNALS)
    assert parameters(Worker.init_signals) == parameters(GatewayWorker.init_signals)
    assert parameters(Worker.run) == parameters(GatewayWorker.run)
    config = Config()
    worker = Worker(1, os.getpid(), ["socket"], "app", 15.0, config, None)
    assert (worker.ppid, worker.sockets, worker.app) == (os.getpid(), ["socket"], "app")
    assert not isinstance(worker.pid, int), "known only after the fork"
    worker.notify()
    worker.tmp.close()


def test_the_arbiter_logs_through_our_logger() -> None:
    assert parameters(Logger.setup) == parameters(ArbiterLog.setup)
    logger = ArbiterLog(Config())
    assert logger.error_log.name == "gunicorn.error"
    assert logger.error_log.propagate
    assert not logger.error_log.handlers
    assert not logger.error_log.isEnabledFor(logging.INFO)


def test_the_arbiter_is_run_by_its_application_and_reloads_itself() -> None:
    assert parameters(BaseApplication.run) == parameters(Application.run)
    assert "Arbiter(self).run()" in inspect.getsource(BaseApplication.run)
    assert parameters(Arbiter.reload) == ["self"]
    assert "self.reload()" in inspect.getsource(Arbiter.handle_hup)
    assert "self.app.reload()" in inspect.getsource(Arbiter.reload)


# gunicorn leaves one of its own duplicates to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_listening_sockets_can_be_handed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        descriptor = server.detach()
    config = Config()
    config.set("bind", [f"fd://{descriptor}"])
    (listener,) = create_sockets(config, None)
    assert listener.getsockname() == address
    with socket.create_connection(address):
        pass
    listener.close()
    # Nothing else holds the socket open: otherwise clients would wait during a shutdown.
    with socket.socket() as client:
        assert client.connect_ex(address) != 0


def test_gunicorn_calls_its_hooks_where_we_need_them() -> None:
    for hook, count in (("when_ready", 1), ("pre_fork", 2), ("child_exit", 2), ("worker_exit", 2)):
        assert len(parameters(getattr(Config(), hook))) == count
    start = inspect.getsource(Arbiter.start)
    assert start.index("self.init_signals()") < start.index("self.cfg.when_ready(self)")


def test_several_workers_without_gunicorn_are_one_clear_error() -> None:
    code = (
        "import sys; sys.modules['gunicorn'] = None\n"
        "from resolver.cli import main\n"
        "main(['serve', '--port', '0', '--workers', '2'])"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RESOLVER_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **clean,
            "RESOLVER_REDIS_URL": "redis://127.0.0.1:1",
            "RESOLVER_LOG_FORMAT": "text",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "glance-resolver: --workers 2 needs gunicorn: pip install '.[workers]' in the checkout of "
        "glance-resolver\n"
    )
