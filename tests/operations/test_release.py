"""The version is the same wherever it is written by hand. Between two releases what is built from
the tree has a development version, and documents name the last release."""

from __future__ import annotations

import re
import tomllib

import yaml
from packaging.version import Version

from tests.operations.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION: str = PYPROJECT["project"]["version"]
HEADINGS = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
LAST_RELEASE = HEADINGS[1].partition(" ")[0]


def versions(file: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, (ROOT / file).read_text("utf-8"), re.MULTILINE))


def test_every_version_is_the_same() -> None:
    for file, pattern in {
        "client/pyproject.toml": r'^version = "(.+)"$',
        "deploy/helm/Chart.yaml": r"^appVersion: (\S+)$",
        "deploy/kubernetes/kustomization.yaml": r"^ +newTag: (\S+)$",
        "Dockerfile": r"^ARG VERSION=(\S+)$",
    }.items():
        assert versions(file, pattern) == {VERSION}, file


def test_the_chart_has_this_version_as_helm_spells_it() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == VERSION.replace(".dev", "-dev")


def test_documents_name_the_last_release() -> None:
    for file, pattern in {
        "docs/http-api.md": r'glance-resolver/([\d.]+)<|\{"version": "([\d.]+)"',
        "docs/operators.md": r"`image\.tag: ([\d.]+)@",
    }.items():
        found = versions(file, pattern)
        assert {"".join(match) for match in found} == {LAST_RELEASE}, file


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    assert HEADINGS[0] == "Unreleased"
    assert re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", HEADINGS[1])


def test_the_tree_after_a_release_has_a_version_of_its_own() -> None:
    version = Version(VERSION)
    if version.is_devrelease:
        assert version > Version(LAST_RELEASE)
    else:
        assert VERSION == LAST_RELEASE


def test_the_badges_are_true() -> None:
    """Each says the same as picture and as text."""
    project = PYPROJECT["project"]
    expected = [
        ("version", LAST_RELEASE),
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
