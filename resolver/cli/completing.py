"""What a shell completes besides commands and options, without asking the gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

ShellComplete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@add_completion_class
class BashWithEquals(BashComplete):
    """Completes the value of ``--option=VALUE``, too: bash makes three words of that."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the incomplete one, and that one."""
        words, incomplete = super().get_completion_args()
        return [word for word in words if word != "="], "" if incomplete == "=" else incomplete


def clouds(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Clouds in this user's clouds.yaml that start with ``incomplete``."""
    from resolver.glance.cloud_config import cloud_names  # noqa: PLC0415 - slow to import

    return items(cloud_names(), incomplete)


def files(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Has the shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def one_of(*values: str) -> ShellComplete:
    """Those of ``values`` that start with the incomplete one."""
    return lambda _ctx, _parameter, incomplete: items(values, incomplete)


def list_of(values: Iterable[str]) -> ShellComplete:
    """As `one_of`, for the last item of a list with commas."""

    names = tuple(values)

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        completions = items(names, last)
        return [CompletionItem(f"{before}{comma}{item.value}") for item in completions]

    return complete


def items(values: Iterable[Any], incomplete: str) -> list[CompletionItem]:
    """Completions: the texts among ``values`` that start with ``incomplete``."""
    fitting = {text for text in values if isinstance(text, str) and text.startswith(incomplete)}
    return [CompletionItem(text) for text in sorted(fitting - {""})]
