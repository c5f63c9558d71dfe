"""`requirements/`: what the image and CI install is locked, and is what pyproject.toml asks for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.operations.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
LOCKS = ("image.txt", "build.txt", "ci.txt")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def lock_entries(text: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each package of a lock, and its hashes.

    Raises:
        ValueError: a line is no package with its version and hashes, such as the URL of an index.
    """
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for entry in lines.replace("\\\n", " ").splitlines():
        package, *hashes = re.split(r" +(?=--hash)", entry.strip())
        if not hashes or not all(HASH.fullmatch(item) for item in hashes):
            raise ValueError(f"no package with hashes: {entry[:80]}")
        requirement = Requirement(package)
        if not re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)) or requirement.url:
            raise ValueError(f"no package with one version: {entry[:80]}")
        yield requirement, hashes


def locked_versions(lock: str) -> dict[str, Version]:
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier)[2:])
        for requirement, _ in lock_entries((ROOT / "requirements" / lock).read_text("utf-8"))
    }


def group(name: str) -> list[str]:
    """The requirements of a dependency group, those of the groups in it included."""
    found: list[str] = []
    for entry in PYPROJECT["dependency-groups"][name]:
        found += [entry] if isinstance(entry, str) else group(entry["include-group"])
    return found


def runtime() -> list[str]:
    extras = PROJECT["optional-dependencies"]
    return [
        *PROJECT["dependencies"],
        *(requirement for name in extras if name != "all" for requirement in extras[name]),
    ]


ASKED_FOR = {
    "image.txt": runtime(),
    "build.txt": group("image-build"),
    "ci.txt": [*runtime(), *group("dev"), *group("image-build")],
}


def missing(asked_for: list[str], locked: dict[str, Version]) -> list[str]:
    """The requirements that no locked version meets."""
    wanted = map(Requirement, asked_for)
    return [
        str(requirement)
        for requirement in wanted
        if (version := locked.get(canonicalize_name(requirement.name))) is None
        or version not in requirement.specifier
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_what_pyproject_asks_for(lock: str) -> None:
    assert missing(ASKED_FOR[lock], locked_versions(lock)) == [], "run `make lock`"


def test_a_dependency_that_is_not_locked_is_noticed() -> None:
    locked = locked_versions("image.txt")
    assert missing(["aiohttp>=99", "unheard-of>=1", "redis>=5"], locked) == [
        *("aiohttp>=99", "unheard-of>=1"),
    ]


def test_the_image_has_what_ci_tests() -> None:
    tested = locked_versions("ci.txt")
    for lock in ("image.txt", "build.txt"):
        locked = locked_versions(lock)
        assert {name: tested.get(name) for name in locked} == locked, "run `make lock`"


@pytest.mark.parametrize(
    "line",
    [
        *("--index-url https://packages.example/simple", "aiohttp==3.14.5", "-e ."),
        f"aiohttp>=3 --hash=sha256:{'0' * 64}",
        f"aiohttp @ https://packages.example/a.whl --hash=sha256:{'0' * 64}",
        "aiohttp==3.14.5 --hash=md5:0123",
    ],
)
def test_a_line_that_locks_nothing_is_noticed(line: str) -> None:
    with pytest.raises(ValueError):
        list(lock_entries(line))


def test_the_build_installs_nothing_that_is_not_locked() -> None:
    """All is locked but the package itself, for which no index is asked."""
    assert "PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all:" in DOCKERFILE
    commands = re.split(r"&&|\n", DOCKERFILE.replace("\\\n", " "))
    installs = [command.partition(" install ")[2].strip() for command in commands]
    assert sorted(filter(None, installs)) == [
        "--no-deps --no-index /tmp/wheels/*.whl",
        *("-r requirements/build.txt", "-r requirements/image.txt"),
    ]
    assert DOCKERFILE.count("PIP_REQUIRE_HASHES=0") == 1
    assert set(PYPROJECT["build-system"]["requires"]) <= set(group("image-build"))


FAKE_AUDIT = """
import json, sys
out = sys.argv[sys.argv.index("--output") + 1]
print({printed!r})
if {report!r} is not None:
    open(out, "w").write(json.dumps({{"dependencies": {report!r}}}))
sys.exit({status})
"""
FOUND = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
SAFE = {"name": "b", "version": "1", "vulns": []}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("report", "printed", "fails", "expected"),
    [
        ([FOUND, SAFE], "", True, "a 1: CVE-1, repaired in 2"),
        ([SAFE, SKIPPED], "", False, "c: not audited: Dependency not found on PyPI"),
        ([SAFE], "", False, "no known vulnerability in 1 packages"),
        ([SKIPPED], "No known vulnerabilities found", False, "cannot be reached"),
        (None, "requests.exceptions.ConnectionError: …", False, "cannot be reached"),
        (None, "invalid requirement", True, "invalid requirement"),
    ],
)
def test_what_an_audit_says(
    report: list[Any] | None, printed: str, fails: bool, expected: str, tmp_path: Path
) -> None:
    """A mirror without the data makes pip-audit itself say that nothing is known, with status 0."""
    program = tmp_path / "pip-audit"
    body = FAKE_AUDIT.format(report=report, printed=printed, status=int(fails or report is None))
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py", program, "requirements.txt"],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (done.returncode != 0, expected in done.stdout) == (fails, True), done.stdout


def test_each_image_of_others_can_be_named_by_its_digest() -> None:
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    services = compose["services"].values()
    images = {service["image"] for service in services} - {"glance-resolver"}
    images |= {
        service["build"]["args"]["PYTHON_IMAGE"] for service in services if "build" in service
    }
    names = {match[1] for image in images if (match := re.match(r"\$\{(\w+):-", image))}
    assert names == {"PYTHON_IMAGE", "REDIS_IMAGE"}
    assert len(images) == len(names)
