"""``glance-resolver locations discover``: finds Glance servers in Keystone's catalog."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any

import click

from resolver.cli.answer_shapes import NAMED_LOCATIONS
from resolver.cli.completing import clouds
from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options, segment
from resolver.cli.location_completing import domains
from resolver.cli.location_completing import regions as known_regions
from resolver.cli.output import print_json, print_table

MAX_NAME_CHARACTERS = 60
"""Of a location's name without its number."""

LEFT_OUT = "a glance-resolver, left out"


@click.command()
@click.option(
    "--cloud",
    required=True,
    metavar="NAME",
    shell_complete=clouds,
    help="A cloud in clouds.yaml.",
)
@click.option(
    "--interface",
    type=click.Choice(["public", "internal", "admin"]),
    default="public",
    show_default=True,
    help="Which endpoints of the catalog.",
)
@click.option(
    "--region",
    "regions",
    multiple=True,
    metavar="REGION",
    shell_complete=known_regions,
    help="Only this region; repeatable.",
)
@click.option("--name", metavar="NAME", help="Name of the location, where there is only one.")
@click.option(
    "--domain",
    default="",
    shell_complete=domains,
    help="Name of this Keystone, where locations have several.",
)
@click.option("--prefix", default="", help="Put before each name that is made from a region.")
@click.option("--yes", is_flag=True, help="Register those that are new.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def discover(
    cloud: str,
    interface: str,
    regions: Sequence[str],
    name: str | None,
    domain: str,
    prefix: str,
    yes: bool,
    as_json: bool,
    url: str,
    token: str | None,
) -> None:
    """Find the image endpoints of a cloud in its Keystone's catalog.

    Reads clouds.yaml and the catalog from here, and shows what would be registered, with that
    cloud's credential for the indexer. --yes registers it. Entries that are a glance-resolver
    themselves are left out.
    """
    gateway = Gateway(url, token)
    registered = gateway.call("GET", "/locations", shape=NAMED_LOCATIONS)["locations"]
    found = _catalog(cloud, interface)
    if unknown := set(regions) - {row["region"] for row in found}:
        listed = ", ".join(sorted({row["region"] for row in found})) or "none"
        raise click.UsageError(
            f"--region {min(unknown)}: the catalog has no {interface} image endpoint there; its "
            f"regions are: {listed}"
        )
    found = [row for row in found if not regions or row["region"] in regions]
    resolvers = asyncio.run(_resolvers([row["url"] for row in found]))
    if name and len(found) - len(resolvers) > 1:
        raise click.UsageError("--name is for one endpoint: choose it with --region, or --prefix")
    endpoints: list[dict[str, Any]] = []
    in_catalog = {row["url"] for row in found}
    for row in found:
        if row["url"] in resolvers:
            classified = {"name": "", "what": LEFT_OUT}
        else:
            wanted = name or location_name(row["region"], prefix)
            classified = classify_endpoint(
                row["url"], wanted, registered, endpoints, cloud=cloud, in_catalog=in_catalog
            )
        endpoints.append(row | classified | {"domain": domain})
    failed = [
        row for row in endpoints if yes and row["what"] == "new" and not _register(gateway, row)
    ]
    columns = ("name", "region", "interface", "url", "what")
    if as_json:
        print_json([{column: row[column] for column in columns} for row in endpoints])
    else:
        print_table(columns, ([row[column] for column in columns] for row in endpoints))
    if any(endpoint["what"] == "new" for endpoint in endpoints):
        click.echo("--yes registers those that are new", err=True)
    elif not endpoints:
        click.echo(f"the catalog has no {interface} image endpoint", err=True)
    if others := _other_keystones(cloud, domain, registered, found):
        click.echo(
            f"{others}: if their Keystones differ, name each in `domain` (discover --domain NAME, "
            "locations set NAME --domain NAME), since a user's token is good for one of them",
            err=True,
        )
    sys.exit(1 if failed else 0)


def _catalog(cloud: str, interface: str) -> list[dict[str, Any]]:
    """The image endpoints of a cloud, each with the `auth` of its location. Where clouds.yaml lists
    regions, each may have a Keystone, and so a catalog, of its own."""
    from resolver.glance.cloud_config import CloudRef, regions_of  # noqa: PLC0415
    from resolver.glance.keystone import image_endpoints  # noqa: PLC0415

    regions = regions_of(cloud)
    found: dict[str, dict[str, Any]] = {}
    for login_region in regions or [""]:
        for region, base in image_endpoints(CloudRef(cloud, login_region), interface):
            auth = {"cloud": cloud}
            if regions:
                auth["region"] = region if region in regions else login_region
            row = {"region": region, "interface": interface, "url": base, "auth": auth}
            found.setdefault(base, row)
    return sorted(found.values(), key=lambda row: (row["region"], row["url"]))


def _other_keystones(
    cloud: str, domain: str, registered: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]
) -> str:
    """The clouds whose locations count as those of one Keystone with what was found, or the regions
    of this cloud that have a Keystone each; empty if there is neither."""
    same = [row for row in registered if (row.get("domain") or "") == domain]
    clouds = {str((row.get("auth") or {}).get("cloud") or cloud) for row in same} - {cloud}
    if clouds:
        return f"locations of {', '.join(sorted(clouds))} are registered, too"
    regions = sorted({row["auth"]["region"] for row in found if "region" in row["auth"]})
    return f"{cloud} has the regions {', '.join(regions)}" if len(regions) > 1 else ""


async def _resolvers(urls: Sequence[str]) -> set[str]:
    """Those of these URLs at which a glance-resolver answers, as in a catalog that leads clients to
    it."""
    from resolver.glance import connect, is_resolver  # noqa: PLC0415
    from resolver.glance.glance_server import IS_RESOLVER_TIMEOUT_SECONDS  # noqa: PLC0415

    async with connect(IS_RESOLVER_TIMEOUT_SECONDS) as session:
        answers = await asyncio.gather(*(is_resolver(session, url) for url in urls))
    return {url for url, answer in zip(urls, answers, strict=True) if answer}


def _register(gateway: Gateway, row: dict[str, Any]) -> bool:
    """Registers an endpoint and says so in it. False if the gateway refused it."""
    body = {name: row[name] for name in ("url", "region", "domain", "auth")}
    try:
        gateway.call("PUT", f"/locations/{segment(row['name'])}", body, shape=dict)
    except GatewayError as error:
        row["what"] = f"refused: {error.detail}"
        return False
    row["what"] = "registered"
    return True


def location_name(region: str, prefix: str = "") -> str:
    """A location's name made from a region."""
    name = re.sub(r"[^a-z0-9._-]+", "-", f"{prefix}{region}".lower()).strip("-._")
    return name[:MAX_NAME_CHARACTERS] or "image"


def classify_endpoint(
    base_url: str,
    wanted: str,
    registered: Sequence[dict[str, Any]],
    earlier: Sequence[dict[str, Any]],
    *,
    cloud: str,
    in_catalog: Collection[str],
) -> dict[str, str]:
    """What an endpoint is: its ``name`` as a location and ``what`` to print about it.

    Args:
        base_url: its base URL.
        wanted: the name to give it if no other location has it.
        registered: the locations in the registry.
        earlier: the endpoints of this catalog that have got their names already.
        cloud: the cloud whose catalog it is.
        in_catalog: the base URLs of the whole catalog.
    """
    for row in [*registered, *earlier]:
        if row["url"] == base_url:
            return {"name": row["name"], "what": "there already"}
    name = wanted
    for row in registered:
        if row["name"] != wanted or row["url"] in in_catalog:
            continue
        if (row.get("auth") or {}).get("cloud", cloud) == cloud:
            # It has moved, or it is another server: the operator knows
            command = f"`locations set {wanted} --url {base_url}`"
            return {"name": wanted, "what": f"{wanted} is {row['url']}: {command}, or --prefix"}
        name = location_name(f"{cloud}-{wanted}")
    taken = {row["name"] for row in [*registered, *earlier]}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    names = itertools.chain([name], numbered)
    return {"name": next(each for each in names if each not in taken), "what": "new"}
