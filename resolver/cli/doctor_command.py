"""``glance-resolver doctor``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from resolver.cli.output import print_json, print_table

if TYPE_CHECKING:
    from resolver.index import Finding
    from resolver.settings import Settings

Examination = Callable[["Settings"], Awaitable[list["Finding"]]]
"""Looks at one part of the installation. It never raises: what fails is what it finds."""


async def examine_redis(settings: Settings) -> list[Finding]:
    """Whether Redis answers, allows what is needed, and keeps what it is given."""
    from resolver.index import open_index  # noqa: PLC0415 - slow to import, and help needs none

    async with open_index(
        settings.redis_url,
        url_file=settings.redis_url_file,
        prefix=settings.prefix,
        create=False,
    ) as index:
        return await index.server_watch.examine()


EXAMINATIONS: tuple[Examination, ...] = (examine_redis,)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check this installation: each line yes or no, with what to do.

    Uses the settings of this environment, as `serve` does, and asks Redis itself. Exits 0 if
    everything is as it should be, 1 if the resolver cannot work, 3 if it works with less.
    """
    from resolver.settings import load_settings  # noqa: PLC0415

    settings = load_settings()

    async def examine() -> list[Finding]:
        return [finding for part in EXAMINATIONS for finding in await part(settings)]

    findings = asyncio.run(examine())
    failed = [finding for finding in findings if not finding.ok]
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        print_table(
            ("check", "ok", "found", "what to do"),
            (
                (finding.name, "yes" if finding.ok else "no", finding.text, finding.fix)
                for finding in findings
            ),
        )
    if failed:
        sys.exit(1 if any(finding.required for finding in failed) else 3)
