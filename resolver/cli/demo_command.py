"""``glance-resolver demo``: shows how it works, on loopback and with nothing but Python."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resolver.errors import ResolverError

if TYPE_CHECKING:
    import aiohttp

    from resolver.services import Services
    from resolver.standin import StandIn

SWEEP_TIMEOUT_SECONDS = 30.0
"""How long the sweeps of two small stand-ins may take."""

SHARED_ID = "5ca1ab1e-0000-4000-8000-00000000c0de"
"""An image that both stand-ins have."""

ABSENT_ID = "00000000-0000-4000-8000-000000000000"
"""An image that no stand-in has."""


@click.command()
@click.option("--once", is_flag=True, help="Exit when everything was shown.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9393,
    show_default=True,
    help="The gateway's port.",
)
def demo(once: bool, port: int) -> None:
    """Show how it works with two stand-in Glance servers.

    Starts them and a gateway on loopback, resolves images in several ways, prints requests,
    answers and commands to try, and runs until Ctrl-C.
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_demo(once=once, port=port))


def _free_or_any(port: int) -> int:
    """``port``, or 0 for any free port if another program listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _fill(current: StandIn, old: StandIn) -> None:
    for number in range(12):
        current.add(name=f"debian-{number}", data=b"one" * number)
        old.add(name=f"ubuntu-{number}", data=b"two" * number)
    current.add(name="hidden", hidden=True, data=b"hidden")
    old.add(name="community", visibility="community", owner="somebody", data=b"community")
    for server in (current, old):
        server.add(id=SHARED_ID, name="in-both", data=b"the same bytes")


def _id_by_name(server: StandIn, name: str) -> str:
    return next(image.id for image in server.images() if image.name == name)


async def _demo(*, once: bool, port: int) -> None:
    import aiohttp  # noqa: PLC0415

    from resolver import logs  # noqa: PLC0415
    from resolver.gateway.server import on_signal, serving  # noqa: PLC0415
    from resolver.services import open_services  # noqa: PLC0415
    from resolver.settings import load_settings  # noqa: PLC0415
    from resolver.standin import StandIn  # noqa: PLC0415

    logs.configure(level="error", log_format="text")
    token = secrets.token_hex(8)
    # The demo must not touch a real gateway or index that the shell is configured for.
    for name in [name for name in os.environ if name.startswith("RESOLVER_")]:
        del os.environ[name]
    settings = load_settings({"port": _free_or_any(port), "admin_tokens": f"demo={token}"})
    async with StandIn() as current, StandIn(v1=True, old=True, prefix="/image") as old:
        _fill(current, old)
        async with (
            open_services(settings) as services,
            serving(services) as url,
            aiohttp.ClientSession(url) as http,
        ):
            click.echo("Two stand-in Glance servers:")
            click.echo(f"  one  {current.url}  v2, as of today")
            click.echo(f"  two  {old.url}  v1 and v2, as of 2017, behind a path prefix")
            click.echo(f"and glance-resolver at {url}, its index in memory.\n")
            await _register(services, current, old)
            await _show_requests(http, current, old)
            _print_hints(url, token, current)
            if not once:
                click.echo("\nRunning until Ctrl-C.")
                await on_signal().wait()


async def _register(services: Services, current: StandIn, old: StandIn) -> None:
    started = time.monotonic()
    await services.registry.put("one", {"url": current.url, "region": "RegionOne"})
    await services.registry.put("two", {"url": old.url, "region": "RegionTwo"})
    while True:
        rows = await services.registry.list()
        if all(row["coverage"]["covered"] for row in rows):
            break
        if time.monotonic() - started > SWEEP_TIMEOUT_SECONDS:
            raise ResolverError(f"the stand-ins were not swept within {SWEEP_TIMEOUT_SECONDS:g} s")
        await asyncio.sleep(0.02)
    counts = ", ".join(f"{row['name']} {row['sweep']['images']} images" for row in rows)
    click.echo(f"Registered and swept in {time.monotonic() - started:.1f} s: {counts}.\n")


async def _show_requests(http: aiohttp.ClientSession, current: StandIn, old: StandIn) -> None:
    first, second = _id_by_name(current, "debian-7"), _id_by_name(old, "ubuntu-7")
    number = 0

    def show(request: str, *answers: str) -> None:
        nonlocal number
        number += 1
        click.echo(f"{number}. {request}")
        for answer in answers:
            click.echo(f"     {answer}")

    for image in (first, second):
        async with http.get(f"/resolve/{image}") as reply:
            answer = await reply.json()
        show(
            f"GET /resolve/{image}",
            f"{reply.status} {answer['outcome']}: {answer['url']}",
            f"    identifier (always /v1/, not for fetching): {answer['uri']}",
        )
    async with http.get(f"/v2/images/{first}", allow_redirects=False) as reply:
        show(f"GET /v2/images/{first}", f"{reply.status} Location: {reply.headers['Location']}")
    async with http.get(f"/v2/images/{second}/file") as reply:
        show(
            f"GET /v2/images/{second}/file, redirect followed",
            f"{reply.status} from {reply.url.origin()}: {len(await reply.read())} bytes",
        )
    async with http.get(f"/resolve/{SHARED_ID}", headers={"Accept": "text/uri-list"}) as reply:
        show(
            f"GET /resolve/{SHARED_ID}, as text/uri-list: the identifiers (both have it)",
            *(await reply.text()).splitlines(),
        )
    ids = [first, SHARED_ID.upper(), ABSENT_ID, "no-uuid"]
    async with http.post("/resolve", json=ids) as reply:
        answers: list[dict[str, Any]] = await reply.json()
    show(
        "POST /resolve, four at once",
        *(f"{answer['outcome']:8} {answer['id']}" for answer in answers),
    )
    async with http.get(f"/resolve/{ABSENT_ID}") as reply:
        problem = await reply.json()
        show(f"GET /resolve/{ABSENT_ID}", f"{reply.status} {problem['code']}: {problem['detail']}")


def _program() -> str:
    """The command as it was typed, where the shell does not find it by its name."""
    typed = sys.argv[0]
    is_found = shutil.which("glance-resolver") or Path(typed).name != "glance-resolver"
    return "glance-resolver" if is_found else typed


def _print_hints(url: str, token: str, current: StandIn) -> None:
    image = _id_by_name(current, "debian-7")
    click.echo("\nTry:")
    for line in (
        f"curl -sL {url}/v2/images/{image}",
        f"curl -s '{url}/resolve/{SHARED_ID}?region=RegionTwo'",
        f"curl -s {url}/resolve/{SHARED_ID}/explain",
        f"curl -s {url}/index",
        f"curl -s -H 'Authorization: Bearer {token}' {url}/locations",
        f"{_program()} locations list --gateway {url} --token {token}",
    ):
        click.echo(f"  {line}")
