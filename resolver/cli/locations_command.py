"""``glance-resolver locations``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import click

from resolver.cli.ages import age
from resolver.cli.answer_shapes import (
    CHANGES,
    DIAGNOSIS,
    LOCATION,
    LOCATION_TO_REMOVE,
    LOCATIONS,
    STATUS,
    WRITTEN_LOCATION,
)
from resolver.cli.apply_command import apply
from resolver.cli.completing import clouds, files, one_of
from resolver.cli.discover_command import discover
from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options, segment
from resolver.cli.location_completing import (
    domains,
    existing_location,
    location_names,
    regions,
)
from resolver.cli.output import (
    Column,
    Output,
    confirm,
    counted,
    health_text,
    output_options,
    print_fields,
    print_json,
    print_table,
    shown,
)
from resolver.cli.suggesting_group import SuggestingGroup
from resolver.cli.sweep_command import sweep
from resolver.errors import LocationNotFound, NameTaken, ResolverError


@click.group(cls=SuggestingGroup)
def locations() -> None:
    """List and change the locations."""


def _path(name: str) -> str:
    return f"/locations/{segment(name)}"


def _field_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options for a location's fields. The command passes them to `_body`."""
    options = (
        click.option(
            "--public-url",
            metavar="URL",
            help="Base URL that clients are sent to; by default the same.",
        ),
        click.option("--region", shell_complete=regions, help="Region that its images are in."),
        click.option(
            "--networks",
            metavar="NETWORKS",
            help="Networks whose clients prefer its region, comma-separated.",
        ),
        click.option(
            "--domain",
            shell_complete=domains,
            help="Name of the Keystone that its tokens come from.",
        ),
        click.option("--api", type=click.Choice(["auto", "v1", "v2"]), help="Glance API to use."),
        click.option("--priority", type=int, help="Lower comes first; 100 by default."),
        click.option("--weight", type=int, help="Share among owners of equal rank; 1 by default."),
        click.option(
            "--rate",
            type=float,
            help="Requests a second that the server allows; 0: no limit.",
        ),
        click.option(
            "--vouches",
            type=bool,
            metavar="true|false",
            shell_complete=one_of("true", "false"),
            help="false: its silence does not keep the others from proving that an image is "
            "absent.",
        ),
        click.option(
            "--state",
            type=click.Choice(["active", "draining", "maintenance"]),
            help="Draining: the last resort. Maintenance: never offered.",
        ),
        click.option("--reason", help="Why it is in that state; shown to clients."),
        click.option(
            "--sees-all",
            type=click.Choice(["yes", "no", "auto"]),
            help="Whether its credential sees every image; auto: sweeps find out.",
        ),
        click.option(
            "--token-env",
            metavar="VAR",
            help="Environment variable of gateways and indexers that has the token.",
        ),
        click.option(
            "--token-file",
            metavar="FILE",
            shell_complete=files,
            help="File of gateways and indexers that has the token.",
        ),
        click.option(
            "--cloud",
            metavar="NAME",
            shell_complete=clouds,
            help="Cloud in clouds.yaml of gateways and indexers to log in to.",
        ),
        click.option(
            "--cloud-region",
            metavar="REGION",
            shell_complete=regions,
            help="Region of that cloud, if it has several with a Keystone each.",
        ),
        click.option("--no-auth", is_flag=True, help="The location needs no token."),
        click.option(
            "--broker-env",
            metavar="VAR",
            help="Environment variable of the indexer that has the URL of its RabbitMQ.",
        ),
        click.option(
            "--broker-file",
            metavar="FILE",
            shell_complete=files,
            help="File of the indexer that has the URL of its RabbitMQ.",
        ),
        click.option("--no-notifications", is_flag=True, help="Do not read its notifications."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _body(
    networks: str | None,
    sees_all: str | None,
    token_env: str | None,
    token_file: str | None,
    cloud: str | None,
    cloud_region: str | None,
    no_auth: bool,
    broker_env: str | None,
    broker_file: str | None,
    no_notifications: bool,
    **other_fields: Any,
) -> dict[str, Any]:
    """The fields that the options of `_field_options` give, as the API takes them.

    Raises:
        click.UsageError: options exclude each other.
    """
    body = {name: value for name, value in other_fields.items() if value is not None}
    if networks is not None:
        body["networks"] = [item.strip() for item in networks.split(",") if item.strip()]
    if sees_all:
        body["sees_all"] = {"yes": True, "no": False, "auto": None}[sees_all]
    auth = {"token_env": token_env, "token_file": token_file, "cloud": cloud}
    given = {kind: value for kind, value in auth.items() if value}
    if len(given) + no_auth > 1:
        raise click.UsageError("give one of --token-env, --token-file, --cloud and --no-auth")
    if cloud_region and not cloud:
        raise click.UsageError("--cloud-region is a region of --cloud: give both")
    if cloud_region:
        given["region"] = cloud_region
    if given or no_auth:
        body["auth"] = given or None
    broker = {"url_env": broker_env, "url_file": broker_file}
    given = {kind: value for kind, value in broker.items() if value}
    if len(given) + no_notifications > 1:
        raise click.UsageError("give one of --broker-env, --broker-file and --no-notifications")
    if given or no_notifications:
        body["notifications"] = given or None
    return body


LOCATION_COLUMNS = (
    Column("name", lambda row: row["name"]),
    Column("region", lambda row: row["region"], is_optional=True),
    Column("state", lambda row: "refused" if row.get("refused") else row["state"]),
    Column("health", lambda row: health_text(row["health"])),
    Column("covered", lambda row: row["coverage"]["covered"]),
    Column("images", lambda row: row["sweep"]["images"], is_optional=True),
    Column("swept", lambda row: _describe_sweeps(row["sweep"])),
    Column("url", lambda row: row["url"], is_optional=True),
    Column("why", lambda row: row["coverage"]["why"], is_wide=True),
    Column("reason", lambda row: row["reason"], is_wide=True),
    Column("priority", lambda row: row["priority"], is_wide=True),
    Column("weight", lambda row: row["weight"], is_wide=True),
    Column("auth", lambda row: row["auth"], is_wide=True),
)


def _describe_sweeps(sweep: dict[str, Any]) -> str:
    """When the last complete sweep ended; or that sweeps fail, and why."""
    if sweep["error"]:
        return f"failing: {sweep['error_code']}"
    return f"{age(sweep['ended'])} ago" if sweep["ended"] else "never"


@locations.command("list")
@output_options(LOCATION_COLUMNS)
@gateway_options
def list_(output: Output, url: str, token: str | None) -> None:
    """List all locations."""
    rows = Gateway(url, token).call("GET", "/locations", shape=LOCATIONS)["locations"]
    if not rows and output.form in ("table", "wide"):
        click.echo("no locations: add one with `glance-resolver locations add NAME URL`", err=True)
        return
    output.print(rows, LOCATION_COLUMNS)


@locations.command()
@existing_location
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def show(name: str, as_json: bool, url: str, token: str | None) -> None:
    """Show a location, its health and its coverage."""
    row = Gateway(url, token).call("GET", _path(name), shape=LOCATION)
    if as_json:
        print_json(row)
        return
    health, coverage, sweep = row["health"], row["coverage"], row["sweep"]
    serves = "not known yet" if row["serves"] is None else ", ".join(row["serves"])
    running = sweep["running"]
    print_fields(
        (
            *((field, row[field]) for field in ("name", "url")),
            ("public url", row["public_url"] or "the same"),
            ("region", row["region"]),
            ("networks", ", ".join(row["networks"]) or "none"),
            ("domain", row["domain"] or "none"),
            ("api", f"{row['api']} (serves {serves})"),
            ("state", f"{row['state']} {row['reason']}".strip()),
            *([("refused", row["refused"])] if row.get("refused") else []),
            ("priority", row["priority"]),
            ("weight", row["weight"]),
            ("rate", row["rate"] or "no limit"),
            ("vouches", "yes" if row["vouches"] else "no: its silence does not count"),
            ("auth", row["auth"] or "none"),
            ("health", _describe_health(health)),
            ("notifications", row["notifications"] or "none"),
            ("covered", f"{'yes' if coverage['covered'] else 'no'}: {coverage['why']}"),
            *((source, coverage[source]) for source in ("poll", "events", "credential")),
            ("images", sweep["images"]),
            *(
                [("skipped rows", f"{sweep['skipped']}: {sweep['skipped_examples']}")]
                if sweep["skipped"]
                else []
            ),
            ("swept", _describe_end(sweep["ended"])),
            ("sweeping", f"{running['images']} images so far" if running else "no"),
            ("last error", sweep["error"] or "none"),
            *(
                ("changed", f"{change['at']} {change['state']} {change['reason']}".strip())
                for change in health["history"]
            ),
        )
    )


def _describe_end(ended: str | None) -> str:
    return f"{ended} ({age(ended)} ago)" if ended else "never"


def _describe_health(health: dict[str, Any]) -> str:
    text = f"{health['state']} {health['reason']}".strip()
    return text if health["current"] else f"{text} (at {health['at']}: no indexer is running)"


@locations.command()
@click.argument("name")
@click.argument("base_url", metavar="URL")
@_field_options
@gateway_options
def add(name: str, base_url: str, url: str, token: str | None, **fields: Any) -> None:
    """Register the Glance server at URL as NAME, which must not be taken."""
    body = {"url": base_url, **_body(**fields)}
    gateway = Gateway(url, token)
    try:
        row = gateway.call(
            "PUT", _path(name), body, headers={"If-None-Match": "*"}, shape=WRITTEN_LOCATION
        )
    except GatewayError as error:
        if error.problem_code != NameTaken.code:
            raise
        raise GatewayError(
            f"{error}: change it with `locations set {name} --url …`, or give another name"
        ) from error
    click.echo(
        f"{row['name']} is {row['url']}; `locations show {name}` shows the progress of its sweep, "
        f"`locations check {name}` tests it"
    )
    _warn_of_same_url(gateway, row)


def _warn_of_same_url(gateway: Gateway, row: dict[str, Any]) -> None:
    """Says so if another location has the URL of this one."""
    rows = []
    with suppress(GatewayError):  # it is written anyway
        rows = gateway.call("GET", "/locations", shape=LOCATIONS)["locations"]
    if same := [r["name"] for r in rows if r["url"] == row["url"] and r["name"] != row["name"]]:
        click.echo(
            f"{', '.join(same)} has the same URL, so that each image counts as two: "
            f"`locations remove {row['name']}` undoes this",
            err=True,
        )


@locations.command("set")
@existing_location
@click.option(
    "--url",
    "base_url",
    metavar="URL",
    help="Another base URL. That is another server, so all claims are discarded.",
)
@_field_options
@gateway_options
def set_(name: str, base_url: str | None, url: str, token: str | None, **fields: Any) -> None:
    """Change fields of a location. Another --state without --reason removes the old reason."""
    body = {**({"url": base_url} if base_url else {}), **_body(**fields)}
    if not body:
        raise click.UsageError("give at least one option to change")
    if "state" in body:
        body.setdefault("reason", "")  # the old reason was for the old state
    gateway = Gateway(url, token)
    row = gateway.call("PATCH", _path(name), body, shape=WRITTEN_LOCATION)
    click.echo(f"{name}: changed {', '.join(body)}")
    if base_url:
        _warn_of_same_url(gateway, row)
    if body.get("auth") or base_url:
        click.echo(f"`locations check {name}` tests it", err=True)
    if base_url and "auth" not in body and not row["auth"]:
        click.echo(
            "Another URL has no credential unless one is given: see --cloud, --token-file and "
            "--token-env.",
            err=True,
        )


@locations.command()
@existing_location
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def check(name: str, as_json: bool, url: str, token: str | None) -> None:
    """Test a location and show what to fix.

    The gateway tests it from end to end. Exits 1 if there is something to fix.
    """
    diagnosis = Gateway(url, token).call("POST", _path(name) + "/check", shape=DIAGNOSIS)
    if as_json:
        print_json(diagnosis)
    else:
        steps = diagnosis["steps"]
        print_table(
            ("step", "ok", "result"),
            ((step["step"], "yes" if step["ok"] else "no", step["said"]) for step in steps),
        )
        for step in steps:
            if step["fix"]:
                click.echo(f"{step['step']}: {step['fix']}")
    sys.exit(0 if diagnosis["ok"] else 1)


@locations.command()
@existing_location
@click.option("--yes", is_flag=True, help="Do not ask.")
@gateway_options
def remove(name: str, yes: bool, url: str, token: str | None) -> None:
    """Remove a location. Its images stop resolving to it at once."""
    gateway = Gateway(url, token)
    try:
        row = gateway.call("GET", _path(name), shape=LOCATION_TO_REMOVE)
        what = f"{row['url']}, {counted(row['sweep']['images'], 'image')}"
    except GatewayError as error:
        if error.problem_code != LocationNotFound.code or not _is_lost(gateway, name):
            raise
        what = "its record is lost"
    question = f"remove {name} ({what})?"
    if not (yes or confirm(question)):
        raise ResolverError("nothing was removed; --yes does it without asking")
    gateway.change("DELETE", _path(name))
    click.echo(f"{name}: removed")


def _is_lost(gateway: Gateway, name: str) -> bool:
    """Whether Redis has lost a location: it has no record, and can still be removed."""
    problems = gateway.call("GET", "/status", shape=STATUS)["problems"]
    return any(p["code"] == "location-lost" and p["location"] == name for p in problems)


def _change(entry: dict[str, Any]) -> str:
    """The changed fields of an entry, or the URL of a location that was added or removed."""
    before, after = entry["before"], entry["after"]
    if detail := entry.get("detail"):
        return str(detail)
    if before and after:
        return "; ".join(
            f"{name}: {shown(before.get(name)) or 'none'} -> {shown(after[name]) or 'none'}"
            for name in after
        )
    return str((before or after or {}).get("url", ""))


LOG_COLUMNS = (
    Column("when", lambda entry: f"{entry['at'][:10]} {entry['at'][11:19]}Z"),
    Column("by", lambda entry: entry["by"] or "at start"),
    Column("what", lambda entry: entry["what"]),
    Column("location", lambda entry: entry["location"]),
    Column("change", _change),
)


@locations.command()
@click.argument("name", required=False, default="", shell_complete=location_names)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many."
)
@output_options(LOG_COLUMNS)
@gateway_options
def log(name: str, limit: int, output: Output, url: str, token: str | None) -> None:
    """Show who changed what and when. Newest first; of NAME, or of all locations."""
    query = urlencode({"limit": limit, "location": name} if name else {"limit": limit})
    gateway = Gateway(url, token)
    changes = gateway.call("GET", f"/audit?{query}", shape=CHANGES)["changes"]
    if name and not changes:
        gateway.call("GET", _path(name))  # says what was meant, if there is no such location
    output.print(changes, LOG_COLUMNS)


for command in (apply, discover, sweep):
    locations.add_command(command)
