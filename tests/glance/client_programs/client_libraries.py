"""Runs inside a venv with the library: what other libraries and tools can do at an image endpoint.

    python client_libraries.py '{"client": "libcloud", "url": "http://…", …}'

Prints what client_operations.py prints.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from client_operations import CommandLine, Sdk, Spec, main_with


class Aria2(CommandLine):
    """For reading only, over several connections."""

    def get(self, path: str, status: int = 0) -> bytes:
        saved = Path(self.spec["saved"])
        saved.unlink(missing_ok=True)
        command = ["aria2c", "-q", "--no-conf", "--max-tries=1", "-x4", "-s4", "-k1M"]
        command += ["--header", f"X-Auth-Token: {self.spec['token']}"]
        command += ["--dir", str(saved.parent), "--out", saved.name, self.spec["url"] + path]
        ran = subprocess.run(command, capture_output=True, check=False)
        assert ran.returncode == status, f"exit status {ran.returncode}"
        return saved.read_bytes() if saved.exists() else b""

    def list(self) -> None:
        assert self.spec["id"].encode() in self.get("/v2/images")

    def show(self) -> None:
        assert json.loads(self.get(f"/v2/images/{self.spec['id']}"))["id"] == self.spec["id"]

    def name(self) -> None:
        assert self.spec["id"].encode() in self.get(f"/v2/images?name={self.spec['name']}")

    def tagged(self) -> None:
        assert self.spec["id"].encode() in self.get(f"/v2/images?tag={self.spec['tag']}")

    def absent(self) -> None:
        self.get(f"/v2/images/{self.spec['absent']}", 3)  # "resource was not found"

    def download(self) -> None:
        assert self.get(f"/v2/images/{self.spec['id']}/file") == self.content()


LIBRARIES: dict[str, Callable[[Spec], CommandLine]] = {
    "openstacksdk 0.61": Sdk,
    "aria2c": Aria2,
}

if __name__ == "__main__":
    main_with(LIBRARIES)
