"""Settings and startup locations that are read again on SIGHUP: in one process here, in workers by
their arbiter."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import NamedTuple, Self

import structlog

from resolver import logs
from resolver.errors import ResolverError
from resolver.gateway.server import Sockets, on_signal, open_sockets, serving
from resolver.index import EmbeddedStore, open_index
from resolver.problems import Problem
from resolver.registry import Progress, StartupLocations, ignore_progress
from resolver.services import open_services
from resolver.settings import Settings

RESTART_ONLY = ("host", "port", "management_host", "management_port", "workers")
"""Settings that a reload does not change."""

log = structlog.get_logger()


class Startup(NamedTuple):
    """What a server is started with."""

    settings: Settings
    locations: StartupLocations


async def read_again(load: Callable[[], Startup], old: Settings) -> Startup:
    """The current settings and startup locations, once it is known that they can be used.

    Raises:
        ResolverError: one is wrong, or Redis does not answer. The old ones should stay: what this
            process knows from memory would be lost with them.
    """
    started = load()
    new = started.settings
    moved = (new.redis_url, new.redis_url_file) != (old.redis_url, old.redis_url_file)
    if not new.is_embedded:
        async with open_index(
            new.redis_url,
            url_file=new.redis_url_file,
            prefix=new.prefix,
            bits=new.index_bits,
            create=moved,
        ) as index:
            await index.ping()
    logs.configure(level=new.log_level, log_format=new.log_format)
    for name in RESTART_ONLY:
        if getattr(new, name) != getattr(old, name):
            log.warning(f"RESOLVER_{name.upper()} changes only with a restart")
    return started


def log_reload(old: Settings, new: Settings) -> None:
    """Logs that a reload has succeeded, and which settings it changed: their names, since some
    values are secret."""
    changed = [
        f"RESOLVER_{name.upper()}"
        for name in type(new).model_fields
        if name not in RESTART_ONLY and getattr(new, name) != getattr(old, name)
    ]
    log.info("settings read again", changed=changed)


RELOAD_REFUSED = Problem(
    code="reload-refused",
    text="The settings or locations that SIGHUP had read again cannot be used, so the earlier ones "
    "stay. This process would not start with them.",
    action="The log says why (`the old settings stay`). Correct it, and reload again.",
)


async def register(started: Startup, on_progress: Progress = ignore_progress) -> str:
    """Registers the startup locations once for several workers. Returns the identity of the index
    that has them, or an empty string if Redis does not answer.

    Raises:
        SettingsError: the index does not fit the settings, or a location is not allowed.
    """
    async with open_services(
        started.settings, started.locations, on_progress=on_progress
    ) as services:
        return services.bootstrap.registered_index


class _Generation(NamedTuple):
    """What serves with one set of settings."""

    settings: Settings
    url: str
    registered_index: str
    stack: AsyncExitStack
    """Ends it."""


class ReloadingServer:
    """Serves in this process. On SIGHUP, a server with the new settings and startup locations takes
    the sockets over before the old one ends, so that no request is lost."""

    def __init__(
        self,
        load: Callable[[], Startup],
        on_progress: Progress,
    ) -> None:
        self._load = load
        self._on_progress = on_progress
        self._store = EmbeddedStore()
        self._sockets = Sockets(())
        self._current: _Generation | None = None
        self._is_reloading = False
        self._is_refused = False
        """Whether the last reload failed."""
        self._stop, self._hangup = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Self:
        self._stop = on_signal()
        if not sys.stderr.isatty():  # a service; a terminal that closes ends its programs
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends gracefully."""
        # These first: a connection that waits for them while the others are closed would be reset.
        for listening in (*self._sockets.public, *self._sockets.management):
            listening.close()
        if self._current is not None:
            await self._current.stack.aclose()

    async def start(self, started: Startup) -> str:
        """Begins to serve. Returns the URL.

        Raises:
            SettingsError: the settings cannot be used.
        """
        self._sockets = open_sockets(started.settings)
        self._current = await self._serve(started, registered_index="")
        return self._current.url

    async def _serve(self, started: Startup, registered_index: str) -> _Generation:
        settings, locations = started
        async with AsyncExitStack() as stack:
            services = await stack.enter_async_context(
                open_services(
                    settings,
                    locations,
                    registered_index,
                    on_progress=self._on_progress,
                    store=self._store,
                )
            )
            sockets = Sockets(*([s.dup() for s in sockets] for sockets in self._sockets))
            url = await stack.enter_async_context(
                serving(services, sockets, is_replaced=lambda: self._is_reloading)
            )
            services.problems.add_source(lambda: [RELOAD_REFUSED] if self._is_refused else [])
            return _Generation(settings, url, services.bootstrap.registered_index, stack.pop_all())
        raise AssertionError("an exit stack swallows no exception here")

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, and reloads on SIGHUP."""
        while not self._stop.is_set():
            await _either(self._stop, self._hangup)
            if self._hangup.is_set() and not self._stop.is_set():
                self._hangup.clear()
                await self._reload()

    async def _reload(self) -> None:
        """Replaces the server. The old one stays where the new one cannot serve."""
        old = self._current
        assert old is not None
        try:
            started = await read_again(self._load, old.settings)
            # Startup locations are registered as at a start. A process without any still knows that
            # there is an index.
            registered_index = "" if started.locations else old.registered_index
            self._current = await self._serve(started, registered_index)
        except ResolverError as error:
            self._is_refused = True
            log.error("the old settings stay", reason=error.detail)  # noqa: TRY400 - it is enough
            return
        self._is_refused = False
        self._is_reloading = True
        try:
            await old.stack.aclose()
        finally:
            self._is_reloading = False
        log_reload(old.settings, self._current.settings)


async def _either(*events: asyncio.Event) -> None:
    """Waits for one of the events."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
