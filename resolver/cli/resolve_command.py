"""``glance-resolver resolve``."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urlencode

import click

from resolver.cli.gateway_client import Gateway, gateway_options, segment
from resolver.cli.output import print_json, print_table
from resolver.models import Outcome

EXIT_STATUSES = {Outcome.FOUND: 0, Outcome.ABSENT: 3, Outcome.UNKNOWN: 4, Outcome.INVALID: 2}
"""By outcome. With several ids the worst outcome decides."""

WORST_FIRST = (Outcome.INVALID, Outcome.UNKNOWN, Outcome.ABSENT, Outcome.FOUND)

IDS_PER_REQUEST = 1000
"""Ids in one ``POST /resolve``."""


@click.command()
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--region", help="Prefer owners in this region.")
@click.option(
    "--exclude", multiple=True, metavar="NAME", help="Leave out a location; repeat for more."
)
@click.option("--fresh", is_flag=True, help="Bypass the gateway's caches.")
@click.option("--explain", is_flag=True, help="Show every location and the reason for its rank.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@gateway_options
def resolve(
    ids: tuple[str, ...],
    region: str | None,
    exclude: tuple[str, ...],
    fresh: bool,
    explain: bool,
    as_json: bool,
    url: str,
    token: str | None,
) -> None:
    """Show which location has each image.

    With `-` as ID, ids are read from standard input, one per line. Exits 0 if all were found, 3 if
    one is absent, 4 if one is unknown, 2 if one is not an id, 1 if the request failed.
    """
    if ids == ("-",):
        ids = tuple(line.strip() for line in sys.stdin if line.strip())
    if not ids:
        raise click.UsageError("give at least one image id, or - to read them from standard input")
    gateway = Gateway(url, token)
    query = {"region": region, "exclude": ",".join(exclude), "fresh": "1" if fresh else None}
    suffix = urlencode({name: value for name, value in query.items() if value})
    suffix = f"?{suffix}" if suffix else ""
    if explain:
        answers = [gateway.call("GET", f"/resolve/{segment(text)}/explain{suffix}") for text in ids]
    else:
        answers = []
        for start in range(0, len(ids), IDS_PER_REQUEST):
            answers += gateway.call(
                "POST", f"/resolve{suffix}", list(ids[start : start + IDS_PER_REQUEST])
            )
    if as_json:
        print_json(answers if len(answers) > 1 else answers[0])
    elif explain:
        for answer in answers:
            _print_explained(answer)
    else:
        for answer in answers:
            _print_answer(answer)
    outcomes = {Outcome(answer["outcome"]) for answer in answers}
    sys.exit(EXIT_STATUSES[next(outcome for outcome in WORST_FIRST if outcome in outcomes)])


def _print_answer(answer: dict[str, Any]) -> None:
    """One line per owner, best first: ``ID  found  LOCATION  URI``."""
    if not answer["owners"]:
        missing = ", ".join(answer["missing"])
        why = f"  (could not vouch: {missing})" if missing else ""
        click.echo(f"{answer['id']}  {answer['outcome']}{why}")
    for owner in answer["owners"]:
        click.echo(f"{answer['id']}  found  {owner['location']}  {owner['uri']}")


def _print_explained(answer: dict[str, Any]) -> None:
    click.echo(f"{answer['id']}  {answer['outcome']}  from {answer['source']}")
    if answer["detail"]:
        click.echo(answer["detail"])
    print_table(
        ("location", "rank", "verdict", "why"),
        (
            (row["location"], row["rank"], row["verdict"], "; ".join(row["reasons"]))
            for row in answer["locations"]
        ),
    )
