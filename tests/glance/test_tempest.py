"""Tempest's image tests pass at the gateway as at Glance, but for what docs/clients.md lists.

::

    pytest -m '' tests/glance/test_tempest.py

With GLANCE_RESOLVER_WRITE_TABLE set, the list in the document is written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.glance.catalog import Catalog, catalog
from tests.glance.client_table import DOCUMENT, PROGRAMS
from tests.glance.clients import clean_env, run_program
from tests.glance.conftest import installed
from tests.glance.install import install_clients

__all__ = ["catalog"]

pytestmark = [
    pytest.mark.glance,
    pytest.mark.balancer,
    pytest.mark.long,
    pytest.mark.timeout(3600),  # the first run installs
]

TIMEOUT_SECONDS = 900.0
METADEFS = "the gateway redirects no writes of metadata definitions"
IMPORT = "the gateway redirects no imports"
DIFFERENCES = {
    "admin.test_images_metadefs_namespace_objects": METADEFS,
    "admin.test_images_metadefs_namespace_properties": METADEFS,
    "admin.test_images_metadefs_namespace_tags": METADEFS,
    "admin.test_images_metadefs_namespaces": METADEFS,
    "admin.test_images_metadefs_resource_types": METADEFS,
    "admin.test_image_task.ImageTaskCreate": "the gateway redirects no new tasks",
    "test_images.ImportImagesTest": IMPORT,
    "test_images.BasicOperationsImagesTest.test_register_upload_get_image_file": (
        "reads the bytes of an image that has none yet: 503, where Glance sends an empty file"
    ),
}
"""Tests that do not pass everywhere, by how their names begin, and why."""
HEAD = "| tests of tempest | at Glance | redirected | carried | why |"


def outcomes(catalog: Catalog, folder: Path, region: str) -> dict[str, str]:
    """Each test and its outcome in a region of the catalog."""
    python = installed(lambda: install_clients("services")).bin("python")
    folder.mkdir()
    spec = catalog.where(region)
    if region == "redirected":
        spec["uploads"] = spec["importer"]
    command = [python, PROGRAMS / "tempest_tests.py", json.dumps(spec)]
    ran = run_program(command, clean_env(folder), folder, TIMEOUT_SECONDS)
    assert ran.status == 0, ran.err
    found: dict[str, str] = json.loads(ran.out.splitlines()[-1])
    return found


def group_of(test: str) -> str:
    """What the row is called that a test is counted in; empty for all that have no row."""
    return next((group for group in DIFFERENCES if test.startswith(group)), "")


def table(passed: dict[str, set[str]]) -> str:
    """The table, from the tests that passed in each region."""
    counts = {region: Counter(map(group_of, tests)) for region, tests in passed.items()}
    reasons = {"": "", **DIFFERENCES}
    lines = [HEAD, "|---|---|---|---|---|"]
    for group, why in reasons.items():
        name = f"`{group}`" if group else "all others"
        numbers = " | ".join(str(counts[region][group]) for region in passed)
        lines.append(f"| {name} | {numbers} | {why} |")
    return "\n".join(lines)


def test_tempest(catalog: Catalog, tmp_path: Path) -> None:
    for server in catalog.servers.values():
        # Some tests need a resource type, of which an installed Glance has many.
        namespace = "/v2/metadefs/namespaces"
        assert server.request("POST", namespace, {"namespace": "tests"}).status == 201
        kind = {"name": "OS::Glance::Image"}
        answer = server.request("POST", f"{namespace}/tests/resource_types", kind)
        assert answer.status == 201
    found = {region: outcomes(catalog, tmp_path / region, region) for region in catalog.urls}
    passed = {
        region: {test for test, outcome in each.items() if outcome == "passed"}
        for region, each in found.items()
    }
    failed = {test: why for test, why in found["direct"].items() if why.startswith("failed")}
    assert failed == {}
    differing = {
        (region, test): each.get(test, "not run")
        for region, each in found.items()
        for test in passed["direct"] - passed[region]
    }
    assert {k: v for k, v in differing.items() if not group_of(k[1])} == {}
    measured = table(passed)
    text = DOCUMENT.read_text()
    start = text.index(HEAD)
    end = text.index("\n\n", start)
    if os.environ.get("GLANCE_RESOLVER_WRITE_TABLE"):
        DOCUMENT.write_text(text[:start] + measured + text[end:])
        return
    assert text[start:end] == measured, differing
