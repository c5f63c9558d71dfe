"""A real HAProxy and a real nginx in front of a gateway: processes on loopback.

They keep connections to the gateway open and send requests of different clients on them, as they
do in production. Each can list the requests that it passed on.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from pathlib import Path

from tests.support.nginx import nginx_arguments, nginx_config
from tests.support.process import ServerProcess, find_program

NOT_PASSED_ON = ("-", "<NOSRV>")


class Balancer(ServerProcess):
    """A reverse proxy in front of a gateway at a port of this host."""

    def __init__(self, gateway_port: int) -> None:
        super().__init__()
        self.gateway_port = gateway_port

    @abstractmethod
    def config(self) -> str:
        """Its configuration, to listen at `self.port`."""

    @abstractmethod
    def arguments(self, config_file: Path) -> list[str]:
        """The arguments of its program."""

    @abstractmethod
    def access_log(self) -> list[str]:
        """``<gateway, or one of NOT_PASSED_ON> <method> <target>`` of each handled request."""

    def passed_on(self) -> list[str]:
        """``<method> <target>`` of each request that it sent to the gateway."""
        rows = [line.split(" ", 1) for line in self.access_log()]
        return [request for upstream, request in rows if upstream not in NOT_PASSED_ON]

    def prepare(self) -> None:
        (self.directory / "config").write_text(self.config())

    def command(self) -> list[str]:
        program = find_program(self.name, self.name)
        return [program, *self.arguments(self.directory / "config")]

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port)):
            return True


class Haproxy(Balancer):
    name = "haproxy"

    def config(self) -> str:
        return f"""
global
    log stdout format raw daemon
defaults
    mode http
    timeout connect 2s
    timeout client 1s
    timeout server 10s
    timeout http-keep-alive 2s
    retries 0
    http-reuse always
    log global
    log-format "%s %HM %HU"
listen front
    bind 127.0.0.1:{self.port}
    server gateway 127.0.0.1:{self.gateway_port}
"""

    def arguments(self, config_file: Path) -> list[str]:
        return ["-db", "-f", str(config_file)]

    def access_log(self) -> list[str]:
        lines = self.log.read_text("latin-1").splitlines()
        return [line for line in lines if line.startswith(("gateway ", "<NOSRV> "))]


class Nginx(Balancer):
    name = "nginx"

    def config(self) -> str:
        return nginx_config(
            self.directory,
            f"""
    log_format sent '$sent_to $request_method $request_uri';
    map $upstream_addr $sent_to {{ "" "-"; default $upstream_addr; }}
    access_log {self.directory}/access.log sent;
    client_header_timeout 1s;
    client_body_timeout 1s;
    keepalive_timeout 2s;
    upstream gateway {{ server 127.0.0.1:{self.gateway_port} max_fails=0; keepalive 1; }}
    server {{
        listen 127.0.0.1:{self.port};
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_next_upstream off;
            proxy_read_timeout 10s;
        }}
    }}""",
        )

    def arguments(self, config_file: Path) -> list[str]:
        return nginx_arguments(self.directory, config_file)

    def access_log(self) -> list[str]:
        return (self.directory / "access.log").read_text("latin-1").splitlines()


class LimitingNginx(Nginx):
    """An nginx that answers 429 to more than two requests a second, as public clouds have it."""

    def config(self) -> str:
        return (
            super()
            .config()
            .replace(
                "    upstream gateway",
                "    limit_req_zone $server_port zone=all:1m rate=2r/s;\n    upstream gateway",
            )
            .replace(
                "            proxy_pass",
                "            limit_req zone=all burst=2 nodelay;\n"
                "            limit_req_status 429;\n            proxy_pass",
            )
        )
