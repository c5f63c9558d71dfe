"""A real HAProxy and a real nginx before a gateway: processes on loopback.

They keep connections to the gateway and send requests of different clients on them, as they do in
service. Each tells which requests it sent on.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar, Self

from tests.support.redis import ATTEMPTS, free_port

STOP_TIMEOUT = 10.0
START_TIMEOUT = 10.0
POLL = 0.02


class BalancerMissingError(Exception):
    """There is none on this machine, or it does not start."""


class Balancer:
    """One of them, before the gateway at a port of this host."""

    program: ClassVar[str]

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._directory = tempfile.TemporaryDirectory(prefix="glr-balancer-")
        self.folder = Path(self._directory.name)
        self._process: subprocess.Popen[bytes] | None = None

    def config(self, port: int) -> str:
        """Its configuration, to listen at a port."""
        raise NotImplementedError

    def arguments(self, file: Path) -> list[str]:
        raise NotImplementedError

    def lines(self) -> list[str]:
        """``<gateway or -> <method> <target>`` of each request that it has dealt with."""
        raise NotImplementedError

    def sent(self) -> list[str]:
        """``<method> <target>`` of each request that it sent on."""
        rows = [line.split(" ", 1) for line in self.lines()]
        return [what for where, what in rows if where not in ("-", "<NOSRV>")]

    def start(self) -> Self:
        """Returns once it listens. Raises BalancerMissingError with what it said."""
        path = shutil.which(self.program) or shutil.which(self.program, path="/usr/sbin:/usr/bin")
        if path is None:
            raise BalancerMissingError(f"no {self.program} (Debian: apt install {self.program})")
        said = self.folder / "said"
        for _ in range(ATTEMPTS):
            port = free_port()
            file = self.folder / "config"
            file.write_text(self.config(port))
            with said.open("wb") as output:
                self._process = subprocess.Popen(
                    [path, *self.arguments(file)], stdout=output, stderr=subprocess.STDOUT
                )
            deadline = time.monotonic() + START_TIMEOUT
            while self._process.poll() is None and time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        self.port = port
                        return self
                time.sleep(POLL)
            self.close_process()
        raise BalancerMissingError(
            f"{self.program} does not start:\n{said.read_text(errors='replace')}"
        )

    def close_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(STOP_TIMEOUT)

    def close(self) -> None:
        self.close_process()
        self._directory.cleanup()


class Haproxy(Balancer):
    program = "haproxy"

    def config(self, port: int) -> str:
        return f"""
global
    log stdout format raw daemon
defaults
    mode http
    timeout connect 2s
    timeout client 1s
    timeout server 2s
    timeout http-keep-alive 2s
    retries 0
    http-reuse always
    log global
    log-format "%s %HM %HU"
listen front
    bind 127.0.0.1:{port}
    server gateway 127.0.0.1:{self.target}
"""

    def arguments(self, file: Path) -> list[str]:
        return ["-db", "-f", str(file)]

    def lines(self) -> list[str]:
        text = (self.folder / "said").read_text("latin-1")
        return [one for one in text.splitlines() if one.startswith(("gateway ", "<NOSRV> "))]


class Nginx(Balancer):
    program = "nginx"

    def config(self, port: int) -> str:
        places = "".join(
            f"    {kind}_temp_path {self.folder};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
daemon off;
master_process off;
pid {self.folder}/pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
{places}
    log_format sent '$sent_to $request_method $request_uri';
    map $upstream_addr $sent_to {{ "" "-"; default $upstream_addr; }}
    access_log {self.folder}/log sent;
    client_header_timeout 1s;
    client_body_timeout 1s;
    keepalive_timeout 2s;
    upstream gateway {{ server 127.0.0.1:{self.target} max_fails=0; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_next_upstream off;
            proxy_read_timeout 2s;
        }}
    }}
}}
"""

    def arguments(self, file: Path) -> list[str]:
        return ["-c", str(file), "-p", str(self.folder)]

    def lines(self) -> list[str]:
        return (self.folder / "log").read_text("latin-1").splitlines()
