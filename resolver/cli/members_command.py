"""``glance-resolver members``."""

from __future__ import annotations

import click

from resolver.cli.ages import age
from resolver.cli.answer_shapes import MEMBERS
from resolver.cli.gateway_client import Gateway, gateway_options
from resolver.cli.output import Column, Output, output_options

MEMBER_COLUMNS = (
    Column("host", lambda row: row["host"]),
    Column("pid", lambda row: row["pid"]),
    Column("role", lambda row: row["role"]),
    Column("version", lambda row: row["version"]),
    Column("running for", lambda row: age(row["since"])),
    Column("since", lambda row: row["since"], is_wide=True),
    Column("id", lambda row: row["id"], is_wide=True),
)


@click.command()
@output_options(MEMBER_COLUMNS)
@gateway_options
def members(output: Output, url: str, token: str | None) -> None:
    """List the gateways, workers and indexers that run, with version and age.

    Each announces itself every 20 s. One that was killed is listed for up to a minute.
    """
    answer = Gateway(url, token).call("GET", "/members", shape=MEMBERS)
    output.print(answer["members"], MEMBER_COLUMNS)
