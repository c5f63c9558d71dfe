"""The version is the same wherever it is written by hand."""

from __future__ import annotations

import re
import tomllib

import yaml

from tests.operations.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION: str = PYPROJECT["project"]["version"]


def versions(file: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, (ROOT / file).read_text("utf-8"), re.MULTILINE))


def test_every_version_is_the_same() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == VERSION
    for file, pattern in {
        "client/pyproject.toml": r'^version = "(.+)"$',
        "deploy/kubernetes/kustomization.yaml": r"^ +newTag: (\S+)$",
        "Dockerfile": r"^ARG VERSION=(\S+)$",
        "docs/http-api.md": r'glance-resolver/([\d.]+)<|\{"version": "([\d.]+)"',
    }.items():
        found = versions(file, pattern)
        assert {"".join(match) for match in found} == {VERSION}, file


def test_the_changelog_has_this_version_first() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(re.escape(VERSION) + r" - \d{4}-\d\d-\d\d", headings[1])


def test_the_badges_are_true() -> None:
    """Each says the same as picture and as text."""
    project = PYPROJECT["project"]
    expected = [
        ("version", VERSION),
        ("Python", f"{project['requires-python'].removeprefix('>=')} or newer"),
        ("licence", project["license"]),
    ]
    readme = (ROOT / "README.md").read_text("utf-8")
    badge = r"!\[([^]]+)\]\(https://img\.shields\.io/badge/(\w+)-(\S+)-blue\)"
    badges = re.findall(badge, readme)
    for (text, name, value), (what, expected_value) in zip(badges, expected, strict=True):
        assert text == f"{what} {expected_value}"
        assert (name, value.replace("--", "-").replace("_", " ")) == (what, expected_value)


def test_both_packages_have_the_licence() -> None:
    """A package cannot name a file outside its folder."""
    assert (ROOT / "client" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
