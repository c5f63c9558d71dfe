"""A real RabbitMQ for tests, on loopback; all its files are in its own directory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.process import ServerProcess, ServerUnavailableError, free_port

PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one on the path changes the user
STARTED = "Starting broker... completed"


class RabbitServer(ServerProcess):
    """One broker; durable queues survive `kill` and `start`."""

    name = "rabbitmq-server"

    def choose_ports(self) -> None:
        super().choose_ports()
        self._distribution_port, self._epmd_port = free_port(), free_port()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def prepare(self) -> None:
        self.log.unlink(missing_ok=True)  # it is what `is_ready` reads
        (self.directory / "plugins").write_text("[].\n")

    def command(self) -> list[str]:
        if not Path(PROGRAM).exists():
            raise ServerUnavailableError(f"no {PROGRAM} (Debian: apt install rabbitmq-server)")
        return [PROGRAM]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"glr{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # epmd may be killed while a node is registered
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def is_ready(self) -> bool:
        return STARTED in self.log.read_text(errors="replace")

    def close(self) -> None:
        self.kill()
        if self.port:
            command = ["epmd", "-port", str(self._epmd_port), "-kill"]
            subprocess.run(command, capture_output=True, check=False)
        super().close()
