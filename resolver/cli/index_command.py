"""``glance-resolver index``."""

from __future__ import annotations

import time
from typing import Any

import click

from resolver.cli.gateway_client import Gateway, gateway_options, segment
from resolver.cli.output import print_fields, print_json, print_table
from resolver.cli.transfer_command import export, import_

POLL = 0.5
"""Seconds between two looks at a rebuild that is waited for."""


@click.group()
def index() -> None:
    """Look at the index, claim and release by hand."""


@index.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def stats(as_json: bool, url: str, token: str | None) -> None:
    """Images, claims and bytes, and what each location contributes."""
    figures = Gateway(url, token).call("GET", "/index")
    if as_json:
        print_json(figures)
        return
    images, size = figures["images"], figures["bytes"]
    buckets = figures["buckets"]
    print_fields(
        (
            ("images", f"{images:,}"),
            ("claims", f"{figures['claims']:,}"),
            ("bytes", "not known" if size is None else f"{size:,} (estimated)"),
            ("bytes an image", f"{size / images:.1f}" if size and images else "not known"),
            ("buckets", f"{buckets['used']:,} of {buckets['all']:,}, fullest {buckets['fullest']}"),
            ("rebuild", _rebuilding(figures["rebuild"])),
            ("covered", "yes" if figures["covered"] else f"no: {', '.join(figures['missing'])}"),
        )
    )
    print_table(
        ("location", "claims", "covered", "why"),
        (
            (name, f"{row['claims']:,}", "yes" if row["covered"] else "no", row["coverage"])
            for name, row in figures["locations"].items()
        ),
    )


def _rebuilding(rebuild: dict[str, Any] | None) -> str:
    if rebuild is None:
        return "no"
    return f"to {1 << rebuild['bits']:,} buckets, {rebuild['done']:.0%} copied"


def _path(location: str, image: str) -> str:
    return f"/locations/{segment(location)}/images/{segment(image)}"


@index.command()
@click.argument("location")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@gateway_options
def claim(location: str, ids: tuple[str, ...], url: str, token: str | None) -> None:
    """Say that LOCATION has these images."""
    gateway = Gateway(url, token)
    for image in ids:
        gateway.call("PUT", _path(location, image))


@index.command()
@click.argument("location")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@gateway_options
def release(location: str, ids: tuple[str, ...], url: str, token: str | None) -> None:
    """Say that LOCATION does not have these images."""
    gateway = Gateway(url, token)
    for image in ids:
        gateway.call("DELETE", _path(location, image))


@index.command()
@click.option("--bits", type=int, required=True, help="Buckets, as a power of two.")
@click.option("--wait", is_flag=True, help="Wait until it is done, showing how far it is.")
@gateway_options
def rebuild(bits: int, wait: bool, url: str, token: str | None) -> None:
    """Give the index another number of buckets, while it is used.

    docs/storage.md has a table of what to choose.
    """
    gateway = Gateway(url, token)
    gateway.call("POST", "/index/rebuild", {"bits": bits})
    if not wait:
        click.echo("rebuild asked for; `index stats` tells how far it is")
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.status import Status  # noqa: PLC0415

    with Status("waiting for the indexer", console=Console(stderr=True)) as line:
        while (going := gateway.call("GET", "/index")["rebuild"]) is not None:
            line.update(f"{going['done']:.0%} copied")
            time.sleep(POLL)
    click.echo(f"the index has {1 << bits:,} buckets")


index.add_command(export)
index.add_command(import_)
