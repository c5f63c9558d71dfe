"""Runs inside a venv with tempest: its tests of the image API, at one image endpoint.

    python tempest_tests.py '{"region": "direct", "auth_url": "http://…", …}'

Prints a JSON object of each test and its outcome: ``passed``, ``skipped: …`` or ``failed: …``. With
``uploads`` in the argument, the bytes of images go to the Glance at that URL, and only these.
"""

from __future__ import annotations

import configparser
import importlib
import json
import os
import pkgutil
import sys
import unittest
import urllib.request
from pathlib import Path
from typing import Any

PACKAGE = "tempest.api.image"


def configure(spec: dict[str, str]) -> None:
    """Writes tempest's configuration into the working directory, and names it to tempest."""
    others = ("cinder", "neutron", "nova", "swift", "horizon")
    sections = {
        "auth": {
            "admin_username": spec["user"],
            "admin_password": spec["password"],
            "admin_project_name": spec["project"],
            "admin_domain_name": "Default",
            "create_isolated_networks": "false",
        },
        "identity": {"uri_v3": f"{spec['auth_url']}/v3", "auth_version": "v3"},
        "image": {"region": spec["region"], "endpoint_type": "public"},
        "image-feature-enabled": {"image_format_enforcement": "false"},
        "service_available": {"glance": "true", **dict.fromkeys(others, "false")},
        "oslo_concurrency": {"lock_path": str(Path.cwd())},
        "DEFAULT": {"log_file": str(Path.cwd() / "tempest.log")},
    }
    parser = configparser.RawConfigParser(default_section="none")
    parser.read_dict(sections)
    with Path("tempest.conf").open("w") as out:
        parser.write(out)
    os.environ |= {"TEMPEST_CONFIG_DIR": str(Path.cwd()), "TEMPEST_CONFIG": "tempest.conf"}


def upload_to(url: str) -> None:
    """Makes tempest send bytes to the Glance at `url`, where a gateway has sent their records."""
    client = importlib.import_module("tempest.lib.services.image.v2.images_client").ImagesClient

    def store(self: Any, image_id: str, data: Any) -> None:
        content = data.read() if hasattr(data, "read") else data
        headers = {"X-Auth-Token": self.token, "Content-Type": "application/octet-stream"}
        target = f"{url}/v2/images/{image_id}/file"
        request = urllib.request.Request(target, content, headers, method="PUT")
        urllib.request.urlopen(request).close()

    client.store_image_file = store


class Outcomes(unittest.TestResult):
    """The outcome of each test; an error of a class's preparation is that of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def record(self, test: Any, outcome: str) -> None:
        self.found[test.id().split("[")[0].replace(f"{PACKAGE}.v2.", "")] = outcome

    def addSuccess(self, test: Any) -> None:
        self.record(test, "passed")

    def addSkip(self, test: Any, reason: str) -> None:
        self.record(test, f"skipped: {reason}")

    def addFailure(self, test: Any, error: Any) -> None:
        self.record(test, f"failed: {str(error[1])[-600:]}")

    addError = addFailure


def main(spec: dict[str, str]) -> dict[str, str]:
    configure(spec)
    if "uploads" in spec:
        upload_to(spec["uploads"])
    package = importlib.import_module(PACKAGE)
    names = [each.name for each in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")]
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        [name for name in names if "test_" in name.rpartition(".")[2]]
    )
    outcomes = Outcomes()
    suite.run(outcomes)
    return outcomes.found


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(sys.argv[1]))))
