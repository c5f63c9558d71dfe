"""``glance-resolver index``."""

from __future__ import annotations

from urllib.parse import quote

import click

from resolver.cli.http import Gateway, gateway_options
from resolver.cli.output import print_fields, print_json, print_table


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


def _path(location: str, image: str) -> str:
    return f"/locations/{quote(location, safe='')}/images/{quote(image, safe='')}"


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
