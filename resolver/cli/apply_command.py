"""``glance-resolver locations apply``: makes the registry equal to a file."""

from __future__ import annotations

from typing import Any

import click

from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options
from resolver.cli.output import confirm, print_json, shown
from resolver.errors import ResolverError

BATCH_SIZE = 1000
"""Changes that are sent in one request. The gateway checks all of them before it makes one."""

Fields = dict[str, Any]
"""The fields of one location, by name."""

Change = dict[str, Any]
"""One change to the registry: ``what`` (add, change or remove), ``location`` (its name),
``changed`` (old and new value by field), ``fields`` (all to register; None for a removal); of what
is added also ``given``, the names of the fields in the file."""


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
    """Make the registry equal to a YAML FILE. Fields that it leaves out get their defaults.

    Shows the difference and asks. Safe to repeat. config/locations.example.yaml is an example.
    """
    from resolver.registry.yaml_file import read_locations  # noqa: PLC0415

    gateway = Gateway(url, token)
    registered = _registered(gateway)
    wanted = read_locations(file)
    changes = difference(wanted, registered, prune=prune)
    unlisted = [] if prune else sorted(registered.keys() - wanted.keys())
    if as_json:
        print_json(changes)
    else:
        for change in changes:
            click.echo(_describe(change))
        if unlisted:
            click.echo(f"unchanged, not in {file}: {', '.join(unlisted)} (--prune removes them)")
    if not changes:
        click.echo("nothing to change", err=as_json)
        return
    if dry_run:
        return
    if not (yes or confirm(f"make {len(changes)} changes at {url}?")):
        raise ResolverError("nothing was changed; --yes does it without asking")
    _make(gateway, changes, file)
    click.echo(f"{len(changes)} changes made", err=as_json)


def _registered(gateway: Gateway) -> dict[str, Fields]:
    """The locations that are registered, by name: none where Redis has lost them."""
    try:
        rows = gateway.call("GET", "/locations")["locations"]
    except GatewayError as error:
        if error.problem_code != "index-lost":
            raise
        click.echo("Redis has lost all locations: they are registered again", err=True)
        return {}
    return {row["name"]: row for row in rows}


def _make(gateway: Gateway, changes: list[Change], file: str) -> None:
    """Makes the changes, up to `BATCH_SIZE` with one request.

    Raises:
        GatewayError: the gateway refused some. Its text counts those that were made before.
    """
    from rich.console import Console  # noqa: PLC0415 - only if something is changed
    from rich.progress import track  # noqa: PLC0415

    batches = [changes[n : n + BATCH_SIZE] for n in range(0, len(changes), BATCH_SIZE)]
    console = Console(stderr=True)
    shown = track(
        batches,
        "changing locations",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    done = 0
    for batch in shown:
        removals = [change["location"] for change in batch if change["what"] == "remove"]
        puts = {
            change["location"]: change["fields"] for change in batch if change["what"] != "remove"
        }
        try:
            gateway.call("POST", "/locations", {"put": puts, "remove": removals})
        except GatewayError as error:
            raise GatewayError(
                f"{error.detail}; {done} of {len(changes)} changes are made: correct {file} and "
                "apply it again"
            ) from error
        done += len(batch)


def difference(
    wanted: dict[str, Fields], registered: dict[str, Fields], *, prune: bool
) -> list[Change]:
    """The changes that make the registry as wanted, in the order to make them.

    Removals come last, so that an image that moves keeps an owner. Only a location whose queue of
    notifications another one takes over is removed first, as two cannot have the same queue.
    """
    from resolver.registry.presentation import fields_of  # noqa: PLC0415
    from resolver.registry.validation import parse_location  # noqa: PLC0415

    changes: list[Change] = []
    for name, given in wanted.items():
        fields = fields_of(parse_location(name, given))
        if name not in registered:
            changes.append(
                {
                    "what": "add",
                    "location": name,
                    "changed": {},
                    "fields": fields,
                    "given": [field for field in fields if field in given],
                }
            )
            continue
        changed = {
            field: [registered[name][field], value]
            for field, value in fields.items()
            if registered[name][field] != value
        }
        if changed:
            changes.append(
                {"what": "change", "location": name, "changed": changed, "fields": fields}
            )
    queues = [change["fields"]["notifications"] for change in changes]
    first: list[Change] = []
    last: list[Change] = []
    for name in sorted(registered.keys() - wanted.keys()) if prune else ():
        removal: Change = {"what": "remove", "location": name, "changed": {}, "fields": None}
        queue = registered[name]["notifications"]
        (first if queue and queue in queues else last).append(removal)
    return [*first, *changes, *last]


def _describe(change: Change) -> str:
    name, fields = change["location"], change["fields"]
    if change["what"] == "remove":
        return f"- {name}"
    if change["what"] == "add":
        # All that was given: what has its default is not of interest.
        given = [f"{field}: {shown(fields[field])}" for field in change["given"] if field != "url"]
        return "; ".join([f"+ {name}  {fields['url']}", *given])
    text = "; ".join(
        f"{field}: {shown(old) or 'none'} -> {shown(new) or 'none'}"
        for field, (old, new) in change["changed"].items()
    )
    note = " (another server: its claims are discarded)" if "url" in change["changed"] else ""
    return f"~ {name}  {text}{note}"
