"""``glance-resolver index``."""

from __future__ import annotations

import time
from typing import Any

import click

from resolver.cli.ages import age
from resolver.cli.answer_shapes import REBUILD, TOTALS
from resolver.cli.gateway_client import Gateway, gateway_options, segment
from resolver.cli.location_completing import location_names
from resolver.cli.output import counted, print_fields, print_json, print_table
from resolver.cli.suggesting_group import SuggestingGroup
from resolver.cli.transfer_command import export, import_

POLL_SECONDS = 0.5
"""Between two requests for the progress of a rebuild."""


@click.group(cls=SuggestingGroup)
def index() -> None:
    """Show, export, import and rebuild the index; claim and release by hand."""


@index.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def stats(as_json: bool, url: str, token: str | None) -> None:
    """Show the totals and each location's share.

    Claims are what the index has now; listed is what the last complete sweep found. They differ by
    what has changed since, and by what was imported or claimed by hand.
    """
    totals = Gateway(url, token).call("GET", "/index", shape=TOTALS)
    if as_json:
        print_json(totals)
        return
    images, size = totals["images"], totals["bytes"]
    buckets = totals["buckets"]
    print_fields(
        (
            ("counted", f"{age(totals['at'])} ago"),
            ("images", f"{images:,}"),
            ("claims", f"{totals['claims']:,}"),
            ("conflicts", f"{totals['conflicts']:,}"),
            ("bytes", "not known" if size is None else f"{size:,} (estimated)"),
            ("bytes an image", f"{size / images:.1f}" if size and images else "not known"),
            ("buckets", f"{buckets['used']:,} of {buckets['all']:,}, fullest {buckets['fullest']}"),
            ("ids not random", _SPREAD[totals["spread"]]),
            ("rebuild", _rebuild_state(totals["rebuild"])),
            ("covered", "yes" if totals["covered"] else f"no: {totals['why']}"),
        )
    )
    print_table(
        ("location", "claims", "listed", "covered", "why"),
        (
            (name, f"{row['claims']:,}", f"{row['listed']:,}", row["covered"], row["coverage"])
            for name, row in totals["locations"].items()
        ),
    )


_SPREAD = {
    True: "in separate buckets, evenly filled",
    False: "with the others, since an older version made the index; `index rebuild` spreads them",
}


def _rebuild_state(rebuild: dict[str, Any] | None) -> str:
    if rebuild is None:
        return "no"
    return f"to {1 << rebuild['bits']:,} buckets, {rebuild['done']:.0%} copied"


def _path(location: str, image: str) -> str:
    return f"/locations/{segment(location)}/images/{segment(image)}"


@index.command()
@click.argument("location", shell_complete=location_names)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@gateway_options
def claim(location: str, ids: tuple[str, ...], url: str, token: str | None) -> None:
    """Record that LOCATION has these images."""
    gateway = Gateway(url, token)
    for image in ids:
        gateway.change("PUT", _path(location, image))
    click.echo(f"{location}: {counted(len(ids), 'image')} claimed")


@index.command()
@click.argument("location", shell_complete=location_names)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@gateway_options
def release(location: str, ids: tuple[str, ...], url: str, token: str | None) -> None:
    """Record that LOCATION does not have these images."""
    gateway = Gateway(url, token)
    for image in ids:
        gateway.change("DELETE", _path(location, image))
    click.echo(f"{location}: {counted(len(ids), 'image')} released")


@index.command()
@click.option(
    "--bits", type=int, required=True, help="The new number of buckets is 2 to this power."
)
@click.option("--wait", is_flag=True, help="Wait until it is done, and show progress.")
@gateway_options
def rebuild(bits: int, wait: bool, url: str, token: str | None) -> None:
    """Change the number of buckets while the index is in use.

    docs/storage.md has a table that helps to choose it.
    """
    gateway = Gateway(url, token)
    gateway.call("POST", "/index/rebuild", {"bits": bits}, shape={"bits": int})
    if not wait:
        click.echo("rebuild requested; `index stats` shows its progress")
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.status import Status  # noqa: PLC0415

    with Status("waiting for the indexer", console=Console(stderr=True)) as status:
        while running := gateway.call("GET", "/index", shape=REBUILD)["rebuild"]:
            status.update(f"{running['done']:.0%} copied")
            time.sleep(POLL_SECONDS)
    click.echo(f"the index has {1 << bits:,} buckets")


index.add_command(export)
index.add_command(import_)
