"""nginx that redirects with Lua and Redis: the common way to build this without a resolver.

Below ``/bare/`` it redirects without a lookup; below ``/asked/`` it asks a Glance server.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import trustme

from benchmarks.machine import (
    START_TIMEOUT_SECONDS,
    MissingError,
    find_program,
    on_core,
    stop_process,
)
from benchmarks.redis_server import RedisServer
from tests.support.process import free_port

MODULES = Path("/usr/lib/nginx/modules")

CONFIG = Template("""
load_module $modules/ndk_http_module.so;
load_module $modules/ngx_http_lua_module.so;
user root;
worker_processes 1;
daemon off;
pid $folder/nginx.pid;
error_log $folder/error.log warn;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path $folder;
    proxy_temp_path $folder;
    fastcgi_temp_path $folder;
    uwsgi_temp_path $folder;
    scgi_temp_path $folder;
    lua_package_path "/usr/share/lua/5.1/?.lua;;";
    init_by_lua_block {
        -- The URL of the location that has an image. Ends the request with 404 or 503 without one.
        function location_of(id)
            local redis = require("nginx.redis"):new()
            redis:set_timeout(1000)
            if not redis:connect("127.0.0.1", $redis) then return ngx.exit(503) end
            local base = redis:get(id)
            redis:set_keepalive(60000, 256)
            if not base then return ngx.exit(503) end
            if base == ngx.null then return ngx.exit(404) end
            return base
        end
    }
    upstream glance {
        server 127.0.0.1:$glance;
        keepalive 64;
    }
    server {
        listen 127.0.0.1:$port;
        listen 127.0.0.1:$tls_port ssl;
        ssl_certificate $folder/tls.pem;
        ssl_certificate_key $folder/tls.pem;
        location /bare/ {
            return 307 http://127.0.0.1:9/v2/images/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d;
        }
        location /asked/ {
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://glance/;
        }
        location /v2/schemas/ {
            return 307 http://127.0.0.1:9$$request_uri;
        }
        location /resolve/ {
            default_type application/json;
            content_by_lua_block {
                local id = string.sub(ngx.var.uri, 10)
                local base = location_of(id)
                local text = '{"id": "' .. id .. '", "outcome": "found", "uri": "' .. base
                    .. '/v1/images/' .. id .. '", "url": "' .. base .. '/v1/images/' .. id
                    .. '", "owners": [{"location": "a", "region": "", "uri": "' .. base
                    .. '/v1/images/' .. id .. '", "url": "' .. base .. '/v1/images/' .. id
                    .. '", "health": "unknown", "state": "active"}], "missing": [], '
                    .. '"source": "cache", "age": 1.234}'
                ngx.header["Content-Length"] = #text
                ngx.print(text)
            }
        }
        location /v2/images/ {
            content_by_lua_block {
                local id = string.sub(ngx.var.uri, 12)
                local base = location_of(id)
                return ngx.redirect(base .. "/v2/images/" .. id, 307)
            }
        }
    }
}
""")


class Nginx:
    """A running nginx."""

    def __init__(self, port: int, tls_port: int, worker_pid: int) -> None:
        """``worker_pid``: the process that answers, whose processor time counts."""
        self.port, self.tls_port, self.worker_pid = port, tls_port, worker_pid


def write_certificate(folder: Path) -> Path:
    """A file with a key and a certificate for loopback."""
    file = folder / "tls.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


@contextmanager
def run_nginx(
    redis: RedisServer, folder: Path, core: int, *, glance_port: int = 9
) -> Iterator[Nginx]:
    """Runs nginx with this Redis, which has a string key with the server's URL for each id.

    ``glance_port``: of the Glance server that it asks below ``/asked/``.

    Raises:
        MissingError: nginx or its modules are not installed, or it does not start.
    """
    binary = find_program("nginx", "nginx libnginx-mod-http-lua lua-nginx-redis")
    if not (MODULES / "ngx_http_lua_module.so").exists():
        raise MissingError("there is no Lua for nginx (Debian: apt install libnginx-mod-http-lua)")
    if not Path("/usr/share/lua/5.1/nginx/redis.lua").exists():
        raise MissingError("there is no Redis for Lua (Debian: apt install lua-nginx-redis)")
    port, tls_port = free_port(), free_port()
    write_certificate(folder)
    config = folder / "nginx.conf"
    config.write_text(
        CONFIG.substitute(
            modules=MODULES,
            folder=folder,
            port=port,
            tls_port=tls_port,
            redis=redis.port,
            glance=glance_port,
        )
    )
    command = [*on_core(core), binary, "-p", str(folder), "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (children := file.read_text().split()):  # it listens before it forks its worker
            time.sleep(0.01)
        yield Nginx(port, tls_port, int(children[0]))
    finally:
        stop_process(process)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Waits until the process listens.

    Raises:
        MissingError: it ended, or took too long.
    """
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise MissingError(f"nothing listens on port {port}") from error
            time.sleep(0.05)
