"""A group of commands that says what a mistyped one may have been."""

from __future__ import annotations

import click

from resolver.suggestions import did_you_mean


class SuggestingGroup(click.Group):
    """A group of commands. (Newer versions of click suggest names too, but of this group's own
    attribute only.)"""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises click.UsageError for a command that there is not."""
        if args and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            ctx.fail(f"No such command {args[0]!r}{did_you_mean(args[0], names)}")
        return super().resolve_command(ctx, args)
