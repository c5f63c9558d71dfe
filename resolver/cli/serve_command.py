"""``glance-resolver serve``."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from resolver.cli import plain_structlog  # noqa: F401 - before any module that imports structlog
from resolver.cli.completing import files
from resolver.cli.output import notify
from resolver.cli.runtime_file import loopback_url, temporary_url_file, write_url
from resolver.errors import ResolverError, SettingsError, installing
from resolver.service_manager import READY, STOPPING, ServiceManager

if TYPE_CHECKING:
    from resolver.gateway.reloading import Startup
    from resolver.settings import Settings

SHOWN_FROM_LOCATIONS = 50
"""Fewer are registered at once."""

Locations = dict[str, dict[str, Any]]
"""Fields of each location, by name."""


def parse_pairs(pairs: tuple[str, ...]) -> Locations:
    """Locations from ``NAME=URL`` options.

    Raises:
        click.UsageError: a pair is malformed, or a name is given twice.
    """
    locations: Locations = {}
    for pair in pairs:
        name, equals, url = pair.partition("=")
        if not equals or not url:
            raise click.UsageError(f"--location {pair!r}: write NAME=URL")
        if name in locations:
            raise click.UsageError(f"--location {name} is given twice")
        locations[name] = {"url": url}
    return locations


@click.command()
@click.option(
    "--location",
    "pairs",
    multiple=True,
    metavar="NAME=URL",
    help="Register a Glance server that needs no credential; repeat for more.",
)
@click.option(
    "--locations",
    "locations_file",
    metavar="FILE",
    shell_complete=files,
    help="Register the locations of a YAML file, with where their credentials are.",
)
@click.option(
    "--role", type=click.Choice(["all", "gateway", "indexer"]), help="What this process does."
)
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Worker processes at one address. More than 1 needs Redis, and the extra 'workers'.",
)
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
def serve(pairs: tuple[str, ...], locations_file: str | None, **options: Any) -> None:
    """Run the gateway, the indexer, or both (the default).

    Settings come from RESOLVER_* in the environment and the TOML file that RESOLVER_CONFIG names;
    `glance-resolver config` lists them. Options given here override them.
    """
    # What is allocated during the start stays: collecting garbage there takes a sixth of its time.
    gc.disable()
    # Until the server has handlers of its own: process 1 of a container ignores SIGTERM otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from resolver.settings import load_settings  # noqa: PLC0415

    def load(**more: str) -> Startup:
        settings = load_settings({**options, "locations_file": locations_file, **more})
        _check(settings)
        from resolver.gateway.reloading import Startup  # noqa: PLC0415 - slow, and checked first

        return Startup(settings, _read_locations(settings, pairs))

    started = load()
    settings = started.settings
    if settings.is_embedded and not (settings.admin_tokens or settings.admin_tokens_file):
        token = secrets.token_hex(16)
        load = partial(load, admin_tokens=token)
        started = load()
        settings = started.settings
    else:
        token = ""
    from resolver import logs  # noqa: PLC0415

    logs.configure(level=settings.log_level, log_format=settings.log_format)
    if token:
        logs.announce(f"admin token for this run: {token} (RESOLVER_ADMIN_TOKENS sets others)")
    is_overridden = options["host"] is not None or options["port"] is not None
    configured_port = _configured_port(settings) if is_overridden else settings.port

    def on_listening(url: str) -> None:
        if is_overridden or settings.port == 0:
            port = urlsplit(url).port or settings.port
            tls = bool(settings.tls_cert)
            write_url(configured_port, loopback_url(settings.host, port, tls=tls))
        workers = f", {settings.workers} workers" if settings.workers > 1 else ""
        logs.announce(
            f"glance-resolver ({settings.role}{workers}) listens at {url} (pid {os.getpid()})"
        )

    manager = ServiceManager.from_environment()
    with temporary_url_file(configured_port):
        try:
            if settings.workers > 1:
                _serve_with_workers(load, started, on_listening, manager)
            else:
                asyncio.run(_serve(load, started, on_listening, manager))
        except ResolverError as error:
            logs.announce(f"glance-resolver: {error.detail}", level="error")
            sys.exit(1)


def show_registration(done: int, total: int) -> None:
    """Shows on a terminal how many of many locations are registered."""
    if total >= SHOWN_FROM_LOCATIONS and sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        notify(f"glance-resolver: {done} of {total} locations checked{end}", nl=False)


def _configured_port(settings: Settings) -> int:
    """The port in the settings without the options, which is what `healthcheck` reads."""
    from resolver.settings import load_settings  # noqa: PLC0415

    try:
        return load_settings().port
    except SettingsError:  # an option overrides a setting that is invalid by itself
        return settings.port


def _check(settings: Settings) -> None:
    """Raises SettingsError if `serve` cannot work with these settings."""
    from resolver.gateway.net.tls import tls_options  # noqa: PLC0415
    from resolver.gateway.tokens import Tokens  # noqa: PLC0415

    if settings.is_embedded:
        for option, needs_redis in (
            ("role", settings.role != "all"),
            ("workers", settings.workers > 1),
        ):
            if needs_redis:
                raise SettingsError(
                    f"--{option} {getattr(settings, option)} needs a Redis to share: set "
                    "RESOLVER_REDIS_URL"
                )
    Tokens(settings).check()
    tls_options(settings)


def _read_locations(settings: Settings, pairs: tuple[str, ...]) -> Locations:
    """The locations to register at start: those of the file, with the URLs of the options."""
    locations: Locations = {}
    if settings.locations_file:
        from resolver.registry.yaml_file import read_locations  # noqa: PLC0415

        locations = read_locations(settings.locations_file)
    for name, fields in parse_pairs(pairs).items():
        locations[name] = {**locations.get(name, {}), **fields}
    return locations


async def _serve(
    load: Callable[[], Startup],
    started: Startup,
    on_listening: Callable[[str], None],
    manager: ServiceManager,
) -> None:
    """Serves in this process until a signal ends it."""
    from resolver import logs  # noqa: PLC0415
    from resolver.gateway.reloading import ReloadingServer  # noqa: PLC0415

    async with ReloadingServer(load, show_registration) as server:
        on_listening(await server.start(started))
        gc.freeze()  # garbage collections need not visit what exists now
        gc.enable()
        keep_alive = asyncio.create_task(manager.keep_alive(), name="watchdog")
        manager.notify(READY)
        await server.run()
        keep_alive.cancel()
        manager.notify(STOPPING)
        logs.announce("glance-resolver: stopping")


def _serve_with_workers(
    load: Callable[[], Startup],
    started: Startup,
    on_listening: Callable[[str], None],
    manager: ServiceManager,
) -> None:
    """Serves with several worker processes until a signal ends it. Never returns.

    Raises:
        SettingsError: gunicorn is not installed, or the address cannot be listened on.
    """
    from resolver.gateway.reloading import register  # noqa: PLC0415

    try:
        from resolver.gateway.net.workers import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "gunicorn":
            raise
        raise SettingsError(
            f"--workers {started.settings.workers} needs gunicorn: {installing('workers')}"
        ) from error
    registered_index = asyncio.run(register(started, show_registration))
    run(load, started, registered_index, on_listening, manager)
