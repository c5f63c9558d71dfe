"""The command line. A command's module is imported only when it runs, so that help is fast."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from resolver.cli.printable import printable_lines
from resolver.cli.suggesting_group import SuggestingGroup
from resolver.errors import ResolverError

COMMANDS = {
    "serve": "Run the gateway, the indexer, or both.",
    "demo": "Show how it works with two stand-in Glance servers.",
    "resolve": "Show which location has each image.",
    "locations": "List and change the locations.",
    "index": "Show, export, import and rebuild the index.",
    "report": "List conflicts, and what a region lacks.",
    "catalog": "Print the commands that put the gateway into Keystone's catalog.",
    "status": "Show what is wrong and what to do.",
    "members": "List the gateways and indexers that run.",
    "doctor": "Check this installation, and say what to do.",
    "healthcheck": "Ask the gateway on this host whether it is alive.",
    "config": "Show every setting and its value.",
    "man": "Print the manual page.",
    "completion": "Print a shell's completion script.",
}
"""By name: the line that help shows. A command is the function of its name in the module
``NAME_command``."""


class LazyGroup(SuggestingGroup):
    """A group that imports a command when it is looked up by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"resolver.cli.{cmd_name}_command")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from resolver import __version__  # noqa: PLC0415 - slow to read, and help needs none

        click.echo(f"glance-resolver {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Finds the OpenStack Glance server that has an image, by UUID, and redirects to it."""


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line; a failure is one line on standard error and exit status 1."""
    if "_GLANCE_RESOLVER_COMPLETE" in os.environ:
        import_module("resolver.cli.completing")  # it has a completion of its own for bash
    try:
        return cli(args=arguments, prog_name="glance-resolver")
    except ResolverError as error:
        click.echo(f"glance-resolver: {printable_lines(error.detail)}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
    except (ImportError, AttributeError) as error:  # what another version of a package lacks
        from resolver.cli.package_versions import unfit_packages  # noqa: PLC0415

        if not (unfit := unfit_packages()):
            raise
        text = f"{'; '.join(unfit)}: `pip install --upgrade .` in its checkout ({error})"
        click.echo(f"glance-resolver: {printable_lines(text)}", err=True)
        sys.exit(1)
