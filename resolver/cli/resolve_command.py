"""``glance-resolver resolve``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from resolver.cli.answer_shapes import EXPLANATION, RESOLUTIONS
from resolver.cli.gateway_client import (
    Gateway,
    GatewayAddress,
    GatewayError,
    gateway_options,
    no_gateway_error,
    segment,
)
from resolver.cli.location_completing import location_names, regions
from resolver.cli.output import print_json, print_table
from resolver.cli.printable import printable
from resolver.errors import InvalidImageId
from resolver.models import Outcome, parse_id

EXIT_STATUSES = {Outcome.FOUND: 0, Outcome.ABSENT: 3, Outcome.UNKNOWN: 4, Outcome.INVALID: 2}
"""By outcome. With several ids the worst outcome decides."""

WORST_FIRST = (Outcome.INVALID, Outcome.UNKNOWN, Outcome.ABSENT, Outcome.FOUND)

IDS_PER_REQUEST = 1000
"""Ids in one ``POST /resolve``, and images on a page of a lookup."""

MD5_CHARACTERS = 32
"""Of Glance's ``checksum``. An ``os_hash_value`` is longer."""


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--name", help="Look images up by name.")
@click.option("--hash", "digest", help="Look images up by os_hash_value, or by MD5 checksum.")
@click.option("--tag", "tags", multiple=True, help="Look images up by tag; repeat for more.")
@click.option("--region", shell_complete=regions, help="Prefer owners in this region.")
@click.option(
    "--exclude",
    multiple=True,
    metavar="NAME",
    shell_complete=location_names,
    help="Leave out a location; repeat for more.",
)
@click.option("--fresh", is_flag=True, help="Bypass the gateway's caches.")
@click.option("--partial", is_flag=True, help="Look up without the locations that do not answer.")
@click.option("--explain", is_flag=True, help="Show every location and the reason for its rank.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--auth-token",
    envvar="OS_TOKEN",
    help="Keystone token to look images up with, and for a gateway that needs one.  "
    "[env: OS_TOKEN]",
)
@gateway_options
def resolve(
    ids: tuple[str, ...],
    name: str | None,
    digest: str | None,
    tags: tuple[str, ...],
    region: str | None,
    exclude: tuple[str, ...],
    fresh: bool,
    partial: bool,
    explain: bool,
    as_json: bool,
    auth_token: str | None,
    url: str,
    token: str | None,
) -> None:
    """Show which location has each image.

    With `-` as ID, ids are read from standard input, one per line. With --name, --hash or --tag,
    the images are those that the locations list to the holder of OS_TOKEN. Exits 0 if all were
    found, 3 if one is absent or none matches, 4 if one is unknown, 2 if one is not an id, 1 if the
    request failed.
    """
    if ids == ("-",):
        ids = tuple(line.strip() for line in sys.stdin if line.strip())
    wanted = _wanted(name, digest, tags)
    if bool(ids) == bool(wanted):
        raise click.UsageError(
            "give image ids, - to read them from standard input, or one of --name, --hash and --tag"
        )
    gateway = Gateway(url, token)
    headers = {"X-Auth-Token": auth_token} if auth_token else {}
    GatewayAddress(url, auth_token)  # the same rule holds for this token
    query = {"region": region, "exclude": ",".join(exclude), "fresh": "1" if fresh else None}
    chosen = [(name, value) for name, value in query.items() if value]
    missing: set[str] = set()
    if wanted:
        answers = _look_up(gateway, [*wanted, *chosen], headers, missing, partial=partial)
        ids = tuple(answer["id"] for answer in answers)
    suffix = f"?{urlencode(chosen)}" if chosen else ""
    if explain:
        paths = [f"/resolve/{segment(text)}/explain{suffix}" for text in ids]
        answers = [gateway.call("GET", path, headers=headers, shape=EXPLANATION) for path in paths]
    elif not wanted:
        answers = _answers_about(gateway, url, ids, suffix, headers)
    if as_json:
        print_json(answers[0] if len(answers) == 1 and not wanted else answers)
    else:
        for answer in answers:
            (_print_explained if explain else _print_answer)(answer)
    if missing:
        names = printable(", ".join(sorted(missing)))
        click.echo(f"warning: images of these may be missing here: {names}", err=True)
    if not answers:
        click.echo("no image matches", err=True)
    outcomes = {Outcome(answer["outcome"]) for answer in answers}
    # Without --partial the gateway has made sure that no location that vouches is missing.
    outcomes = outcomes or {Outcome.UNKNOWN if missing and partial else Outcome.ABSENT}
    sys.exit(EXIT_STATUSES[next(outcome for outcome in WORST_FIRST if outcome in outcomes)])


def _answers_about(
    gateway: Gateway, url: str, ids: Sequence[str], suffix: str, headers: dict[str, str]
) -> list[dict[str, Any]]:
    """The answers about these ids, in their order. ``suffix``: the query."""
    answers: list[dict[str, Any]] = []
    for start in range(0, len(ids), IDS_PER_REQUEST):
        some = list(ids[start : start + IDS_PER_REQUEST])
        found = gateway.call("POST", f"/resolve{suffix}", some, headers=headers, shape=RESOLUTIONS)
        if len(found) != len(some):
            raise no_gateway_error(url, f"it has {len(found)} answers to {len(some)} ids")
        for answer, text in zip(found, some, strict=True):
            if answer["outcome"] != Outcome.INVALID and not _is_about(answer, text):
                raise no_gateway_error(url, f"asked for {text}, it answers about another image")
        answers += found
    return answers


def _is_about(answer: dict[str, Any], text: str) -> bool:
    try:
        return parse_id(answer["id"]) == parse_id(text)
    except InvalidImageId:
        return False


def _look_up(
    gateway: Gateway,
    query: list[tuple[str, str]],
    headers: dict[str, str],
    missing: set[str],
    *,
    partial: bool,
) -> list[dict[str, Any]]:
    """The answers for all images that match, as the holder of the token sees them. Locations whose
    images are left out, or perhaps not all there, go to ``missing``."""
    has_token = "X-Auth-Token" in headers
    if partial:
        headers = {**headers, "X-Resolver-Partial": "allow"}
    path = f"/resolve?{urlencode([*query, ('limit', str(IDS_PER_REQUEST))])}"

    def add_missing(fields: Mapping[str, str]) -> None:
        names = fields.get("X-Resolver-Missing", "").split(",")
        missing.update(name.strip() for name in names if name.strip())

    try:
        pages = gateway.pages(path, headers=headers, shape=RESOLUTIONS, on_headers=add_missing)
        return [answer for page in pages for answer in page]
    except GatewayError as error:
        if has_token or error.problem_code != "token-refused":
            raise
        raise GatewayError(f"{error.detail.rstrip('.')}. Give --auth-token or OS_TOKEN.") from error


def _wanted(name: str | None, digest: str | None, tags: Sequence[str]) -> list[tuple[str, str]]:
    """The parameters by which images are looked up."""
    wanted = [("name", name)] if name is not None else []
    if digest is not None:
        wanted.append(("checksum" if len(digest) == MD5_CHARACTERS else "os_hash_value", digest))
    return wanted + [("tag", tag) for tag in tags]


def _print_answer(answer: dict[str, Any]) -> None:
    """One line per owner, best first: ``ID  found  LOCATION  URL``; with its identifier, where that
    is not what can be fetched."""
    if not answer["owners"]:
        click.echo(f"{answer['id']}  {answer['outcome']}{_hint(answer)}")
    for owner in answer["owners"]:
        identifier = "" if owner["uri"] == owner["url"] else f"  (identifier {owner['uri']})"
        click.echo(f"{answer['id']}  found  {owner['location']}  {owner['url']}{identifier}")


def _hint(answer: dict[str, Any]) -> str:
    """Why an answer has no owners, or what to do."""
    if answer["outcome"] == Outcome.INVALID:
        return f"  (an id is a UUID; by name: --name {shlex.quote(answer['id'])})"
    if answer["outcome"] == Outcome.UNKNOWN and answer.get("detail"):
        return f"  {answer['detail']}"
    return ""


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
