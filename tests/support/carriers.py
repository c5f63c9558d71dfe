"""nginx and HAProxy with the configurations that are shipped: one endpoint that carries bytes."""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tests.support.nginx import nginx_arguments, nginx_config
from tests.support.process import ServerProcess, find_program, free_port
from tests.support.wait import POLL_SECONDS

CONFIG = Path(__file__).resolve().parents[2] / "config"


def changed(text: str, changes: Mapping[str, str]) -> str:
    """The text with each of these lines' parts replaced, which must be there exactly once."""
    for before, after in changes.items():
        assert text.count(before) == 1, f"{text.count(before)} times {before!r}"
        text = text.replace(before, after)
    return text


class Carrier(ServerProcess):
    """A proxy in front of a gateway that carries bytes, at a port of this host.

    ``dns_port``: of a DNS server on 127.0.0.1; ``authority``: a file with the certificates that
    Glance servers' are checked against, and those of the gateway. ``gateway_name``: the name in the
    gateway's certificate; empty where it has none. ``stopped_port``: of another gateway, which does
    not run; 0 for none.
    """

    def __init__(
        self,
        gateway_port: int,
        *,
        dns_port: int = 53,
        authority: str = "",
        gateway_name: str = "",
        stopped_port: int = 0,
    ) -> None:
        super().__init__()
        self.stopped_port = stopped_port
        self.gateway_port = gateway_port
        self.dns_port = dns_port
        self.gateway_name = gateway_name
        self.authority = authority or "/etc/ssl/certs/ca-certificates.crt"

    log_line: ClassVar[re.Pattern[str]]
    """Finds the status in a line about a client's request."""

    @property
    @abstractmethod
    def access_log(self) -> Path:
        """The file with a line for each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port)):
            return True

    def statuses(self) -> set[str]:
        """The statuses of its answers to clients so far, from its log."""
        lines = self.access_log.read_text("latin-1").splitlines()
        found = (self.log_line.search(line) for line in lines)
        return {match[1] for match in found if match}


class CarryingNginx(Carrier):
    name = "nginx"
    log_line = re.compile(r'" (\d{3}) \d+ "')

    @property
    def access_log(self) -> Path:
        return self.directory / "access.log"

    def prepare(self) -> None:
        stopped = f"server 127.0.0.1:{self.stopped_port}; " if self.stopped_port else ""
        site = changed(
            (CONFIG / "nginx.conf").read_text(),
            {
                "server 127.0.0.1:9393;": f"{stopped}server 127.0.0.1:{self.gateway_port};",
                "listen 9292;": f"listen 127.0.0.1:{self.port};",
                "resolver 127.0.0.53;": f"resolver 127.0.0.1:{self.dns_port} ipv6=off;",
                "/etc/ssl/certs/ca-certificates.crt": self.authority,
            },
        )
        if self.gateway_name:
            tls = {
                "set $gateways http://": "set $gateways https://",
                "set $gateways_name glance_resolver;": f"set $gateways_name {self.gateway_name};",
            }
            site = changed(site, tls)
        (self.directory / "site.conf").write_text(site)
        http = f"""
    access_log {self.directory}/access.log;
    include {self.directory}/site.conf;"""
        (self.directory / "config").write_text(nginx_config(self.directory, http))

    def command(self) -> list[str]:
        arguments = nginx_arguments(self.directory, self.directory / "config")
        return [find_program("nginx", "nginx"), *arguments]


class CarryingHaproxy(Carrier):
    name = "haproxy"
    log_line = re.compile(r" images \S+ \S+ (\d{3}) \d+ ")

    @property
    def access_log(self) -> Path:
        return self.log

    def prepare(self) -> None:
        ask_port = free_port()
        text = (CONFIG / "haproxy.cfg").read_text()
        server = "\n    server one 127.0.0.1:9393 check "
        # Not checked, so that requests meet it.
        stopped = f"\n    server two 127.0.0.1:{self.stopped_port}" if self.stopped_port else ""
        if self.gateway_name:
            tls = {
                server: "\n    # ",
                "\n    # server one 127.0.0.1:9393 check ": server,
                "/etc/ssl/certs/gateways.pem": self.authority,
                "verifyhost gateway.example": f"verifyhost {self.gateway_name}",
            }
            text = changed(text, tls)
        text = changed(
            text,
            {
                "lua-load /etc/haproxy/glance-resolver.lua": f"lua-load {CONFIG / 'haproxy.lua'}",
                "lua.route http://127.0.0.1:9391": f"lua.route http://127.0.0.1:{ask_port}",
                "bind 127.0.0.1:9391": f"bind 127.0.0.1:{ask_port}",
                "nameserver local 127.0.0.53:53": f"nameserver local 127.0.0.1:{self.dns_port}",
                "bind :9292": f"bind 127.0.0.1:{self.port}",
                server: stopped + server.replace("9393", str(self.gateway_port)),
                "/etc/ssl/certs/ca-certificates.crt": self.authority,
            },
        )
        (self.directory / "config").write_text(text)

    def command(self) -> list[str]:
        config = str(self.directory / "config")
        return [find_program("haproxy", "haproxy"), "-db", "-f", config]


CARRIERS = (CarryingNginx, CarryingHaproxy)


class _Question(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, connection = self.request
        end = data.index(b"\0", 12) + 5
        is_address = data[end - 4 : end - 2] == b"\0\x01"  # type A
        answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04" + socket.inet_aton("127.0.0.1")
        head = data[:2] + b"\x81\x80" + struct.pack("!HHHH", 1, int(is_address), 0, 0)
        connection.sendto(
            head + data[12:end] + (answer if is_address else b""), self.client_address
        )


@contextmanager
def loopback_dns() -> Iterator[int]:
    """A DNS server that knows every name, as 127.0.0.1. Yields its port."""
    with socketserver.UDPServer(("127.0.0.1", 0), _Question) as server:
        thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
