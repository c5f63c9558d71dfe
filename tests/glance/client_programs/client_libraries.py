"""Runs inside a venv with the library: what other libraries and tools can do at an image endpoint.

    python client_libraries.py '{"client": "aria2c", "url": "http://…", …}'

Prints what client_operations.py prints.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from client_operations import CommandLine, Downloader, Sdk, Spec, main_with


class Aria2(Downloader):
    """Over several connections."""

    not_found_status = 3  # "resource was not found"

    def fetch(self, path: str) -> tuple[int, bytes]:
        saved = Path(self.spec["saved"])
        saved.unlink(missing_ok=True)
        command = ["aria2c", "-q", "--no-conf", "--max-tries=1", "-x4", "-s4", "-k1M"]
        command += ["--header", f"X-Auth-Token: {self.spec['token']}"]
        command += ["--dir", str(saved.parent), "--out", saved.name, self.spec["url"] + path]
        ran = subprocess.run(command, capture_output=True, check=False)
        return ran.returncode, saved.read_bytes() if saved.exists() else b""


LIBRARIES: dict[str, Callable[[Spec], CommandLine]] = {
    "openstacksdk 0.61": Sdk,
    "aria2c": Aria2,
}

if __name__ == "__main__":
    main_with(LIBRARIES)
