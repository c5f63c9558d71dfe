"""Runs inside the Glance venv: what one client can do at one image endpoint.

    python client_operations.py '{"client": "openstack", "url": "http://…", …}'

Prints a JSON object of each operation and what came of it: empty where it worked, else why not. An
operation that a client does not have is left out. tests/glance/client_table.py says what the
argument has.
"""

import contextlib
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMATS = {"disk_format": "raw", "container_format": "bare"}
FLAGS = ("--disk-format", "raw", "--container-format", "bare")
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
Spec = dict[str, str]


class CommandLine:
    """A Python client whose commands run in this process, since each start takes a second."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def main(self, arguments: list[str]) -> int:
        raise NotImplementedError

    def run(self, *command: str) -> tuple[int, str]:
        """(exit status, output and errors)."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                status = self.main(list(command)) or 0
            except SystemExit as error:
                status = int(error.code or 0) if isinstance(error.code, int | None) else 1
            except Exception as error:
                status = 1
                out.write(f"{error}")
        return status, out.getvalue()

    def expect(self, *command: str) -> str:
        status, out = self.run(*command)
        assert status == 0, out.strip().splitlines()[-1] if out.strip() else f"exit status {status}"
        return out

    def saved(self) -> bytes:
        return Path(self.spec["saved"]).read_bytes()

    def content(self) -> bytes:
        return Path(self.spec["source"]).read_bytes()


class OpenStack(CommandLine):
    def main(self, arguments: list[str]) -> int:
        shell = importlib.import_module("openstackclient.shell").OpenStackShell()
        where = ["--os-auth-type", "admin_token", "--os-endpoint", f"{self.spec['url']}/v2"]
        return int(shell.run([*where, "--os-token", self.spec["token"], *arguments]) or 0)

    def list(self) -> None:
        rows = json.loads(self.expect("image", "list", "-f", "json"))
        assert self.spec["id"] in [row["ID"] for row in rows]

    def show(self) -> None:
        self.shows(self.spec["id"])

    def name(self) -> None:
        self.shows(self.spec["name"])

    def tagged(self) -> None:
        rows = json.loads(self.expect("image", "list", "-f", "json", "--tag", self.spec["tag"]))
        assert [row["ID"] for row in rows] == [self.spec["id"]]

    def shows(self, what: str) -> None:
        shown = json.loads(self.expect("image", "show", "-f", "json", what))
        assert shown["id"] == self.spec["id"]

    def absent(self) -> None:
        status, out = self.run("image", "show", self.spec["absent"])
        assert (status, "No Image found for" in out) == (1, True), out

    def download(self) -> None:
        self.expect("image", "save", "--file", self.spec["saved"], self.spec["id"])
        assert self.saved() == self.content()

    def create(self) -> None:
        file = ("--file", self.spec["source"])
        self.expect("image", "create", *FLAGS, *file, self.spec["new"])

    def change(self) -> None:
        self.expect("image", "set", "--property", "a=b", self.spec["id"])

    def tag(self) -> None:
        self.expect("image", "set", "--tag", "seen", self.spec["id"])

    def delete(self) -> None:
        self.expect("image", "delete", self.spec["victim"])


class Glance(CommandLine):
    def main(self, arguments: list[str]) -> int:
        shell = importlib.import_module("glanceclient.shell").OpenStackImagesShell()
        where = ["--os-image-url", self.spec["url"], "--os-auth-token", self.spec["token"]]
        return int(shell.main([*where, *arguments]) or 0)

    def list(self) -> None:
        assert self.spec["id"] in self.expect("image-list")

    def show(self) -> None:
        assert self.spec["id"] in self.expect("image-show", self.spec["id"])

    def tagged(self) -> None:
        assert self.spec["id"] in self.expect("image-list", "--tag", self.spec["tag"])

    def absent(self) -> None:
        status, out = self.run("image-show", self.spec["absent"])
        assert (status, "404" in out or "No image found" in out) == (1, True), out

    def download(self) -> None:
        self.expect("image-download", "--file", self.spec["saved"], self.spec["id"])
        assert self.saved() == self.content()

    def create(self) -> None:
        file = ("--file", self.spec["source"])
        self.expect("image-create", *FLAGS, *file, "--name", self.spec["new"])

    def change(self) -> None:
        self.expect("image-update", "--property", "a=b", self.spec["id"])

    def tag(self) -> None:
        self.expect("image-tag-update", self.spec["id"], "seen")

    def delete(self) -> None:
        self.expect("image-delete", self.spec["victim"])


class Sdk(CommandLine):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        auth = {"endpoint": f"{spec['url']}/v2", "token": spec["token"]}
        openstack = importlib.import_module("openstack")
        self.image: Any = openstack.connect(auth_type="admin_token", auth=auth).image

    def list(self) -> None:
        assert self.spec["id"] in [image.id for image in self.image.images()]

    def show(self) -> None:
        assert self.image.get_image(self.spec["id"]).id == self.spec["id"]

    def name(self) -> None:
        assert self.image.find_image(self.spec["name"]).id == self.spec["id"]

    def tagged(self) -> None:
        assert [image.id for image in self.image.images(tag=self.spec["tag"])] == [self.spec["id"]]

    def absent(self) -> None:
        assert self.image.find_image(self.spec["absent"]) is None

    def download(self) -> None:
        assert self.image.download_image(self.spec["id"]).content == self.content()

    def create(self) -> None:
        self.image.create_image(self.spec["new"], filename=self.spec["source"], **FORMATS)

    def change(self) -> None:
        self.image.update_image(self.spec["id"], a="b")

    def tag(self) -> None:
        self.image.add_tag(self.spec["id"], "seen")

    def delete(self) -> None:
        self.image.delete_image(self.spec["victim"], ignore_missing=False)


class Curl(CommandLine):
    flags: tuple[str, ...] = ()

    def call(self, path: str, *arguments: str, status: str = "200") -> bytes:
        command = ["curl", "-sS", "--noproxy", "*", "-w", "\n%{http_code}", *self.flags]
        command += ["-H", f"X-Auth-Token: {self.spec['token']}", *arguments]
        ran = subprocess.run([*command, self.spec["url"] + path], capture_output=True, check=True)
        body, _, got = ran.stdout.rpartition(b"\n")
        assert got.decode() == status, f"status {got.decode()}"
        return body

    def list(self) -> None:
        rows = json.loads(self.call("/v2/images"))["images"]
        assert self.spec["id"] in [row["id"] for row in rows]

    def show(self) -> None:
        assert json.loads(self.call(f"/v2/images/{self.spec['id']}"))["id"] == self.spec["id"]

    def name(self) -> None:
        (row,) = json.loads(self.call(f"/v2/images?name={self.spec['name']}"))["images"]
        assert row["id"] == self.spec["id"]

    def tagged(self) -> None:
        (row,) = json.loads(self.call(f"/v2/images?tag={self.spec['tag']}"))["images"]
        assert row["id"] == self.spec["id"]

    def absent(self) -> None:
        self.call(f"/v2/images/{self.spec['absent']}", status="404")

    def download(self) -> None:
        assert self.call(f"/v2/images/{self.spec['id']}/file") == self.content()

    def create(self) -> None:
        record = json.dumps({"name": self.spec["new"], **FORMATS})
        kind = ("-H", "Content-Type: application/json")
        made = json.loads(self.call("/v2/images", *kind, "-d", record, status="201"))
        kind = ("-H", "Content-Type: application/octet-stream")
        self.call(f"/v2/images/{made['id']}/file", *kind, "-T", self.spec["source"], status="204")

    def change(self) -> None:
        body = json.dumps([{"op": "add", "path": "/a", "value": "b"}])
        kind = ("-X", "PATCH", "-H", f"Content-Type: {PATCH_TYPE}", "-d", body)
        self.call(f"/v2/images/{self.spec['id']}", *kind)

    def tag(self) -> None:
        self.call(f"/v2/images/{self.spec['id']}/tags/seen", "-X", "PUT", status="204")

    def delete(self) -> None:
        self.call(f"/v2/images/{self.spec['victim']}", "-X", "DELETE", status="204")


class CurlWithRedirects(Curl):
    flags = ("-L",)


class Downloader(CommandLine):
    """A program that fetches one URL: for reading only."""

    not_found_status: int
    """Its exit status where the answer is 404."""

    def fetch(self, path: str) -> tuple[int, bytes]:
        """(exit status, body of the answer)."""
        raise NotImplementedError

    def get(self, path: str, status: int = 0) -> bytes:
        exit_status, body = self.fetch(path)
        assert exit_status == status, f"exit status {exit_status}"
        return body

    def list(self) -> None:
        assert self.spec["id"].encode() in self.get("/v2/images")

    def show(self) -> None:
        assert json.loads(self.get(f"/v2/images/{self.spec['id']}"))["id"] == self.spec["id"]

    def name(self) -> None:
        assert self.spec["id"].encode() in self.get(f"/v2/images?name={self.spec['name']}")

    def tagged(self) -> None:
        assert self.spec["id"].encode() in self.get(f"/v2/images?tag={self.spec['tag']}")

    def absent(self) -> None:
        self.get(f"/v2/images/{self.spec['absent']}", self.not_found_status)

    def download(self) -> None:
        assert self.get(f"/v2/images/{self.spec['id']}/file") == self.content()


class Wget(Downloader):
    not_found_status = 8  # "server issued an error response"

    def fetch(self, path: str) -> tuple[int, bytes]:
        command = ["wget", "-q", "--no-proxy", "-O", "-", "--tries=1"]
        command += ["--header", f"X-Auth-Token: {self.spec['token']}", self.spec["url"] + path]
        ran = subprocess.run(command, capture_output=True, check=False)
        return ran.returncode, ran.stdout


CLIENTS: dict[str, Callable[[Spec], CommandLine]] = {
    "openstack": OpenStack,
    "glance": Glance,
    "openstacksdk": Sdk,
    "curl -L": CurlWithRedirects,
    "curl": Curl,
    "wget": Wget,
}
OPERATIONS = (
    *("list", "show", "name", "tagged", "absent", "download"),
    *("create", "change", "tag", "delete"),
)


def measured(client: CommandLine) -> dict[str, str]:
    """What came of each operation that the client has."""
    found = {}
    for operation in OPERATIONS:
        do = getattr(client, operation, None)
        if do is None:
            continue
        try:
            do()
        except Exception as error:
            found[operation] = str(error)[:300] or type(error).__name__
        else:
            found[operation] = ""
    return found


def main_with(clients: dict[str, Callable[[Spec], CommandLine]]) -> None:
    """Prints what the client that the argument names can do."""
    spec = json.loads(sys.argv[1])
    print("\n" + json.dumps(measured(clients[spec["client"]](spec))))


if __name__ == "__main__":
    main_with(CLIENTS)
