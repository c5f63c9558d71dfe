"""Runs inside the Glance venv: one Glance API under waitress, on loopback.

    OS_GLANCE_CONFIG_DIR=DIR/etc python serve_glance.py DIR PORT

PORT 0 takes a free one. The port in use is written to DIR/port once the socket listens, and each
request to DIR/access.log as ``METHOD target status``. The process ends when its standard input
does, so it cannot outlive a test run that was killed.

It also holds the paste filter that stands in for keystonemiddleware, see `filter_factory`.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
WSGIApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

THREADS = 8
MAX_BODY_BYTES = 1 << 34
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IDENTITY_HEADERS = tuple(f"HTTP_X_{name}" for name in ("IDENTITY", "USER", "PROJECT", "ROLE"))
ADMIN = ("admin", "admin", "admin,member")


def filter_factory(*_conf: object, **_local_conf: str) -> Callable[[WSGIApp], WSGIApp]:
    """Paste filter: reads the identity out of the token instead of asking Keystone.

    ``user:project:role[,role]`` is that user; any other text is an admin of project ``admin``; no
    token, and ``dead``, stay unconfirmed, which Glance's own context filter answers with 401, or
    as an anonymous client where anonymous access is allowed.
    """

    def wrap(app: WSGIApp) -> WSGIApp:
        def confirm(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            for name in [name for name in environ if name.startswith(IDENTITY_HEADERS)]:
                del environ[name]
            token = environ.get("HTTP_X_AUTH_TOKEN")
            if token and token != "dead":
                parts = token.split(":")
                user, project, roles = parts if len(parts) == 3 else ADMIN
                environ |= {
                    "HTTP_X_IDENTITY_STATUS": "Confirmed",
                    "HTTP_X_USER_ID": user,
                    "HTTP_X_PROJECT_ID": project,
                    "HTTP_X_ROLES": roles,
                }
            return app(environ, start_response)

        return confirm

    return wrap


def one_writer(app: WSGIApp) -> WSGIApp:
    """SQLite refuses a transaction that turns from reader to writer while another one writes."""
    lock = threading.Lock()

    def guarded(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in SAFE_METHODS:
            return app(environ, start_response)
        with lock:
            return app(environ, start_response)

    return guarded


def access_log(app: WSGIApp, path: Path) -> WSGIApp:
    log = path.open("a", buffering=1)

    def logged(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING")
        target = environ["PATH_INFO"] + (f"?{query}" if query else "")
        line = f"{environ['REQUEST_METHOD']} {target}"

        def record(status: str, *args: Any) -> Any:
            log.write(f"{line} {status[:3]}\n")
            return start_response(status, *args)

        return app(environ, record)

    return logged


def exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main(directory: Path, port: int) -> None:
    # Only the Glance venv has these; importing the first reads OS_GLANCE_CONFIG_DIR.
    api = importlib.import_module("glance.wsgi.api")
    waitress = importlib.import_module("waitress")

    app = access_log(one_writer(api.application), directory / "access.log")
    server = waitress.create_server(
        app, host="127.0.0.1", port=port, threads=THREADS, max_request_body_size=MAX_BODY_BYTES
    )
    threading.Thread(target=exit_with_parent, daemon=True).start()
    partial = directory / "port.part"
    partial.write_text(str(server.effective_port))
    partial.rename(directory / "port")
    server.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
