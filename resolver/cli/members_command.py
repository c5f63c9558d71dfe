"""``glance-resolver members``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from resolver.cli.ages import age
from resolver.cli.gateway_client import Gateway, gateway_options
from resolver.cli.output import print_json, print_table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def members(as_json: bool, url: str, token: str | None) -> None:
    """List the gateways, workers and indexers that live, with version and age.

    Each announces itself every 20 s. One that was killed is listed for up to a minute.
    """
    rows = Gateway(url, token).call("GET", "/members")["members"]
    if as_json:
        print_json(rows)
        return
    print_members(rows)


def print_members(rows: Sequence[dict[str, Any]]) -> None:
    """A table of processes as ``GET /members`` lists them."""
    print_table(
        ("host", "pid", "role", "version", "running for"),
        ((row["host"], row["pid"], row["role"], row["version"], age(row["since"])) for row in rows),
    )
