"""Runs inside the venv of requirements-services.txt: the image code of OpenStack's services, by
their public names, at one image endpoint.

    python client_services.py '{"client": "octavia", "url": "http://…", …}'

Prints what client_operations.py prints. Each service gets its endpoint as an operator would give
it: from its configuration file, or by its region in Keystone's catalog.
"""

from __future__ import annotations

import configparser
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client_operations import CommandLine, Spec, main_with


def named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


class Service(CommandLine):
    """A service of OpenStack with a configuration file."""

    def configuration(self, sections: dict[str, dict[str, str]]) -> list[str]:
        """Arguments of oslo.config that name a file with these sections."""
        file = Path(self.spec["saved"]).with_suffix(".conf")
        parser = configparser.RawConfigParser(default_section="none")
        parser.read_dict(sections)
        with file.open("w") as out:
            parser.write(out)
        return ["--config-file", str(file)]

    def login(self) -> dict[str, str]:
        """A section with what keystoneauth needs."""
        return {
            "auth_type": "password",
            "auth_url": self.spec["auth_url"],
            "username": self.spec["user"],
            "password": self.spec["password"],
            "project_name": self.spec["project"],
            "user_domain_id": "default",
            "project_domain_id": "default",
        }


class Octavia(Service):
    """It finds the image of its load balancers by tag."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        conf = named("octavia.common.config", "cfg").CONF
        sections = {"service_auth": self.login(), "glance": {"endpoint": spec["url"]}}
        conf(self.configuration(sections), project="octavia")
        self.images = named("octavia.image.drivers.glance_driver", "ImageManager")()

    def tagged(self) -> None:
        assert self.images.get_image_id_by_tag(self.spec["tag"]) == self.spec["id"]


SERVICES: dict[str, Callable[[Spec], CommandLine]] = {
    "octavia": Octavia,
}

if __name__ == "__main__":
    main_with(SERVICES)
