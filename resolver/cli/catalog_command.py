"""``glance-resolver catalog``: how to make the gateway an image endpoint in Keystone's catalog."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import click

from resolver.cli.answer_shapes import NAMED_LOCATIONS
from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options, is_loopback
from resolver.cli.location_completing import regions
from resolver.cli.output import print_json


@click.command()
@click.option(
    "--region",
    shell_complete=regions,
    default="global",
    show_default=True,
    help="The region that gets the gateway as its image endpoint, next to the locations' regions.",
)
@click.option(
    "--in-place",
    is_flag=True,
    help="The gateway for each region of the locations, in place of the region's own endpoint.",
)
@click.option(
    "--interface",
    "interfaces",
    type=click.Choice(["public", "internal", "admin"]),
    multiple=True,
    default=("public",),
    show_default=True,
    help="Interface of the endpoints; repeatable.",
)
@click.option(
    "--service",
    default="image",
    show_default=True,
    help="Type, name or id of Glance's service in Keystone.",
)
@click.option(
    "--endpoint",
    metavar="URL",
    help="The gateway's URL for users. By default the one that its version document names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def catalog(
    region: str,
    in_place: bool,
    interfaces: Sequence[str],
    service: str,
    endpoint: str | None,
    as_json: bool,
    url: str,
    token: str | None,
) -> None:
    """Print the commands that put the gateway into Keystone's catalog.

    They are for a shell with the OpenStack client and an administrator's login; nothing is changed
    from here. Without --in-place the gateway gets a region of its own, and users choose it with
    --os-region-name.
    """
    gateway = Gateway(url, token)
    base = (endpoint or _base_of(gateway)).rstrip("/")
    _warn_about(base, is_given=endpoint is not None)
    targets = {region: base}
    if in_place:
        names, without_region = _regions_of(gateway)
        if not names:
            raise click.UsageError(
                "no location has a region: `glance-resolver locations set NAME --region` gives one"
            )
        targets = {name: f"{base}/region/{quote(name, safe='')}" for name in names}
        if without_region:
            click.echo(
                f"left out, since they have no region: {', '.join(without_region)}", err=True
            )
    rows = [
        {"region": name, "interface": interface, "service": service, "url": target}
        for name, target in targets.items()
        for interface in interfaces
    ]
    if as_json:
        print_json([{**row, "command": _command(row)} for row in rows])
        return
    if in_place:
        click.echo("# First delete the regions' own endpoints of these interfaces, of no others:")
        click.echo("# uploads and the indexers need one of them in the catalog.")
        click.echo(f"#   openstack endpoint list --service {shlex.quote(service)}")
        click.echo("#   openstack endpoint delete ID")
    else:
        click.echo(shlex.join(["openstack", "region", "create", region]))
    for row in rows:
        click.echo(_command(row))


def _command(row: dict[str, str]) -> str:
    where = ["--region", row["region"], row["service"], row["interface"], row["url"]]
    return shlex.join(["openstack", "endpoint", "create", *where])


def _base_of(gateway: Gateway) -> str:
    """The gateway's base URL as its version document names it."""
    try:
        document: Any = gateway.call("GET", "/versions")
    except GatewayError as error:
        if error.problem_code != "not-found":
            raise
        raise click.UsageError(
            f"{error.detail}; --endpoint URL names the one for users, and works here"
        ) from error
    try:
        base: str = document["versions"][0]["links"][0]["href"].rstrip("/").rpartition("/")[0]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise click.UsageError(
            "what answers there has no version document of Glance: give the gateway's URL"
        ) from error
    return base


def _regions_of(gateway: Gateway) -> tuple[list[str], list[str]]:
    """The regions of the locations, and the names of locations that have none."""
    rows = gateway.call("GET", "/locations", shape=NAMED_LOCATIONS)["locations"]
    return (
        sorted({row["region"] for row in rows if row["region"]}),
        [row["name"] for row in rows if not row["region"]],
    )


def _warn_about(base: str, *, is_given: bool) -> None:
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(f"--endpoint: {base!r} is not an http or https URL")
    how = "" if is_given else ": set RESOLVER_PUBLIC_URL at the gateway, or give --endpoint"
    if is_loopback(parts.hostname):
        click.echo(f"{base} leads users to their own hosts{how}", err=True)
    elif parts.scheme == "http":
        click.echo(f"{base} is http: users' tokens are sent in the clear{how}", err=True)
