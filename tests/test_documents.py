"""Documents say what the program does: names in one are names in the other."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest
from aiohttp import web

from resolver.cli import COMMANDS
from resolver.cli.config_command import reference
from resolver.gateway.app import gateway_routes, monitoring_routes
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.net.in_flight import InFlight
from resolver.index import open_index
from resolver.registry import FreshnessPolicy, TableKeeper
from resolver.registry.yaml_file import read_locations
from resolver.settings import Settings, load_settings
from resolver.sync import Stats

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")


def test_the_settings_reference_is_the_settings() -> None:
    """`glance-resolver config --describe` writes the table."""
    table = "\n".join(line for line in SETTINGS.splitlines() if line.startswith("|"))
    assert table == reference(Settings)


def test_settings_named_in_documents_exist() -> None:
    known = {f"RESOLVER_{name.upper()}" for name in Settings.model_fields}
    known |= {"RESOLVER_CONFIG", "RESOLVER_URL", "RESOLVER_TOKEN"}
    for path in [ROOT / "docker-compose.yml", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        named = set(re.findall(r"RESOLVER_[A-Z]+(?:_[A-Z]+)*", path.read_text("utf-8")))
        assert named <= known, path.name


async def test_metrics_and_their_names_in_the_readme_agree() -> None:
    async with open_index("memory:") as index:
        metrics = Metrics(TableKeeper(index, FreshnessPolicy(1)), Stats(), InFlight(), {})
        text = (await metrics.render()).decode()
    exposed = set(re.findall(r"^# TYPE (glance_resolver_\w+)", text, re.MULTILINE))
    exposed = {name for name in exposed if not name.endswith("_created")}
    named = set(re.findall(r"\bglance_resolver_\w+", README))
    assert named == exposed


def test_paths_are_in_the_readme() -> None:
    app = web.Application()
    app.add_routes([*monitoring_routes(), *gateway_routes()])
    for resource in app.router.resources():
        path = resource.canonical
        words = path.replace("{api}", "v2").replace("{id}{rest}", "<ID>").replace("{id}", "<ID>")
        words = words.replace("/images/<ID>", "/images/{id}") if "/locations/" in path else words
        words = words.replace("{schema}", "…")
        if path in ("/{api}/", "/{api}/images", "/v1/images/detail"):
            continue  # the same document again; what is not here
        assert words in README, path


def test_commands_are_in_the_readme() -> None:
    for name, (module, attribute, _) in COMMANDS.items():
        command = getattr(import_module(f"resolver.cli.{module}"), attribute)
        names = (
            [f"{name} {sub}" for sub in command.commands]
            if isinstance(command, click.Group)
            else [name]
        )
        for full in names:
            if full == "index release":
                assert "# and release" in README
            else:
                assert f"glance-resolver {full}" in README, full


def test_the_example_locations_can_be_registered() -> None:
    locations = read_locations(str(ROOT / "config" / "locations.example.yaml"))
    assert set(locations) == {"frankfurt", "oslo", "old-lab"}


def test_the_example_settings_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = ROOT / "config" / "resolver.example.toml"
    monkeypatch.setenv("RESOLVER_CONFIG", str(file))
    settings = load_settings()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.allowed_hosts == ("*.example", "10.0.0.0/8")
    # What is commented out must be right too.
    text = re.sub(r"^# (\w+ = )", r"\1", file.read_text("utf-8"), flags=re.MULTILINE)
    Settings(**tomllib.loads(text))


def test_what_the_threat_model_says_is_shown_exists() -> None:
    named = set(re.findall(r"tests/[\w/]+\.py", (ROOT / "SECURITY.md").read_text("utf-8")))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_readme_has_the_two_commands() -> None:
    for mark in ("demo", "test"):
        block = re.search(rf"<!-- {mark} -->\n```sh\n(.+)\n```", README)
        assert block is not None
        assert "\n" not in block[1]
