"""Serving: listening sockets, the front, background work, and a shutdown that loses no request."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from typing import Any, NamedTuple, cast

import structlog
from aiohttp import web

from resolver.errors import SettingsError
from resolver.gateway.app import make_app, make_management_app
from resolver.gateway.app_keys import ACCESS_LOG, BROWSER_GUARD, IN_FLIGHT, METRICS
from resolver.gateway.limits import LIMITS
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.net.connection_limiter import ConnectionLimiter
from resolver.gateway.net.front import Front
from resolver.gateway.net.front_connection import FrontConnection
from resolver.gateway.net.front_server import FrontServer
from resolver.gateway.net.listener import Listener, open_listeners, usable_connections
from resolver.gateway.net.request_head import MAX_FIELD_BYTES, MAX_FIELDS, MAX_TARGET_BYTES
from resolver.gateway.net.tls import certificate_problems, tls_options
from resolver.gateway.net.write_coalescer import WriteCoalescer
from resolver.services import Services
from resolver.settings import Settings

MAX_MANAGEMENT_CONNECTIONS = 128
"""Connections to the management port. Its clients are few, and keep connections."""

KEEPALIVE_SECONDS = 75.0
"""How long an idle connection stays open, as in nginx."""

RUNNER_SHUTDOWN_SECONDS = 1.0
"""How long aiohttp waits for handlers that have outlived RESOLVER_SHUTDOWN_TIMEOUT."""

KEPT_BRIDGE_SECONDS = 2.0
"""How long a bridge waits for a further request of its connection."""

AIOHTTP_OPTIONS: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": KEPT_BRIDGE_SECONDS,
    "tcp_keepalive": False,
    # How long aiohttp waits for the rest of a body that no handler wants.
    "lingering_time": 1.0,
    # A megabyte unpacks to a gigabyte, also where no handler wants it.
    "auto_decompress": False,
    "max_line_size": MAX_TARGET_BYTES,
    "max_field_size": MAX_FIELD_BYTES,
    "max_headers": MAX_FIELDS,
}


def _is_fault(record: logging.LogRecord) -> bool:
    """A filter for aiohttp's log: a client that has left is not a fault. Some clients expect
    ``100 Continue`` and leave before it is written, which no handler sees."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ConnectionError)


logging.getLogger("aiohttp.server").addFilter(_is_fault)

log = structlog.get_logger()


@asynccontextmanager
async def serving(
    services: Services,
    sockets: Sockets | None = None,
    worker_metrics: WorkerMetrics | None = None,
    is_replaced: Callable[[], bool] = lambda: False,
) -> AsyncIterator[str]:
    """Listens and runs the role's background work; gives the URL.

    The end is graceful: ``/readyz`` is 503 and everything else goes on for a while, listening
    stops, requests in flight are answered, then the indexer releases its leases.

    Args:
        sockets: where to listen, instead of the addresses in the settings.
        worker_metrics: this process is one of several workers.
        is_replaced: whether another one has taken over when this one ends, so that no load balancer
            has to notice.

    Raises:
        SettingsError: the address cannot be listened on, or the certificate cannot be used.
    """
    settings = services.settings
    tls = tls_options(settings)
    services.problems.add_source(lambda: certificate_problems(settings))
    limiter = ConnectionLimiter(
        usable_connections(settings.max_connections), settings.trusted_proxies
    )
    app = make_app(services, limiter=limiter, worker_metrics=worker_metrics)
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(app, shutdown_timeout=RUNNER_SHUTDOWN_SECONDS, **AIOHTTP_OPTIONS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        if worker_metrics is not None:
            await worker_metrics.open(app[METRICS].registry)
            stack.callback(worker_metrics.close, app[METRICS].registry)
        server = front_server(services, app, runner, limiter)
        sockets = sockets or open_sockets(settings)
        listener = make_listener(server, sockets.public, tls)
        stack.callback(listener.stop_deadlines)
        listeners = [listener]
        services.own_ports.add(listener.port)
        if sockets.management:
            managing = await stack.enter_async_context(
                management_server(services, app, sockets.management, tls)
            )
            listeners.append(managing)
        background = [
            asyncio.create_task(services.bootstrap.run(), name="bootstrap"),
            asyncio.create_task(services.index.server_watch.run(), name="server watch"),
            asyncio.create_task(services.indexer_watch.run(), name="indexer watch"),
            asyncio.create_task(services.process_watch.run(), name="process watch"),
            asyncio.create_task(services.tables.watch_hosts(), name="host watch"),
        ]
        if settings.role != "indexer" and settings.probe:
            background.append(asyncio.create_task(services.stay_logged_in(), name="logins"))
        if settings.role != "gateway":
            background.append(asyncio.create_task(services.indexer.run(), name="indexer"))
        try:
            yield shown_url(settings, listener.port)
        finally:
            if not is_replaced():
                app[IN_FLIGHT].draining = True
                await asyncio.sleep(settings.drain_seconds)
            for listening in listeners:
                await listening.close()
            await app[IN_FLIGHT].drain(settings.shutdown_timeout, lambda: len(limiter.connections))
            for connection in list(limiter.connections):
                connection.abort()
            for task in background:
                await cancel(task)


class Sockets(NamedTuple):
    """Where a process listens."""

    public: Sequence[socket.socket]
    management: Sequence[socket.socket] = ()
    """Empty where there is no management port."""

    @classmethod
    def by_port(cls, sockets: Sequence[socket.socket]) -> Sockets:
        """From all of them, those of the public port first."""
        port = sockets[0].getsockname()[1]
        split = sum(listening.getsockname()[1] == port for listening in sockets)
        return cls(sockets[:split], sockets[split:])


def open_sockets(settings: Settings) -> Sockets:
    """Sockets that listen where the settings say.

    Raises:
        SettingsError: an address cannot be listened on.
    """
    opened: list[list[socket.socket]] = []
    for host, port in settings.addresses():
        try:
            opened.append(open_listeners(host, port))
        except OSError as error:
            for listening in chain(*opened):
                listening.close()
            raise listen_error(host, port, error) from error
    return Sockets(*opened)


def make_listener(
    server: FrontServer, sockets: Sequence[socket.socket], tls: Mapping[str, Any]
) -> Listener:
    """Accepts the connections of a server."""
    return Listener(
        sockets,
        lambda: FrontConnection(server),
        server.limiter,
        tls,
        shortest_timeout=min(server.client_timeout, KEEPALIVE_SECONDS),
    )


@asynccontextmanager
async def management_server(
    services: Services,
    app: web.Application,
    sockets: Sequence[socket.socket],
    tls: Mapping[str, Any],
) -> AsyncIterator[Listener]:
    """Listens on the management port. ``app``: that of the other port. Clients there cannot take
    the connections of this one."""
    limiter = ConnectionLimiter(MAX_MANAGEMENT_CONNECTIONS, services.settings.trusted_proxies)
    management = make_management_app(app)
    runner = web.AppRunner(management, shutdown_timeout=RUNNER_SHUTDOWN_SECONDS, **AIOHTTP_OPTIONS)
    await runner.setup()
    try:
        server = front_server(services, app, runner, limiter, has_front=False)
        listener = make_listener(server, sockets, tls)
        services.own_ports.add(listener.port)
        log.info("management port open", port=listener.port)
        try:
            yield listener
        finally:
            listener.stop_deadlines()
            for connection in list(limiter.connections):
                connection.abort()
    finally:
        await runner.cleanup()


def front_server(
    services: Services,
    app: web.Application,
    runner: web.AppRunner,
    limiter: ConnectionLimiter,
    *,
    has_front: bool = True,
) -> FrontServer:
    """What all connections of a port share. ``runner`` has been set up. ``has_front``: whether
    images are read there."""
    front = None
    if has_front and services.settings.role != "indexer":
        front = Front(
            services,
            app[METRICS],
            app[IN_FLIGHT],
            app[LIMITS],
            app[ACCESS_LOG],
            app[BROWSER_GUARD],
        )
    server = runner.server
    assert server is not None  # `setup` has made it

    def make_protocol() -> asyncio.Protocol:
        return cast("asyncio.Protocol", server())

    return FrontServer(
        front,
        make_protocol,
        limiter,
        app[IN_FLIGHT],
        app[METRICS],
        app[ACCESS_LOG],
        WriteCoalescer(),
        client_timeout=services.settings.client_timeout,
        keepalive_timeout=KEEPALIVE_SECONDS,
    )


def shown_url(settings: Settings, port: int) -> str:
    """Where the gateway can be reached from this host."""
    host, scheme = settings.host, "https" if settings.tls_cert else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # `::` listens on IPv6 only
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen_error(host: str, port: int, error: OSError) -> SettingsError:
    return SettingsError(
        f"cannot listen on {host} port {port}: {error.strerror or error} "
        "(RESOLVER_HOST, RESOLVER_PORT, RESOLVER_MANAGEMENT_HOST, RESOLVER_MANAGEMENT_PORT)"
    )


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancels a task until it is done, also where a library swallows one cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)


def on_signal() -> asyncio.Event:
    """Set when SIGTERM or SIGINT comes; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping)
    return stop
