"""Runs inside the venv of requirements-services.txt: the image code of OpenStack's services, by
their public names, at one image endpoint.

    python client_services.py '{"client": "nova", "url": "http://…", …}'

Prints what client_operations.py prints. Each service gets its endpoint as an operator would give
it: from its configuration file, or by its region in Keystone's catalog.
"""

from __future__ import annotations

import configparser
import hashlib
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client_operations import FORMATS, CommandLine, Spec, main_with

IMPORT_TIMEOUT_SECONDS = 60.0


def named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def expect_error(error: type[Exception], do: Callable[[], object]) -> None:
    try:
        do()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


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

    def caller(self) -> dict[str, Any]:
        """Whose request a service handles, as its RequestContext takes it."""
        return {
            "user_id": "user",
            "project_id": self.spec["project_id"],
            "auth_token": self.spec["token"],
            "roles": ["admin"],
            "is_admin": True,
        }


class Nova(Service):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        conf = named("nova.conf", "CONF")
        conf(self.configuration({"glance": {"endpoint_override": spec["url"]}}), project="nova")
        self.context = named("nova.context", "RequestContext")(**self.caller())
        self.api = named("nova.image.glance", "API")()

    def list(self) -> None:
        assert self.spec["id"] in [image["id"] for image in self.api.get_all(self.context)]

    def show(self) -> None:
        assert self.api.get(self.context, self.spec["id"])["id"] == self.spec["id"]

    def name(self) -> None:
        (image,) = self.api.get_all(self.context, filters={"name": self.spec["name"]})
        assert image["id"] == self.spec["id"]

    def absent(self) -> None:
        not_found = named("nova.exception", "ImageNotFound")
        expect_error(not_found, lambda: self.api.get(self.context, self.spec["absent"]))

    def download(self) -> None:
        self.api.download(self.context, self.spec["id"], dest_path=self.spec["saved"])
        assert self.saved() == self.content()

    def create(self) -> None:
        record = {"name": self.spec["new"], "properties": {}, **FORMATS}
        with Path(self.spec["source"]).open("rb") as source:
            self.api.create(self.context, record, data=source)

    def change(self) -> None:
        change = {"properties": {"a": "b"}}
        self.api.update(self.context, self.spec["id"], change, purge_props=False)

    def delete(self) -> None:
        self.api.delete(self.context, self.spec["victim"])


class Cinder(Service):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        conf = named("cinder.common.config", "CONF")
        where = {"glance_api_servers": spec["url"], "auth_strategy": "keystone"}
        conf(self.configuration({"DEFAULT": where}), project="cinder")
        self.context = named("cinder.context", "RequestContext")(**self.caller())
        importlib.import_module("cinder.image.image_utils")  # the two import each other
        self.service = named("cinder.image.glance", "get_default_image_service")()

    def list(self) -> None:
        assert self.spec["id"] in [image["id"] for image in self.service.detail(self.context)]

    def show(self) -> None:
        assert self.service.show(self.context, self.spec["id"])["id"] == self.spec["id"]

    def name(self) -> None:
        (image,) = self.service.detail(self.context, filters={"name": self.spec["name"]})
        assert image["id"] == self.spec["id"]

    def absent(self) -> None:
        not_found = named("cinder.exception", "ImageNotFound")
        expect_error(not_found, lambda: self.service.show(self.context, self.spec["absent"]))

    def download(self) -> None:
        with Path(self.spec["saved"]).open("wb") as saved:
            self.service.download(self.context, self.spec["id"], saved)
        assert self.saved() == self.content()

    def create(self) -> None:
        record = {"name": self.spec["new"], "properties": {}, **FORMATS}
        made = self.service.create(self.context, record)
        with Path(self.spec["source"]).open("rb") as source:
            self.service.update(self.context, made["id"], {}, source, purge_props=False)

    def change(self) -> None:
        change = {"properties": {"a": "b"}}
        self.service.update(self.context, self.spec["id"], change, purge_props=False)

    def delete(self) -> None:
        self.service.delete(self.context, self.spec["victim"])


class Ironic(Service):
    """It reads only."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        conf = named("ironic.conf", "CONF")
        glance = {**self.login(), "endpoint_override": spec["url"]}
        conf(self.configuration({"glance": glance}), project="ironic")
        context = named("ironic.common.context", "RequestContext")(**self.caller())
        service = named("ironic.common.image_service", "GlanceImageService")
        self.service = service(context=context)

    def show(self) -> None:
        assert self.service.show(self.spec["id"])["id"] == self.spec["id"]

    def absent(self) -> None:
        not_found = named("ironic.common.exception", "ImageNotFound")
        expect_error(not_found, lambda: self.service.show(self.spec["absent"]))

    def download(self) -> None:
        checksum = hashlib.sha512(self.content()).hexdigest()
        with Path(self.spec["saved"]).open("wb") as saved:
            self.service.download(self.spec["id"], saved, checksum, "sha512")
        assert self.saved() == self.content()


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


class Heat(Service):
    """It finds images by name or id, in a region of the catalog."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        importlib.import_module("heat.common.config")
        conf = named("oslo_config.cfg", "CONF")
        named("heat.common.cache", "register_cache_configurations")(conf)
        where = {"region_name_for_services": spec["region"]}
        conf(self.configuration({"DEFAULT": where}), project="heat")
        self.context = named("heat.common.context", "RequestContext")(
            username=spec["user"],
            password=spec["password"],
            project_id=spec["project_id"],
            user_domain_id="default",
            auth_url=f"{spec['auth_url']}/v3",
            is_admin=True,
        )
        named("heat.engine.clients", "initialise")()
        self.plugin = self.context.clients.client_plugin("glance")

    def show(self) -> None:
        assert self.plugin.get_image(self.spec["id"]).id == self.spec["id"]

    def name(self) -> None:
        assert self.plugin.find_image_by_name_or_id(self.spec["name"]) == self.spec["id"]

    def absent(self) -> None:
        not_found = named("heat.engine.clients.client_exception", "EntityMatchNotFound")
        absent = self.spec["absent"]
        expect_error(not_found, lambda: self.plugin.find_image_by_name_or_id(absent))


class Magnum(Service):
    """It finds the image of a cluster by name or id, in a region of the catalog."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        conf = named("magnum.conf", "CONF")
        sections = {
            "keystone_auth": {**self.login(), "auth_url": f"{spec['auth_url']}/v3"},
            "glance_client": {"region_name": spec["region"]},
        }
        conf(self.configuration(sections), project="magnum")
        caller = {**self.caller(), "auth_token": None}
        context = named("magnum.common.context", "RequestContext")(**caller)
        self.clients = named("magnum.common.clients", "OpenStackClients")(context)
        self.validate = named("magnum.api.attr_validator", "validate_image")

    def show(self) -> None:
        assert self.validate(self.clients, self.spec["id"]).id == self.spec["id"]

    def name(self) -> None:
        assert self.validate(self.clients, self.spec["name"]).id == self.spec["id"]

    def absent(self) -> None:
        not_found = named("magnum.common.exception", "ImageNotFound")
        expect_error(not_found, lambda: self.validate(self.clients, self.spec["absent"]))


class GlanceDownload(Service):
    """Another Glance, which imports an image from a region of the catalog."""

    def download(self) -> None:
        session = named("requests", "Session")()
        session.headers["X-Auth-Token"] = self.spec["token"]
        images = f"{self.spec['importer']}/v2/images"
        made = session.post(images, json={"name": "imported", **FORMATS}).json()
        method = {
            "name": "glance-download",
            "glance_region": self.spec["region"],
            "glance_image_id": self.spec["id"],
            "glance_service_interface": "public",
        }
        answer = session.post(f"{images}/{made['id']}/import", json={"method": method})
        assert answer.status_code == 202, answer.text
        deadline = time.monotonic() + IMPORT_TIMEOUT_SECONDS
        while session.get(f"{images}/{made['id']}").json()["status"] != "active":
            assert time.monotonic() < deadline, session.get(f"{images}/{made['id']}/tasks").text
            time.sleep(0.2)
        assert session.get(f"{images}/{made['id']}/file").content == self.content()
        session.delete(f"{images}/{made['id']}")


SERVICES: dict[str, Callable[[Spec], CommandLine]] = {
    "nova": Nova,
    "cinder": Cinder,
    "ironic": Ironic,
    "glance-download": GlanceDownload,
    "octavia": Octavia,
    "heat": Heat,
    "magnum": Magnum,
}

if __name__ == "__main__":
    main_with(SERVICES)
