"""``glance-resolver report``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import click

from resolver.cli.gateway_client import decode_answer, gateway_options
from resolver.cli.stream_client import StreamRequest
from resolver.cli.suggesting_group import SuggestingGroup


@click.group(cls=SuggestingGroup)
def report() -> None:
    """List images with different bytes, and those that a region lacks."""


@report.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each image.")
@gateway_options
def conflicts(as_json: bool, url: str, token: str | None) -> None:
    """List the images that are known to have different bytes at some of their owners.

    Locations with the same number behind their name have the same bytes.
    """
    count = 0
    for line in _lines(StreamRequest(url, token), "/report/conflicts"):
        count += 1
        click.echo(line.decode() if as_json else _conflict_text(decode_answer(line)))
    click.echo(f"{count:,} images have different bytes at their owners", err=True)


@report.command()
@click.option("--region", required=True, help="The region that lacks the images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each image.")
@gateway_options
def missing(region: str, as_json: bool, url: str, token: str | None) -> None:
    """Print, for each image that no location of a region has, the commands that would import it.

    The output is a script for a shell with the OpenStack client and a login.
    """
    count = without_source = 0
    path = f"/report/missing?{urlencode({'region': region})}"
    for line in _lines(StreamRequest(url, token), path):
        count += 1
        if as_json:
            click.echo(line.decode())
            continue
        row = decode_answer(line)
        if row["source"] is None:
            without_source += 1
            click.echo(f"# {row['id']}: {row['reason']}")
        else:
            click.echo(f"{row['create']} && {row['command']}")
    text = f"region {region} lacks {count:,} images"
    if without_source:
        text += f"; {without_source:,} of them cannot be imported from anywhere now"
    click.echo(text, err=True)


def _conflict_text(row: dict[str, Any]) -> str:
    owners = ", ".join(
        f"{owner['location']} {owner['content'] or 'not known'}" for owner in row["owners"]
    )
    return f"{row['id']}  {owners}"


def _lines(request: StreamRequest, path: str) -> Iterator[bytes]:
    """The lines of a report. Warns where it may be wrong about some locations."""
    rest = b""
    for data in request.get(path, complete=True, on_headers=_warn):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _warn(headers: Any) -> None:
    if names := headers.get("X-Resolver-Missing"):
        click.echo(
            f"warning: the index is not complete for {names}: their images may be missing here, or "
            "be listed although they are there (see `glance-resolver locations list`)",
            err=True,
        )
