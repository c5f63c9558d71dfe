"""``glance-resolver completion``, and the completion of location names."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem, get_completion_class

from resolver.cli.gateway_client import DEFAULT_URL, Gateway, read_token
from resolver.errors import ResolverError

COMPLETION_TIMEOUT_SECONDS = 2.0
"""How long the gateway may take while a user waits at a prompt."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    For bash: `glance-resolver completion bash > /etc/bash_completion.d/glance-resolver`.
    """
    from resolver.cli import cli  # noqa: PLC0415 - it imports this module

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    script = completion_class(cli, {}, "glance-resolver", "_GLANCE_RESOLVER_COMPLETE")
    click.echo(script.source())


def location_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of locations that start with ``incomplete``; none if the gateway does not answer."""
    url = ctx.params.get("url") or os.environ.get("RESOLVER_URL", DEFAULT_URL)
    try:
        token = read_token(ctx.params.get("token") or os.environ.get("RESOLVER_TOKEN"))
        rows = Gateway(url, token, timeout=COMPLETION_TIMEOUT_SECONDS).call("GET", "/locations")[
            "locations"
        ]
    except (ResolverError, click.UsageError):
        return []
    return [
        CompletionItem(row["name"], help=row["url"])
        for row in rows
        if row["name"].startswith(incomplete)
    ]


existing_location = click.argument("name", shell_complete=location_names)
"""The argument NAME of a command about a registered location."""
