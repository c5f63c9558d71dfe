"""``glance-resolver locations apply``: gives the registry what a file has. The file means the same
as for ``serve --locations``."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click

from resolver.cli.answer_shapes import ANY
from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options
from resolver.cli.output import confirm, counted, print_json, shown
from resolver.errors import IndexLost, IndexUnavailable, ResolverError
from resolver.models import LOCATION_FIELDS

BATCH_SIZE = 1000
"""Changes that are sent in one request. The gateway checks all of them before it makes one."""

Fields = dict[str, Any]
"""The fields of one location, by name."""

Change = dict[str, Any]
"""One change to the registry: ``what`` (add, change or remove), ``location`` (its name),
``changed`` (old and new value by field), ``fields`` (what the file has, as it is sent; None for a
removal)."""

UNCERTAIN_CODES = frozenset({GatewayError.code, IndexLost.code, IndexUnavailable.code})
"""Of errors after which some changes of a request may have been made: no answer came, or Redis
failed on the way."""

MAX_KEPT_NAMED = 8
"""Locations whose fields outside the file are named."""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show the difference, have the gateway check it, and change nothing.",
)
@click.option("--prune", is_flag=True, help="Remove locations that are not in FILE.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
@gateway_options
def apply(
    file: str, dry_run: bool, prune: bool, yes: bool, as_json: bool, url: str, token: str | None
) -> None:
    """Register the locations of a YAML FILE, as `serve --locations` does.

    Fields that it leaves out stay as they are; of a new location they get their defaults. Shows the
    difference and asks. Safe to repeat. config/locations.example.yaml is an example.
    """
    from resolver.registry.yaml_file import read_locations  # noqa: PLC0415

    gateway = Gateway(url, token)
    registered = _registered(gateway)
    wanted = read_locations(file, may_be_pipe=True)
    changes = difference(wanted, registered, prune=prune)
    unlisted = [] if prune else sorted(registered.keys() - wanted.keys())
    if as_json:
        print_json(changes)
    else:
        for change in changes:
            click.echo(_describe(change))
        if kept := kept_fields(wanted, registered):
            click.echo(f"kept, not in {file}: {_describe_kept(kept)}")
        if unlisted:
            click.echo(f"unchanged, not in {file}: {', '.join(unlisted)} (--prune removes them)")
    _warn_of_same_urls(wanted, registered)
    if not changes:
        click.echo("nothing to change", err=as_json)
        return
    if dry_run:
        _make(gateway, changes, file, dry_run=True)
        return
    if not (yes or confirm(f"make {counted(len(changes), 'change')} at {url}?")):
        raise ResolverError("nothing was changed; --yes does it without asking")
    _make(gateway, changes, file)
    click.echo(f"{counted(len(changes), 'change')} made", err=as_json)


def _warn_of_same_urls(wanted: dict[str, Fields], registered: dict[str, Fields]) -> None:
    """Says so where a location of the file has the URL of another one."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, fields in {**registered, **wanted}.items():
        names[str(fields["url"]).rstrip("/")].append(name)
    for url, same in names.items():
        if len(same) > 1 and not wanted.keys().isdisjoint(same):
            click.echo(f"{', '.join(same)}: all are {url}: each image counts as several", err=True)


def _registered(gateway: Gateway) -> dict[str, Fields]:
    """The locations that are registered, by name: none where Redis has lost them."""
    try:
        shape = {"locations": [{"name": str, **dict.fromkeys(LOCATION_FIELDS, ANY)}]}
        rows = gateway.call("GET", "/locations", shape=shape)["locations"]
    except GatewayError as error:
        if error.problem_code != "index-lost":
            raise
        click.echo("Redis has lost all locations: they are registered again", err=True)
        return {}
    return {row["name"]: row for row in rows}


def _make(gateway: Gateway, changes: list[Change], file: str, *, dry_run: bool = False) -> None:
    """Makes the changes, up to `BATCH_SIZE` with one request; or has the gateway check them, as far
    as it lets this token.

    Raises:
        GatewayError: the gateway refused some. Its text counts those that were made before.
    """
    from rich.console import Console  # noqa: PLC0415 - only if something is changed
    from rich.progress import track  # noqa: PLC0415

    batches = [changes[n : n + BATCH_SIZE] for n in range(0, len(changes), BATCH_SIZE)]
    console = Console(stderr=True)
    progress = track(
        batches,
        "checking locations" if dry_run else "changing locations",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    done = 0
    for batch in progress:
        removals = [change["location"] for change in batch if change["what"] == "remove"]
        puts = {
            change["location"]: change["fields"] for change in batch if change["what"] != "remove"
        }
        try:
            body = {"put": puts, "remove": removals, "keep_other_fields": True}
            body |= {"dry_run": True} if dry_run else {}
            gateway.call("POST", "/locations", body, shape=dict)
        except GatewayError as error:
            if dry_run and error.problem_code in ("wrong-role", "read-only-token"):
                click.echo(f"the gateway did not check it: {error.detail}", err=True)
                return
            if dry_run:
                raise
            made = f"{done} of {len(changes)} changes are made"
            if error.problem_code in UNCERTAIN_CODES:
                made += f", and perhaps some of {len(batch)} more: apply {file} again"
            else:
                made += f": correct {file} and apply it again"
            raise GatewayError(f"{error.detail}; {made}") from error
        done += len(batch)


def difference(
    wanted: dict[str, Fields], registered: dict[str, Fields], *, prune: bool
) -> list[Change]:
    """The changes that give the registry the wanted fields, in the order to make them.

    Removals come last, so that an image that moves keeps an owner. Only a location whose queue of
    notifications another one takes over is removed first, as two cannot have the same queue.
    """
    changes: list[Change] = []
    for name, given in wanted.items():
        fields = {field: value for field, value in _normal(name, given).items() if field in given}
        if name not in registered:
            changes.append({"what": "add", "location": name, "changed": {}, "fields": fields})
            continue
        before = registered[name]
        changed = {
            field: [before[field], value]
            for field, value in fields.items()
            if before[field] != value
        }
        if "url" in changed:  # another server gets no credential that is not given with its URL
            lost = ("auth", "sees_all") if before["auth"] and "auth" not in fields else ()
            changed |= {
                field: [before[field], None]
                for field in lost
                if field not in fields and before[field] is not None
            }
        if changed:
            changes.append(
                {"what": "change", "location": name, "changed": changed, "fields": fields}
            )
    queues = [change["fields"].get("notifications") for change in changes]
    first: list[Change] = []
    last: list[Change] = []
    for name in sorted(registered.keys() - wanted.keys()) if prune else ():
        removal: Change = {"what": "remove", "location": name, "changed": {}, "fields": None}
        queue = registered[name]["notifications"]
        (first if queue and queue in queues else last).append(removal)
    return [*first, *changes, *last]


def kept_fields(wanted: dict[str, Fields], registered: dict[str, Fields]) -> dict[str, list[str]]:
    """The fields of wanted locations that somebody has set and the file does not have, by name."""
    kept = {}
    for name in wanted.keys() & registered.keys():
        defaults = _normal(name, {"url": wanted[name]["url"]})
        names = [
            field
            for field, default in defaults.items()
            if field not in wanted[name] and registered[name][field] != default
        ]
        if names:
            kept[name] = names
    return kept


def _normal(name: str, fields: Fields) -> Fields:
    """All fields of a location as they are stored, with defaults where none are given."""
    from resolver.registry.presentation import fields_of  # noqa: PLC0415
    from resolver.registry.validation import parse_location  # noqa: PLC0415

    return fields_of(parse_location(name, fields))


def _describe_kept(kept: dict[str, list[str]]) -> str:
    named = [f"{name} ({', '.join(fields)})" for name, fields in sorted(kept.items())]
    more = f" and {len(named) - MAX_KEPT_NAMED} more" if len(named) > MAX_KEPT_NAMED else ""
    return ", ".join(named[:MAX_KEPT_NAMED]) + more


def _describe(change: Change) -> str:
    name, fields = change["location"], change["fields"]
    if change["what"] == "remove":
        return f"- {name}"
    if change["what"] == "add":
        given = [f"{field}: {shown(value)}" for field, value in fields.items() if field != "url"]
        return "; ".join([f"+ {name}  {fields['url']}", *given])
    text = "; ".join(
        f"{field}: {shown(old) or 'none'} -> {shown(new) or 'none'}"
        for field, (old, new) in change["changed"].items()
    )
    note = " (another server: its claims are discarded)" if "url" in change["changed"] else ""
    return f"~ {name}  {text}{note}"
