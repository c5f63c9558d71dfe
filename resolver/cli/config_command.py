"""``glance-resolver config``."""

from __future__ import annotations

import click

from resolver.cli.output import print_fields, print_json
from resolver.errors import SettingsError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--describe", is_flag=True, help="Print the reference of all settings, as Markdown.")
def config(as_json: bool, describe: bool) -> None:
    """Show every setting and its value in this environment, secrets masked.

    If something is wrong, it shows the rest, says what is wrong, and exits 1.
    """
    from resolver.faulty_settings import settings_despite_faults  # noqa: PLC0415
    from resolver.settings import Settings, load_settings  # noqa: PLC0415

    if describe:
        click.echo(reference(Settings))
        return
    fault: SettingsError | None = None
    invalid: frozenset[str] = frozenset()
    try:
        settings = load_settings()
    except SettingsError as error:
        fault = error
        try:
            settings, invalid = settings_despite_faults()
        except SettingsError:
            raise fault from None
    values = {
        name: "(invalid)" if name in invalid else value for name, value in settings.masked().items()
    }
    if as_json:
        print_json(values)
    else:
        print_fields((f"RESOLVER_{name.upper()}", value) for name, value in values.items())
    if fault is not None:
        raise fault


def reference(settings: type) -> str:
    """The settings reference: the Markdown table in docs/settings.md."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in settings.model_fields.items():  # type: ignore[attr-defined]
        default = field.default
        if default in ("", (), None):
            text = "none"
        elif isinstance(default, bool):
            text = f"`{str(default).lower()}`"
        elif isinstance(default, tuple):
            text = f"`{','.join(default)}`"
        elif isinstance(default, float) and default == int(default):
            text = f"`{int(default)}`"
        else:
            text = f"`{default}`"
        lines.append(f"| `RESOLVER_{name.upper()}` | {text} | {field.description} |")
    return "\n".join(lines)
