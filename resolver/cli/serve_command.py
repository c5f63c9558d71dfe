"""``glance-resolver serve``."""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from resolver.errors import SettingsError

if TYPE_CHECKING:
    from resolver.settings import Settings


def parse_pairs(pairs: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """``NAME=URL`` options as locations.

    Raises:
        click.UsageError: a pair is not one.
    """
    locations = {}
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
    help="Register a Glance server; repeat for more.",
)
@click.option(
    "--locations", "locations_file", metavar="FILE", help="Register the locations of a YAML file."
)
@click.option(
    "--role", type=click.Choice(["all", "gateway", "indexer"]), help="What this process does."
)
@click.option("--workers", type=int, metavar="N", help="Processes that answer at one address.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
def serve(pairs: tuple[str, ...], locations_file: str | None, **options: Any) -> None:
    """Run the gateway, the indexer, or both (the default).

    Settings come from RESOLVER_* in the environment and the TOML file that RESOLVER_CONFIG names;
    `glance-resolver config` lists them. Options here come first.
    """
    gc.disable()  # what a start makes stays: looking for garbage in it is a sixth of its time
    # Until the server has handlers of its own: as process 1 of a container, SIGTERM is lost else.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from resolver.gateway.net.tls import tls_options  # noqa: PLC0415
    from resolver.gateway.tokens import Tokens  # noqa: PLC0415
    from resolver.settings import load_settings  # noqa: PLC0415

    def load(**more: str) -> Settings:
        settings = load_settings({**options, "locations_file": locations_file, **more})
        if settings.redis_url.startswith("memory:"):
            for option, wants in (
                ("role", settings.role != "all"),
                ("workers", settings.workers > 1),
            ):
                if wants:
                    raise SettingsError(
                        f"--{option} {getattr(settings, option)} needs a Redis to share: set "
                        "RESOLVER_REDIS_URL"
                    )
        Tokens(settings).check()
        tls_options(settings)
        return settings

    settings = load()
    locations: dict[str, dict[str, Any]] = {}
    if settings.locations_file:
        from resolver.registry.yaml_file import read_locations  # noqa: PLC0415

        locations = read_locations(settings.locations_file)
    for name, fields in parse_pairs(pairs).items():
        locations[name] = {**locations.get(name, {}), **fields}
    embedded = settings.redis_url.startswith("memory:")
    if embedded and not (settings.admin_tokens or settings.admin_tokens_file):
        token = secrets.token_hex(16)
        settings = load(admin_tokens=token)
        click.echo(f"admin token for this run: {token}", err=True)
    from resolver import logs  # noqa: PLC0415

    logs.configure(level=settings.log_level, log_format=settings.log_format)
    if settings.workers > 1:
        from resolver.gateway.net.workers import run  # noqa: PLC0415

        registered = asyncio.run(_register(settings, locations))
        run(load, settings, locations, registered, lambda url: listens(settings, url))
    else:
        asyncio.run(_serve(settings, locations))


def listens(settings: Settings, url: str) -> None:
    """Says that it serves, and where."""
    several = f", {settings.workers} workers" if settings.workers > 1 else ""
    click.echo(f"glance-resolver ({settings.role}{several}) listens at {url}", err=True)


async def _register(settings: Settings, locations: dict[str, dict[str, Any]]) -> str:
    """Registers the locations given at start, and returns the identity of the index that has them;
    nothing where Redis does not answer."""
    from resolver.services import open_services  # noqa: PLC0415

    async with open_services(settings, locations) as services:
        return services.bootstrap.registered_index


async def _serve(settings: Settings, locations: dict[str, dict[str, Any]]) -> None:
    from resolver.gateway.server import on_signal, serving  # noqa: PLC0415
    from resolver.services import open_services  # noqa: PLC0415

    stop = on_signal()
    async with open_services(settings, locations) as services, serving(services) as url:
        gc.freeze()  # collections need not look at what is there now
        gc.enable()
        listens(settings, url)
        await stop.wait()
        click.echo("glance-resolver: stopping", err=True)
