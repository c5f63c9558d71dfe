"""A real RabbitMQ for tests, on loopback and with all its files in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.redis import free_port

PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one on the path changes the user
START_TIMEOUT_SECONDS = 60.0


class RabbitMissingError(Exception):
    """RabbitMQ is not installed, or does not start."""


class RabbitServer:
    """One broker. Durable queues survive `kill` and `start`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="glr-rabbit-"))
        self.port, self._dist, self._epmd = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> RabbitServer:
        """Starts it and waits until it serves. Raises RabbitMissingError."""
        if not Path(PROGRAM).exists():
            raise RabbitMissingError(f"no {PROGRAM} (Debian: rabbitmq-server)")
        plugins = self.folder / "plugins"
        plugins.write_text("[].\n")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"glr{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # epmd may be killed while a node is registered
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [PROGRAM],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until = time.monotonic() + START_TIMEOUT_SECONDS
        while b"Starting broker... completed" not in (self.folder / "output").read_bytes():
            if self._process.poll() is not None or time.monotonic() > until:
                text = (self.folder / "output").read_text("utf-8", "replace")
                self.close()
                raise RabbitMissingError(f"RabbitMQ did not start:\n{text[-2000:]}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """Kills it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Kills it and removes its files."""
        self.kill()
        subprocess.run(
            ["epmd", "-port", str(self._epmd), "-kill"], capture_output=True, check=False
        )
        shutil.rmtree(self.folder, ignore_errors=True)
