"""``openstack image locate``: our plugin in the real OpenStack client, installed from a wheel."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from resolver.models import format_id
from resolver.standin.call import Caller
from tests.client.servers import Scripted, scripted
from tests.gateway.conftest import Gateway, Start, cloud, start
from tests.glance.clients import CLIENT_TIMEOUT, Ran, clean_env, run_program
from tests.glance.conftest import installed
from tests.glance.gateway import ROOT
from tests.glance.install import Home, install_openstackclient
from tests.support.clouds import Cloud
from tests.support.fake_keystone import FakeKeystone
from tests.support.ids import make_ids

__all__ = ["cloud", "start"]

pytestmark = pytest.mark.glance

ONE, BOTH, NOWHERE = (format_id(image_id) for image_id in make_ids(3))
USERS = {f"token-{number}": Caller("project") for number in range(1, 9)}
"""By token: one for each login at the Keystone."""
TOKENS = {**USERS, "operator": Caller("admin", admin=True)}
LATER = (("Retry-After", "3600"),)
"""Longer than the client waits. It would ask a gateway three times more, in five seconds each."""

Openstack = Callable[..., Awaitable[Ran]]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    """The OpenStack client, and a directory with the wheel of `client/` installed in it."""
    home = installed(install_openstackclient)
    target = tmp_path_factory.mktemp("plugin")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", target]
    subprocess.run(
        [home.bin("python"), "-m", "pip", "install", *options, ROOT / "client"],
        check=True,
        timeout=CLIENT_TIMEOUT,
    )
    return home, target


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start(probe=True, probe_timeout=5, index_timeout=5)


@pytest.fixture
async def locations(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """`one` and `two`, which want tokens; the gateway has an admin's."""
    monkeypatch.setenv("GLANCE_TOKEN", "operator")
    for number, name in enumerate(("one", "two"), 1):
        auth = {"token_env": "GLANCE_TOKEN"}
        fields = {"region": name.title(), "priority": number, "auth": auth}
        server = await cloud.add(name, tokens=TOKENS, fields=fields)
        server.add(id=BOTH, name="debian")
        await cloud.claim(name, BOTH)
    cloud.servers["one"].add(id=ONE, name="fedora")
    await cloud.claim("one", ONE)
    return cloud


def service(url: str) -> dict[str, Any]:
    endpoint = {"id": "e", "interface": "public", "region": "R", "region_id": "R", "url": url}
    return {"id": "s", "type": "image-resolver", "name": "resolver", "endpoints": [endpoint]}


def openstack_of(plugin: tuple[Home, Path], keystone: FakeKeystone, home: Path) -> Openstack:
    """Runs the OpenStack client as a user of that Keystone."""
    venv, target = plugin
    login = {f"OS_{name.upper()}": value for name, value in keystone.auth().items()}

    async def run(*arguments: str, **environment: str) -> Ran:
        env = {"PYTHONPATH": str(target), "OS_IDENTITY_API_VERSION": "3", **login, **environment}
        command = [venv.bin("openstack"), "image", "locate", *arguments]
        return await asyncio.to_thread(run_program, command, clean_env(home, env), home)

    return run


async def test_ids_and_names_by_the_catalog(
    gateway: Gateway, locations: Cloud, plugin: tuple[Home, Path], tmp_path: Path
) -> None:
    async with FakeKeystone(catalog=[service(gateway.url)]) as keystone:
        openstack = openstack_of(plugin, keystone, tmp_path)
        ran = await openstack("-f", "json", ONE, "debian")
        assert ran.status == 0, ran.err
        rows = json.loads(ran.out)
        assert [(row["Image"], row["ID"], row["Location"], row["Region"]) for row in rows] == [
            (ONE, ONE, "one", "One"),
            ("debian", BOTH, "one", "One"),
            ("debian", BOTH, "two", "Two"),
        ]
        assert rows[0]["Outcome"] == "found"
        assert rows[0]["URL"] == f"{locations.servers['one'].url}/v2/images/{ONE}"
        ran = await openstack("-f", "value", "-c", "Location", "--exclude", "one", "debian")
        assert (ran.status, ran.out.split()) == (0, [b"two"])
        document = {"id": NOWHERE, "outcome": "unknown", "missing": ["two"], "owners": []}
        async with scripted(Scripted(503, document, LATER)) as server:
            ran = await openstack("-f", "json", "--resolver-url", server.url, NOWHERE)
        assert (ran.status, json.loads(ran.out)[0]["Outcome"]) == (4, "unknown")


async def test_texts_of_a_hostile_gateway_are_harmless(
    plugin: tuple[Home, Path], tmp_path: Path
) -> None:
    names = ("location", "region", "uri", "url", "health", "state", "status")
    owner = dict.fromkeys(names, "\x1b]0;x\x07\u202e")
    found = {"id": NOWHERE, "outcome": "found", "owners": [owner], "conflict": False}
    async with FakeKeystone() as keystone:
        openstack = openstack_of(plugin, keystone, tmp_path)
        for script in (Scripted(200, found), Scripted(400, {"code": "a", "detail": "\x1b[2J"})):
            async with scripted(script) as server:
                ran = await openstack("-f", "value", "--resolver-url", server.url, NOWHERE)
            text = (ran.out.decode() + ran.err).replace("\n", "")
            assert "?" in text
            assert text.isprintable(), repr(text)


async def test_without_a_catalog_entry(
    gateway: Gateway, locations: Cloud, plugin: tuple[Home, Path], tmp_path: Path
) -> None:
    async with FakeKeystone() as keystone:
        openstack = openstack_of(plugin, keystone, tmp_path)
        ran = await openstack(ONE)
        assert ran.status == 1
        assert "the catalog has no service of type image-resolver: give --resolver-url" in ran.err
        ran = await openstack("--resolver-url", gateway.url, "--fresh", ONE)
        assert (ran.status, ran.err) == (0, "")
        ran = await openstack("-f", "json", NOWHERE, "alpine", OS_IMAGE_RESOLVER_URL=gateway.url)
        outcomes = [(row["Image"], row["Outcome"]) for row in json.loads(ran.out)]
        assert (ran.status, outcomes) == (3, [(NOWHERE, "absent"), ("alpine", "no match")])
