"""What a shell completes besides commands and options: values that the gateway or a file knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from resolver.cli.answer_shapes import NAMED_LOCATIONS
from resolver.cli.gateway_client import DEFAULT_URL, Gateway, read_token
from resolver.errors import ResolverError

COMPLETION_TIMEOUT_SECONDS = 2.0
"""How long the gateway may take while a user waits at a prompt."""

ShellComplete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@add_completion_class
class BashWithEquals(BashComplete):
    """Completes the value of ``--option=VALUE``, too: bash makes three words of that."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the incomplete one, and that one."""
        words, incomplete = super().get_completion_args()
        return [word for word in words if word != "="], "" if incomplete == "=" else incomplete


def _locations(ctx: click.Context) -> list[dict[str, Any]]:
    """The locations; none if the gateway does not answer."""
    url = ctx.params.get("url") or os.environ.get("RESOLVER_URL", DEFAULT_URL)
    try:
        token = read_token(ctx.params.get("token") or os.environ.get("RESOLVER_TOKEN"))
        gateway = Gateway(url, token, timeout=COMPLETION_TIMEOUT_SECONDS)
        rows: list[dict[str, Any]] = gateway.call("GET", "/locations", shape=NAMED_LOCATIONS)[
            "locations"
        ]
    except (ResolverError, click.UsageError):
        return []
    return rows


def location_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of locations that start with ``incomplete``."""
    return [
        CompletionItem(row["name"], help=row["url"])
        for row in _locations(ctx)
        if row["name"].startswith(incomplete)
    ]


def regions(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Regions of locations that start with ``incomplete``."""
    return _items((row["region"] for row in _locations(ctx)), incomplete)


def domains(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Domains of locations that start with ``incomplete``."""
    return _items((row.get("domain") for row in _locations(ctx)), incomplete)


def clouds(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Clouds in this user's clouds.yaml that start with ``incomplete``."""
    from resolver.glance.cloud_config import cloud_names  # noqa: PLC0415 - slow to import

    return _items(cloud_names(), incomplete)


def files(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Has the shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def one_of(*values: str) -> ShellComplete:
    """Those of ``values`` that start with the incomplete one."""
    return lambda _ctx, _parameter, incomplete: _items(values, incomplete)


def list_of(values: Iterable[str]) -> ShellComplete:
    """As `one_of`, for the last item of a list with commas."""

    names = tuple(values)

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        items = _items(names, last)
        return [CompletionItem(f"{before}{comma}{item.value}") for item in items]

    return complete


def _items(values: Iterable[Any], incomplete: str) -> list[CompletionItem]:
    fitting = {text for text in values if isinstance(text, str) and text.startswith(incomplete)}
    return [CompletionItem(text) for text in sorted(fitting - {""})]


existing_location = click.argument("name", shell_complete=location_names)
"""The argument NAME of a command about a registered location."""
