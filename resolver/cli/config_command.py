"""``glance-resolver config``."""

from __future__ import annotations

import click

from resolver.cli.output import print_fields, print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--describe", is_flag=True, help="Print the reference of all settings, as Markdown.")
def config(as_json: bool, describe: bool) -> None:
    """Show every setting and its value in this environment, secrets masked."""
    from resolver.settings import Settings, load_settings  # noqa: PLC0415

    if describe:
        click.echo(reference(Settings))
        return
    values = load_settings().masked()
    if as_json:
        print_json(values)
        return
    print_fields(
        (
            f"RESOLVER_{name.upper()}",
            ",".join(map(str, value)) if isinstance(value, list) else value,
        )
        for name, value in values.items()
    )


def reference(settings: type) -> str:
    """The settings reference: the Markdown table in docs/settings.md."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in settings.model_fields.items():  # type: ignore[attr-defined]
        default = field.default
        if default in ("", (), None):
            text = "none"
        elif isinstance(default, bool):
            text = f"`{str(default).lower()}`"
        elif isinstance(default, float) and default == int(default):
            text = f"`{int(default)}`"
        else:
            text = f"`{default}`"
        lines.append(f"| `RESOLVER_{name.upper()}` | {text} | {field.description} |")
    return "\n".join(lines)
