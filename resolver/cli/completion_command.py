"""``glance-resolver completion``, and what completes the names of locations."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem, get_completion_class

from resolver.cli.gateway_client import DEFAULT_URL, Gateway
from resolver.errors import ResolverError

PATIENCE = 2.0
"""Seconds that a gateway may take while somebody waits at a prompt."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    For bash: `glance-resolver completion bash > /etc/bash_completion.d/glance-resolver`.
    """
    from resolver.cli import cli  # noqa: PLC0415 - it knows of this command

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(cli, {}, "glance-resolver", "_GLANCE_RESOLVER_COMPLETE")
    click.echo(made.source())


def location_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Locations whose names begin so; none where the gateway cannot be asked."""
    url = ctx.params.get("url") or os.environ.get("RESOLVER_URL", DEFAULT_URL)
    token = ctx.params.get("token") or os.environ.get("RESOLVER_TOKEN")
    try:
        rows = Gateway(url, token, timeout=PATIENCE).call("GET", "/locations")["locations"]
    except (ResolverError, click.UsageError):
        return []
    return [
        CompletionItem(row["name"], help=row["url"])
        for row in rows
        if row["name"].startswith(incomplete)
    ]
