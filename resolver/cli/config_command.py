"""``glance-resolver config``."""

from __future__ import annotations

import click

from resolver.cli.output import print_fields, print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--describe", is_flag=True, help="Print what each setting is for, as Markdown.")
def config(as_json: bool, describe: bool) -> None:
    """Show every setting and its value here, secrets masked."""
    from resolver.settings import Settings, load_settings  # noqa: PLC0415

    if describe:
        click.echo(reference(Settings))
        return
    shown = load_settings().masked()
    if as_json:
        print_json(shown)
        return
    print_fields(
        (
            f"RESOLVER_{name.upper()}",
            ",".join(map(str, value)) if isinstance(value, list) else value,
        )
        for name, value in shown.items()
    )


def reference(settings: type) -> str:
    """The settings reference, as the table in docs/settings.md."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in settings.model_fields.items():  # type: ignore[attr-defined]
        default = field.default
        if default in ("", (), None):
            shown = "none"
        elif isinstance(default, bool):
            shown = f"`{str(default).lower()}`"
        elif isinstance(default, float) and default == int(default):
            shown = f"`{int(default)}`"
        else:
            shown = f"`{default}`"
        lines.append(f"| `RESOLVER_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines)
