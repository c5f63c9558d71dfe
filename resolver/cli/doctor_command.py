"""``glance-resolver doctor``."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from resolver.cli.output import print_json, print_table
from resolver.errors import SettingsError

if TYPE_CHECKING:
    from resolver.index import Finding
    from resolver.settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check this installation: each line yes or no, with what to do.

    Uses the settings of this environment, as `serve` does: asks Redis itself, looks at clocks,
    certificates, indexers and versions, and tests each location from end to end. Exits 0 if
    everything is as it should be, 1 if the resolver cannot work, 3 if it works with less.
    """
    from resolver import logs  # noqa: PLC0415 - slow to import, and help needs none

    logs.use_standard_logging()  # what is logged goes to standard error, and not into the result
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


async def examine() -> list[Finding]:
    """Everything. What is wrong is in the result."""
    from resolver.cli.examinations import examine_own_certificate, finding  # noqa: PLC0415
    from resolver.settings import load_settings  # noqa: PLC0415 - slow, and help needs none

    try:
        settings = load_settings()
    except SettingsError as error:
        fix = "correct it; `glance-resolver config` shows all settings"
        return [finding("settings", error.detail, fix, ok=False, required=True)]
    return [
        finding("settings", "they can be used"),
        *examine_own_certificate(settings),
        *await _examine_redis(settings),
    ]


async def _examine_redis(settings: Settings) -> list[Finding]:
    """Whether Redis answers, allows what is needed, and keeps what it is given; and where it
    answers, what is in it."""
    from resolver.cli.examinations import examine_index, examine_own_process  # noqa: PLC0415
    from resolver.index import open_index  # noqa: PLC0415

    if settings.is_embedded:
        return await asyncio.to_thread(examine_own_process, settings)
    async with open_index(
        settings.redis_url,
        url_file=settings.redis_url_file,
        prefix=settings.prefix,
        create=False,
    ) as index:
        found = await index.server_watch.examine()
        if any(line.required and not line.ok for line in found):
            return found
        return [*found, *await examine_index(settings, index)]
