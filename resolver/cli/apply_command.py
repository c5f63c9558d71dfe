"""``glance-resolver locations apply`` and ``discover``: many locations at once."""

from __future__ import annotations

import itertools
import re
from typing import Any

import click

from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options, segment
from resolver.cli.output import print_json, print_table
from resolver.errors import ResolverError


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--prune", is_flag=True, help="Remove locations that are not in FILE.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
@gateway_options
def apply(
    file: str, dry_run: bool, prune: bool, yes: bool, as_json: bool, url: str, token: str | None
) -> None:
    """Make the registry equal to a YAML FILE: what it does not say of a location is the default.

    Shows the difference and asks. Safe to repeat. config/locations.example.yaml shows a file.
    """
    from resolver.registry.yaml_file import read_locations  # noqa: PLC0415

    gateway = Gateway(url, token)
    there = {row["name"]: row for row in gateway.call("GET", "/locations")["locations"]}
    wanted = read_locations(file)
    changes = difference(wanted, there, prune=prune)
    left = [] if prune else sorted(there.keys() - wanted.keys())
    if as_json:
        print_json(changes)
    else:
        for change in changes:
            click.echo(_line(change))
        if left:
            click.echo(f"left alone, not in {file}: {', '.join(left)} (--prune removes them)")
    if not changes:
        click.echo("nothing to change", err=as_json)
        return
    if dry_run:
        return
    if not (yes or _agreed(f"make {len(changes)} changes at {url}?")):
        raise ResolverError("nothing was changed; --yes does it without asking")
    for done, change in enumerate(changes):
        path = f"/locations/{segment(change['location'])}"
        try:
            if change["what"] == "remove":
                gateway.call("DELETE", path)
            else:
                gateway.call("PUT", path, change["fields"])
        except GatewayError as error:
            raise GatewayError(
                f"{change['location']}: {error.detail}; {done} of {len(changes)} changes are made: "
                f"correct {file} and apply it again"
            ) from error
    click.echo(f"{len(changes)} changes made", err=as_json)


def _agreed(question: str) -> bool:
    """Whether somebody says yes; no where nobody is there to be asked."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def difference(
    wanted: dict[str, dict[str, Any]], there: dict[str, dict[str, Any]], *, prune: bool
) -> list[dict[str, Any]]:
    """What to do so that the registry is as wanted: removals last, so that none is missed, but for
    those whose notifications another location takes over."""
    from dataclasses import asdict  # noqa: PLC0415

    from resolver.models import LOCATION_FIELDS  # noqa: PLC0415
    from resolver.registry.validation import parse_location  # noqa: PLC0415

    changes: list[dict[str, Any]] = []
    for name, given in wanted.items():
        whole = asdict(parse_location(name, given))
        fields = {field: whole[field] for field in LOCATION_FIELDS}
        if name not in there:
            changes.append({"what": "add", "location": name, "changed": {}, "fields": fields})
            continue
        changed = {
            field: [there[name][field], value]
            for field, value in fields.items()
            if there[name][field] != value
        }
        if changed:
            changes.append(
                {"what": "change", "location": name, "changed": changed, "fields": fields}
            )
    taken = [change["fields"]["notifications"] for change in changes]
    gone: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for name in sorted(there.keys() - wanted.keys()) if prune else ():
        heir = bool(there[name]["notifications"]) and there[name]["notifications"] in taken
        gone[heir].append({"what": "remove", "location": name, "changed": {}, "fields": None})
    return [*gone[True], *changes, *gone[False]]


def _line(change: dict[str, Any]) -> str:
    name, fields = change["location"], change["fields"]
    if change["what"] == "remove":
        return f"- {name}"
    if change["what"] == "add":
        return f"+ {name}  {fields['url']}"
    told = "; ".join(f"{field}: {old} -> {new}" for field, (old, new) in change["changed"].items())
    anew = " (another server: its claims begin anew)" if "url" in change["changed"] else ""
    return f"~ {name}  {told}{anew}"


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

    Reads clouds.yaml and the catalog here, and shows what would be registered, with that cloud's
    credential for the indexer. --yes registers it.
    """
    from resolver.glance.keystone import image_endpoints  # noqa: PLC0415

    gateway = Gateway(url, token)
    there = gateway.call("GET", "/locations")["locations"]
    rows: list[dict[str, Any]] = []
    for region, base in image_endpoints(cloud, interface):
        row = {"region": region, "interface": interface, "url": base}
        rows.append(row | standing(region, base, [*there, *rows]))
    for row in rows:
        if yes and row["what"] == "new":
            body = {"url": row["url"], "region": row["region"], "auth": {"cloud": cloud}}
            gateway.call("PUT", f"/locations/{row['name']}", body)
            row["what"] = "registered"
    if as_json:
        print_json(rows)
    else:
        columns = ("name", "region", "interface", "url", "what")
        print_table(columns, ([row[column] for column in columns] for row in rows))
    if any(row["what"] == "new" for row in rows):
        click.echo("--yes registers those that are new", err=True)
    elif not rows:
        click.echo(f"the catalog has no {interface} image endpoint", err=True)


def standing(region: str, base: str, there: list[dict[str, Any]]) -> dict[str, str]:
    """The name that an endpoint has, or would get, and what it is to the registry and to the
    endpoints before it, which are rows with ``what``."""
    for row in there:
        if row["url"] == base:
            return {"name": row["name"], "what": "there already"}
    name = re.sub(r"[^a-z0-9._-]+", "-", region.lower()).strip("-._")[:60] or "image"
    for row in there:
        if row["name"] == name and "what" not in row:
            return {
                "name": name,
                "what": f"{name} is {row['url']}: `locations set {name} --base-url {base}`",
            }
    names = {row["name"] for row in there}
    others = (f"{name}-{number}" for number in itertools.count(2))
    free = next(one for one in itertools.chain([name], others) if one not in names)
    return {"name": free, "what": "new"}
