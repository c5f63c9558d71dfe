"""``glance-resolver status``: what the status page shows, in a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import click

from resolver.cli.ages import age
from resolver.cli.answer_shapes import MEMBERS, STATUS, SWEEPING_LOCATIONS
from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options
from resolver.cli.members_command import MEMBER_COLUMNS
from resolver.cli.output import Output, counted, health_text, print_json, print_table
from resolver.cli.printable import printable_lines
from resolver.cli.sweep_command import SweepProgress
from resolver.errors import IndexLost, IndexUnavailable

CLEAR = "\x1b[H\x1b[2J\x1b[3J"
"""Makes a terminal empty (ECMA-48)."""

Answer = dict[str, Any]
"""What was asked for: ``gateway`` (its URL), ``status``, and with a token ``locations`` and
``members``, which are None without one. They are None too where the gateway cannot read them now:
then ``not_shown`` says why, and is empty otherwise."""

PROBLEMS_EXIT_STATUS = 3

NO_INDEX_CODES = frozenset({IndexLost.code, IndexUnavailable.code})
"""What a gateway answers that cannot read the index."""

TABLE = Output("table", ())


@click.command()
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    help="Seconds between two requests with --watch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch a line each time.")
@gateway_options
def status(watch: bool, interval: float, as_json: bool, url: str, token: str | None) -> None:
    """Show what is wrong and what to do; with a token also locations, sweeps and processes.

    Exits 0 if nothing is wrong, 3 if there are problems, 1 if the gateway does not answer.
    """
    gateway, shown = Gateway(url, token), StatusView()
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                _show_again(gateway, url, shown, as_json=as_json, with_token=bool(token))
                time.sleep(interval)
        return
    answer = ask(gateway, url, with_token=bool(token))
    if as_json:
        print_json(answer)
    else:
        shown.print(answer)
    sys.exit(PROBLEMS_EXIT_STATUS if answer["status"]["problems"] else 0)


def ask(gateway: Gateway, url: str, *, with_token: bool) -> Answer:
    """Asks a gateway for all of it. It knows its problems without Redis, too.

    Raises:
        GatewayError: it does not answer, or refuses the token.
    """
    answer: Answer = {
        "gateway": url,
        "status": gateway.call("GET", "/status", shape=STATUS),
        "locations": None,
        "members": None,
        "not_shown": "",
    }
    shapes = {"locations": SWEEPING_LOCATIONS, "members": MEMBERS} if with_token else {}
    for name, shape in shapes.items():
        try:
            answer[name] = gateway.call("GET", f"/{name}", shape=shape)[name]
        except GatewayError as error:
            if error.problem_code not in NO_INDEX_CODES:
                raise
            answer["not_shown"] = error.detail
    return answer


def _show_again(
    gateway: Gateway, url: str, shown: StatusView, *, as_json: bool, with_token: bool
) -> None:
    """Shows it once more. A gateway that does not answer may do so the next time."""
    try:
        answer = ask(gateway, url, with_token=with_token)
    except GatewayError as error:
        click.echo(f"glance-resolver: {printable_lines(error.detail)}", err=True)
        return
    if as_json:
        print_json(answer, compact=True)
        return
    if sys.stdout.isatty():
        click.echo(CLEAR, nl=False)
    shown.print(answer)


class StatusView:
    """Prints answers, with the speed of sweeps between two of them."""

    def __init__(self) -> None:
        self._sweeps: dict[tuple[str, str], SweepProgress] = {}
        """By location and start."""

    def print(self, answer: Answer) -> None:
        """Prints one answer."""
        found, counts = answer["status"], answer["status"]["locations"]
        click.echo(
            f"glance-resolver {found['version']} ({found['role']}) at {answer['gateway']}: "
            f"{counted(counts['all'], 'location')}, {counts['up']} up, {counts['down']} down, "
            f"{counts['covered']} covered"
        )
        _print_problems(found["problems"])
        if answer["not_shown"]:
            click.echo(f"\nlocations and processes cannot be shown: {answer['not_shown']}")
        elif answer["locations"] is None:
            click.echo("\nwith an admin token (--token), locations and processes are shown too")
        if answer["locations"] is not None:
            self._print_locations(answer["locations"])
        if answer["members"] is not None:
            click.echo()
            TABLE.print(answer["members"], MEMBER_COLUMNS)

    def _print_locations(self, rows: list[dict[str, Any]]) -> None:
        click.echo()
        print_table(
            ("location", "state", "health", "covered", "images", "swept", "sweeping"),
            (
                (
                    row["name"],
                    row["state"],
                    health_text(row["health"]),
                    "yes" if row["coverage"]["covered"] else "no",
                    row["sweep"]["images"],
                    age(row["sweep"]["ended"]) or "never",
                    self._sweeping(row),
                )
                for row in rows
            ),
        )

    def _sweeping(self, row: dict[str, Any]) -> str:
        running = row["sweep"]["running"]
        if running is None:
            return ""
        key = row["name"], running["started"]
        progress = self._sweeps.setdefault(key, SweepProgress())
        return progress.describe(running, time.monotonic())


def _print_problems(problems: list[dict[str, Any]]) -> None:
    if not problems:
        click.echo("nothing is wrong")
    for problem in problems:
        name = click.style(problem["code"], fg="red", bold=True)
        click.echo(f"\n{name}, for {age(problem['since'])}: {problem['text']}")
        click.echo(f"  -> {problem['action']}")
