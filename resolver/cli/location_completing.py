"""What a shell completes that the gateway knows: locations, their regions and their domains."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import CompletionItem

from resolver.cli.answer_shapes import NAMED_LOCATIONS
from resolver.cli.completing import items
from resolver.cli.gateway_client import DEFAULT_URL, Gateway, read_token
from resolver.errors import ResolverError

COMPLETION_TIMEOUT_SECONDS = 2.0
"""How long the gateway may take while a user waits at a prompt."""


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
    return items((row["region"] for row in _locations(ctx)), incomplete)


def domains(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Domains of locations that start with ``incomplete``."""
    return items((row.get("domain") for row in _locations(ctx)), incomplete)


existing_location = click.argument("name", shell_complete=location_names)
"""The argument NAME of a command about a registered location."""
