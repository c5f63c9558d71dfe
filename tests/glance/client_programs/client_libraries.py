"""Runs inside a venv with the library: what other libraries and tools can do at an image endpoint.

    python client_libraries.py '{"client": "aria2c", "url": "http://…", …}'

Prints what client_operations.py prints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client_operations import FORMATS, CommandLine, Downloader, Sdk, Spec, main_with


class Libcloud(CommandLine):
    """It reads and changes images; it makes new ones of servers only."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        from libcloud.compute.providers import get_driver  # noqa: PLC0415
        from libcloud.compute.types import Provider  # noqa: PLC0415

        self.driver: Any = get_driver(Provider.OPENSTACK)(
            spec["user"],
            spec["password"],
            ex_force_auth_url=spec["auth_url"],
            ex_force_auth_version="3.x_password",
            ex_force_service_region=spec["region"],
            ex_tenant_name=spec["project"],
            ex_domain_name="Default",
            api_version="2.2",
        )

    def list(self) -> None:
        assert self.spec["id"] in [image.id for image in self.driver.list_images()]

    def show(self) -> None:
        assert self.driver.get_image(self.spec["id"]).id == self.spec["id"]

    def absent(self) -> None:
        status = 200
        try:
            self.driver.get_image(self.spec["absent"])
        except Exception as error:
            status = getattr(error, "code", 0)
        assert status == 404, status

    def change(self) -> None:
        change = [{"op": "add", "path": "/a", "value": "b"}]
        self.driver.ex_update_image(self.spec["id"], change)


class Ansible(CommandLine):
    """The modules `image_info` and `image` of the collection openstack.cloud."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        cloud = {
            "region_name": spec["region"],
            "auth": {
                "auth_url": spec["auth_url"],
                "username": spec["user"],
                "password": spec["password"],
                "project_name": spec["project"],
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
        }
        Path("clouds.yaml").write_text(json.dumps({"clouds": {"cloud": cloud}}))

    def module(self, module: str, /, **arguments: Any) -> dict[str, Any]:
        program = Path(sys.executable).with_name("ansible")
        given = json.dumps({"cloud": "cloud", **arguments})
        command = [program, "localhost", "-m", f"openstack.cloud.{module}", "-a", given]
        environment = {
            **os.environ,
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "LC_ALL": "C.UTF-8",
        }
        ran = subprocess.run(command, env=environment, capture_output=True, check=False)
        try:
            (play,) = json.loads(ran.stdout)["plays"]
        except ValueError:
            raise AssertionError((ran.stdout + ran.stderr).decode()[-300:]) from None
        answer: dict[str, Any] = play["tasks"][0]["hosts"]["localhost"]
        assert ran.returncode == 0, answer.get("msg") or answer
        return answer

    def ids(self, **arguments: Any) -> list[str]:
        return [image["id"] for image in self.module("image_info", **arguments)["images"]]

    def list(self) -> None:
        assert self.spec["id"] in self.ids()

    def show(self) -> None:
        assert self.ids(name=self.spec["id"]) == [self.spec["id"]]

    def name(self) -> None:
        assert self.ids(name=self.spec["name"]) == [self.spec["id"]]

    def tagged(self) -> None:
        assert self.ids(filters={"tags": [self.spec["tag"]]}) == [self.spec["id"]]

    def absent(self) -> None:
        assert self.ids(name=self.spec["absent"]) == []

    def create(self) -> None:
        self.module("image", name=self.spec["new"], filename=self.spec["source"], **FORMATS)

    def change(self) -> None:
        self.module("image", id=self.spec["id"], name=self.spec["name"], properties={"a": "b"})

    def delete(self) -> None:
        self.module("image", name=self.spec["victim"], state="absent")


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
    "libcloud": Libcloud,
    "ansible": Ansible,
    "aria2c": Aria2,
}

if __name__ == "__main__":
    main_with(LIBRARIES)
