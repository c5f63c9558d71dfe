"""``glance-resolver report``."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import urlencode

import click

from resolver.cli.answer_shapes import CONFLICT, IMPORTABLE, MISSING_IMAGE, NOT_IMPORTABLE
from resolver.cli.gateway_client import GatewayAddress, checked, gateway_options
from resolver.cli.location_completing import regions
from resolver.cli.output import counted, print_json
from resolver.cli.printable import printable
from resolver.cli.stream_client import StreamRequest
from resolver.cli.suggesting_group import SuggestingGroup

SCRIPT_HEAD = """\
{{ true </dev/tty; }} 2>&- || {{ echo "run this at a terminal" >&2; exit 1; }}
OS_REGION_NAME={region} openstack image import info -f value | grep -qw glance-download ||
  {{ echo "region" {region} "does not import with glance-download" >&2; exit 1; }}"""
"""What would fail for each image is tried before the first: a failed import leaves a record."""


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
    request = StreamRequest(url, token)
    for row in request.lines("/report/conflicts", CONFLICT, on_headers=_warn):
        count += 1
        if as_json:
            print_json(row, compact=True)
        else:
            click.echo(_conflict_text(row))
    click.echo(f"{counted(count, 'image')} with different bytes at the owners", err=True)


@report.command()
@click.option(
    "--region", required=True, shell_complete=regions, help="The region that lacks the images."
)
@click.option("--tag", "tags", multiple=True, help="Only images with this tag; repeat for more.")
@click.option("--name", metavar="PATTERN", help="Only images of this name: debian-*")
@click.option("--min-age", metavar="AGE", help="Only images at least this old: 30d, 12h.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each image.")
@click.option(
    "--auth-token",
    envvar="OS_TOKEN",
    help="Keystone token with which images are listed; without it, each location's own credential "
    "lists them.  [env: OS_TOKEN]",
)
@click.option(
    "--token-region",
    metavar="REGION",
    shell_complete=regions,
    help="A region of the Keystone that issued that token, where locations have several.",
)
@gateway_options
def missing(
    region: str,
    tags: tuple[str, ...],
    name: str | None,
    min_age: str | None,
    as_json: bool,
    auth_token: str | None,
    token_region: str | None,
    url: str,
    token: str | None,
) -> None:
    """Print, for each image that no location of a region has, the commands that would import it.

    The output is a script for bash at a terminal, with the OpenStack client and a login.

    --tag, --name and --min-age choose images: each location lists those that match to its own
    credential, or, with OS_TOKEN, the locations of one Keystone list them to its holder.
    """
    count = without_source = commands = 0
    chosen = [("tag", tag) for tag in tags]
    chosen += [("name", name)] if name else []
    chosen += [("min_age", min_age)] if min_age else []
    headers = {}
    if chosen and auth_token:
        GatewayAddress(url, auth_token)  # the same rule holds for this token
        headers = {"X-Auth-Token": auth_token}
        headers |= {"X-Resolver-Region": token_region} if token_region else {}
    path = f"/report/missing?{urlencode([('region', region), *chosen])}"
    request = StreamRequest(url, token)
    for row in request.lines(path, MISSING_IMAGE, headers=headers, on_headers=_warn):
        count += 1
        checked(url, row, NOT_IMPORTABLE if row["source"] is None else IMPORTABLE)
        if as_json:
            print_json(row, compact=True)
        elif row["source"] is None:
            without_source += 1
            click.echo(f"# {row['id']}: {row['reason']}")
        else:
            if not commands:
                click.echo(SCRIPT_HEAD.format(region=shlex.quote(region)))
            commands += 1
            click.echo(f"{row['create']} && {row['command']}")
    text = f"region {region} lacks {counted(count, 'image')}"
    if without_source:
        text += f"; {without_source:,} of them cannot be imported from anywhere now"
    click.echo(text, err=True)


def _conflict_text(row: dict[str, Any]) -> str:
    owners = ", ".join(
        f"{owner['location']} {owner['content'] or 'not known'}" for owner in row["owners"]
    )
    return f"{row['id']}  {owners}"


def _warn(headers: Any) -> None:
    if names := headers.get("X-Resolver-Missing"):
        click.echo(
            f"warning: the index is not complete for {printable(names)}: their images may be "
            "missing here, or be listed although they are there (see `glance-resolver locations "
            "list`)",
            err=True,
        )
