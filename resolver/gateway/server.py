"""Serving: the listening socket, the indexer beside it, and an end that loses no request."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from resolver.errors import SettingsError
from resolver.gateway.app import make_app
from resolver.gateway.app_keys import IN_FLIGHT, METRICS
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.middleware import HEADER, request_id
from resolver.gateway.net.client_connection import ClientConnection, WriteCoalescer
from resolver.gateway.net.fast_path import FAST_PATH
from resolver.gateway.net.listener import ConnectionLimiter, Listener, open_listeners, room
from resolver.gateway.net.tls import tls_options
from resolver.gateway.problem import problem
from resolver.services import Services
from resolver.settings import Settings

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept, as nginx does."""

log = structlog.get_logger()


@asynccontextmanager
async def serving(
    services: Services,
    sockets: Sequence[socket.socket] = (),
    worker_metrics: WorkerMetrics | None = None,
) -> AsyncIterator[str]:
    """Listens and runs the role's work; gives the URL it listens at. The end is graceful:
    listening stops, requests in flight are answered, the indexer lets go of its leases.

    ``sockets``: where to listen, instead of the settings' host and port. ``worker_metrics``: this worker
    is one of several.

    Raises:
        SettingsError: the address cannot be listened on, or the certificate cannot be used.
    """
    settings = services.settings
    tls = tls_options(settings)
    app = make_app(services)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    loop = asyncio.get_running_loop()
    manager: Any = runner.server

    coalescer = WriteCoalescer()
    metrics = app[METRICS]

    def cut(why: str) -> None:
        metrics.cut.counts[why,] += 1

    limiter = ConnectionLimiter(room(settings.max_connections), cut)
    metrics.connections = lambda: len(limiter.open)
    # A megabyte unpacks to a gigabyte, also where nobody wants it: `read_body` and the import of an
    # operator say what they take.
    options: Any = {"loop": loop, "auto_decompress": False}
    options |= {"access_log": None, "keepalive_timeout": KEEPALIVE}

    def connection() -> ClientConnection:
        patience = settings.client_timeout
        return ClientConnection(
            malformed, app.get(FAST_PATH), coalescer, limiter, patience, manager, **options
        )

    def malformed(status: int, why: str) -> None:
        app[METRICS].requests.counts["none", "none", str(status)] += 1
        if settings.access_log != "off":
            log.info("malformed request", status=status, why=why[:200])

    manager.request_handler = expecting(manager.request_handler, malformed)
    try:
        sockets = sockets or open_listeners(settings.host, settings.port)
        listener = Listener(sockets, connection, limiter, tls)
    except OSError as error:
        await runner.cleanup()
        raise cannot_listen(settings, error) from error
    if worker_metrics is not None:
        app[METRICS].worker_metrics = worker_metrics
        await worker_metrics.open(app[METRICS].registry)
    port = listener.port
    services.own_ports.add(port)
    work = [asyncio.create_task(services.bootstrap.run(), name="upkeep")]
    if settings.role != "gateway":
        work.append(asyncio.create_task(services.indexer.run(), name="indexer"))
    try:
        yield shown_url(settings, port)
    finally:
        await listener.close()
        await app[IN_FLIGHT].drain(settings.shutdown_timeout, lambda: manager.connections)
        await runner.cleanup()
        for task in work:
            await end(task)
        if worker_metrics is not None:
            worker_metrics.close(app[METRICS].registry)


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def expecting(ordinary: Handler, malformed: Callable[[int, str], None]) -> Handler:
    """Before any middleware, aiohttp itself answers an ``Expect`` that cannot be met, as text."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "100-continue").lower() == "100-continue":
            return await ordinary(request)
        malformed(417, "an Expect other than 100-continue")
        refusal = problem(
            417,
            "expectation-failed",
            "Expectation failed",
            "100-continue is the one Expect that can be met: leave the header out",
        )
        refusal.headers[HEADER] = request_id(request.headers)
        return refusal

    return handle


def shown_url(settings: Settings, port: int) -> str:
    """Where the gateway can be reached from here."""
    host, scheme = settings.host, "https" if settings.tls_cert else "http"
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def cannot_listen(settings: Settings, error: OSError) -> SettingsError:
    return SettingsError(
        f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error} "
        "(RESOLVER_HOST, RESOLVER_PORT)"
    )


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task until it is done: a library that catches one cancellation does not stop us."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)


def on_signal() -> asyncio.Event:
    """Set when SIGTERM or SIGINT comes; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping)
    return stop
