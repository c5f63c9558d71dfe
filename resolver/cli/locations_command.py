"""``glance-resolver locations``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import click

from resolver.cli.apply_command import apply, discover
from resolver.cli.completion_command import location_names
from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options, segment
from resolver.cli.output import print_fields, print_json, print_table

POLL = 0.5
"""Seconds between two looks at a sweep that is waited for."""


existing = click.argument("name", shell_complete=location_names)
"""The name of a location that is there."""


@click.group()
def locations() -> None:
    """List and change the locations."""


def _path(name: str) -> str:
    return f"/locations/{segment(name)}"


def _fields(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a location."""
    options = (
        click.option("--region", help="Region that its images are in."),
        click.option("--api", type=click.Choice(["auto", "v1", "v2"]), help="API to use it with."),
        click.option("--priority", type=int, help="Lower is offered first; 100 if not given."),
        click.option("--weight", type=int, help="Share among equals; 1 if not given."),
        click.option("--state", type=click.Choice(["active", "draining", "maintenance"])),
        click.option("--reason", help="Why it is in that state; shown to clients."),
        click.option(
            "--sees-all",
            type=click.Choice(["yes", "no", "auto"]),
            help="Whether its credential sees every image.",
        ),
        click.option(
            "--token-env", metavar="VAR", help="The indexer's environment variable with the token."
        ),
        click.option("--token-file", metavar="FILE", help="The indexer's file with the token."),
        click.option(
            "--cloud", metavar="NAME", help="The cloud in the indexer's clouds.yaml to log in to."
        ),
        click.option("--no-auth", is_flag=True, help="It needs no token."),
        click.option(
            "--broker-env",
            metavar="VAR",
            help="The indexer's environment variable with the URL of its RabbitMQ.",
        ),
        click.option(
            "--broker-file", metavar="FILE", help="The indexer's file with the URL of its RabbitMQ."
        ),
        click.option("--no-notifications", is_flag=True, help="It is not listened to."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _body(
    sees_all: str | None,
    token_env: str | None,
    token_file: str | None,
    cloud: str | None,
    no_auth: bool,
    broker_env: str | None,
    broker_file: str | None,
    no_notifications: bool,
    **plain: Any,
) -> dict[str, Any]:
    body = {name: value for name, value in plain.items() if value is not None}
    if sees_all:
        body["sees_all"] = {"yes": True, "no": False, "auto": None}[sees_all]
    auth = {"token_env": token_env, "token_file": token_file, "cloud": cloud}
    given = {kind: where for kind, where in auth.items() if where}
    if len(given) + no_auth > 1:
        raise click.UsageError("give one of --token-env, --token-file, --cloud and --no-auth")
    if given or no_auth:
        body["auth"] = given or None
    broker = {"url_env": broker_env, "url_file": broker_file}
    given = {kind: where for kind, where in broker.items() if where}
    if len(given) + no_notifications > 1:
        raise click.UsageError("give one of --broker-env, --broker-file and --no-notifications")
    if given or no_notifications:
        body["notifications"] = given or None
    return body


@locations.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def list_(as_json: bool, url: str, token: str | None) -> None:
    """All locations."""
    found = Gateway(url, token).call("GET", "/locations")["locations"]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no locations: add one with `glance-resolver locations add NAME URL`", err=True)
        return
    print_table(
        ("name", "region", "state", "health", "images", "covered", "url"),
        (
            (
                row["name"],
                row["region"],
                row["state"],
                row["health"]["state"],
                row["sweep"]["images"],
                "yes" if row["coverage"]["covered"] else f"no: {row['coverage']['why']}",
                row["url"],
            )
            for row in found
        ),
    )


@locations.command()
@existing
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def show(name: str, as_json: bool, url: str, token: str | None) -> None:
    """One location: what it is, how it is, what is known of its images."""
    row = Gateway(url, token).call("GET", _path(name))
    if as_json:
        print_json(row)
        return
    health, coverage, sweep = row["health"], row["coverage"], row["sweep"]
    serves = "not known yet" if row["serves"] is None else ", ".join(row["serves"])
    running = sweep["running"]
    print_fields(
        (
            *((field, row[field]) for field in ("name", "url", "region")),
            ("api", f"{row['api']} (serves {serves})"),
            ("state", f"{row['state']} {row['reason']}".strip()),
            ("priority", row["priority"]),
            ("weight", row["weight"]),
            ("auth", row["auth"] or "none"),
            ("health", f"{health['state']} {health['reason']}".strip()),
            ("notifications", row["notifications"] or "none"),
            ("covered", f"{'yes' if coverage['covered'] else 'no'}: {coverage['why']}"),
            *((what, coverage[what]) for what in ("poll", "events", "credential")),
            ("images", sweep["images"]),
            ("swept", sweep["ended"] or "never"),
            ("sweeping", f"{running['images']} images so far" if running else "no"),
            ("last error", sweep["error"] or "none"),
            *(
                ("changed", f"{change['at']} {change['state']} {change['reason']}".strip())
                for change in health["history"]
            ),
        )
    )


@locations.command()
@click.argument("name")
@click.argument("base_url", metavar="URL")
@_fields
@gateway_options
def add(name: str, base_url: str, url: str, token: str | None, **fields: Any) -> None:
    """Register the Glance server at URL as NAME, or replace what NAME is."""
    row = Gateway(url, token).call("PUT", _path(name), {"url": base_url, **_body(**fields)})
    click.echo(f"{row['name']} is {row['url']}; `locations show {name}` tells how its sweep goes")


@locations.command("set")
@existing
@click.option("--base-url", help="Another base URL: another server, so its claims begin anew.")
@_fields
@gateway_options
def set_(name: str, base_url: str | None, url: str, token: str | None, **fields: Any) -> None:
    """Change some fields of a location. Another --state without --reason ends the old reason."""
    body = {**({"url": base_url} if base_url else {}), **_body(**fields)}
    if not body:
        raise click.UsageError("give at least one option to change")
    if "state" in body:
        body.setdefault("reason", "")  # the old state's reason is none of the new one's
    Gateway(url, token).call("PATCH", _path(name), body)
    click.echo(f"{name}: changed {', '.join(body)}")


@locations.command()
@existing
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def check(name: str, as_json: bool, url: str, token: str | None) -> None:
    """Try a location from end to end, from the gateway, and tell what to fix.

    Exits 1 when something is to be fixed.
    """
    found = Gateway(url, token).call("POST", _path(name) + "/check")
    if as_json:
        print_json(found)
    else:
        steps = found["steps"]
        print_table(
            ("step", "ok", "what it said"),
            ((one["step"], "yes" if one["ok"] else "no", one["said"]) for one in steps),
        )
        for one in steps:
            if one["fix"]:
                click.echo(f"{one['step']}: {one['fix']}")
    sys.exit(0 if found["ok"] else 1)


@locations.command()
@existing
@gateway_options
def remove(name: str, url: str, token: str | None) -> None:
    """Remove a location; its images stop resolving to it at once."""
    Gateway(url, token).call("DELETE", _path(name))
    click.echo(f"{name}: removed")


@locations.command()
@click.argument("name", required=False, default="", shell_complete=location_names)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def log(name: str, limit: int, as_json: bool, url: str, token: str | None) -> None:
    """Who changed what and when, the newest first: of NAME, or of all."""
    query = urlencode({"limit": limit, "location": name} if name else {"limit": limit})
    changes = Gateway(url, token).call("GET", f"/audit?{query}")["changes"]
    if as_json:
        print_json(changes)
        return
    print_table(
        ("when", "by", "what", "location", "change"),
        (
            (one["at"], one["by"] or "at start", one["what"], one["location"], _change(one))
            for one in changes
        ),
    )


def _change(entry: dict[str, Any]) -> str:
    """What an entry of the log changed, for people."""
    before, after = entry["before"], entry["after"]
    if before and after:
        return "; ".join(f"{name}: {before[name]} -> {after[name]}" for name in after)
    return str((before or after or {}).get("url", ""))


@locations.command()
@existing
@click.option(
    "--confirm-shrink",
    is_flag=True,
    help="Let it release more images than RESOLVER_SHRINK_GUARD allows.",
)
@click.option("--wait", is_flag=True, help="Wait until it has ended, showing how far it is.")
@gateway_options
def sweep(name: str, confirm_shrink: bool, wait: bool, url: str, token: str | None) -> None:
    """Sweep a location now."""
    gateway = Gateway(url, token)
    before = gateway.call("GET", _path(name))["sweep"]
    gateway.call("POST", _path(name) + "/sweep", {"confirm_shrink": confirm_shrink})
    if not wait:
        click.echo(f"{name}: sweep asked for; `locations show {name}` tells how it goes")
        return
    done = _await_sweep(gateway, name, before)
    click.echo(
        f"{name}: {done['images']} images, {done['claimed']} claimed, {done['released']} released"
    )


def _await_sweep(gateway: Gateway, name: str, before: dict[str, Any]) -> dict[str, Any]:
    """The sweep's figures once it has ended, with progress on a terminal.

    Raises:
        GatewayError: it failed; the message says why.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.status import Status  # noqa: PLC0415

    console = Console(stderr=True)
    with Status(f"{name}: waiting for the indexer", console=console) as line:
        pace = Pace()
        while True:
            sweep: dict[str, Any] = gateway.call("GET", _path(name))["sweep"]
            if sweep["failed"] != before["failed"] and sweep["error"]:
                raise GatewayError(f"{name}: {sweep['error']}")
            if sweep["ended"] != before["ended"]:
                return sweep
            if sweep["running"]:
                told = pace.told(sweep["running"], time.monotonic())
                line.update(f"{name}: {told}")
            time.sleep(POLL)


class Pace:
    """How fast a sweep goes, and for how long yet. Ids are spread evenly and listed in their
    order, so the last id tells what part of the listing is done."""

    def __init__(self) -> None:
        self._first: tuple[float, int, float] | None = None

    def told(self, running: dict[str, Any], now: float) -> str:
        """``12,000 images, 3,300 a second, 4 s left``, as far as it is known."""
        count = running["images"]
        done = int((running["front"] or "0")[:8], 16) / 2**32
        if self._first is None:
            self._first = now, count, done
        since, count_then, done_then = self._first
        text = f"{count:,} images"
        if now > since and count > count_then:
            text += f", {(count - count_then) / (now - since):,.0f} a second"
        if now > since and done > done_then:
            text += f", {(1 - done) * (now - since) / (done - done_then):,.0f} s left"
        return text


locations.add_command(apply)
locations.add_command(discover)
