"""``glance-resolver locations discover``: finds Glance servers in Keystone's catalog."""

from __future__ import annotations

import itertools
import re
from typing import Any

import click

from resolver.cli.gateway_client import Gateway, gateway_options
from resolver.cli.output import print_json, print_table

MAX_NAME_CHARACTERS = 60
"""Of the region, in a location's name; leaves space for a number."""


@click.command()
@click.option("--cloud", required=True, metavar="NAME", help="A cloud in clouds.yaml.")
@click.option(
    "--interface",
    type=click.Choice(["public", "internal", "admin"]),
    default="public",
    show_default=True,
    help="Which endpoints of the catalog.",
)
@click.option("--yes", is_flag=True, help="Register those that are new.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def discover(
    cloud: str, interface: str, yes: bool, as_json: bool, url: str, token: str | None
) -> None:
    """Find the image endpoints of a cloud in its Keystone's catalog.

    Reads clouds.yaml and the catalog from here, and shows what would be registered, with that
    cloud's credential for the indexer. --yes registers it.
    """
    from resolver.glance.cloud_config import CloudRef  # noqa: PLC0415
    from resolver.glance.keystone import image_endpoints  # noqa: PLC0415

    gateway = Gateway(url, token)
    registered = gateway.call("GET", "/locations")["locations"]
    endpoints: list[dict[str, Any]] = []
    for region, base_url in image_endpoints(CloudRef(cloud), interface):
        endpoint = {"region": region, "interface": interface, "url": base_url}
        endpoints.append(endpoint | classify_endpoint(region, base_url, registered, endpoints))
    for endpoint in endpoints:
        if yes and endpoint["what"] == "new":
            body = {"url": endpoint["url"], "region": endpoint["region"], "auth": {"cloud": cloud}}
            gateway.call("PUT", f"/locations/{endpoint['name']}", body)
            endpoint["what"] = "registered"
    if as_json:
        print_json(endpoints)
    else:
        columns = ("name", "region", "interface", "url", "what")
        print_table(columns, ([row[column] for column in columns] for row in endpoints))
    if any(endpoint["what"] == "new" for endpoint in endpoints):
        click.echo("--yes registers those that are new", err=True)
    elif not endpoints:
        click.echo(f"the catalog has no {interface} image endpoint", err=True)


def classify_endpoint(
    region: str,
    base_url: str,
    registered: list[dict[str, Any]],
    earlier: list[dict[str, Any]],
) -> dict[str, str]:
    """What an endpoint is: its ``name`` as a location and ``what`` to print about it.

    Args:
        region: the endpoint's region.
        base_url: its base URL.
        registered: the locations in the registry.
        earlier: the endpoints of this catalog that have got their names already.
    """
    for row in [*registered, *earlier]:
        if row["url"] == base_url:
            return {"name": row["name"], "what": "there already"}
    name = re.sub(r"[^a-z0-9._-]+", "-", region.lower()).strip("-._")[:MAX_NAME_CHARACTERS]
    name = name or "image"
    for row in registered:
        if row["name"] == name:
            command = f"`locations set {name} --base-url {base_url}`"
            return {"name": name, "what": f"{name} is {row['url']}: {command}"}
    taken = {row["name"] for row in [*registered, *earlier]}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    candidates = itertools.chain([name], numbered)
    return {"name": next(each for each in candidates if each not in taken), "what": "new"}
