"""Clients that list before they do anything else, through the gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.glance.clients import Clients
from tests.glance.gateway import Gateway
from tests.glance.pair import Pair, image_at_both
from tests.glance.test_clients import UNKNOWN_ID, glance, openstack, run_all, sdk
from tests.support.glance import ADMIN_TOKEN

pytestmark = pytest.mark.glance

SDK_LIST = """
import json, sys, openstack
arguments, options = json.loads(sys.argv[1])
image = openstack.connect(**arguments).image
print(json.dumps([i.id for i in image.images(**options)]))
"""
SDK_FIND = """
import json, sys, openstack
arguments, names = json.loads(sys.argv[1])
image = openstack.connect(**arguments).image
print(json.dumps([getattr(image.find_image(name), "id", None) for name in names]))
"""


def listed(glance_pair: Pair) -> list[str]:
    """The ids that the servers list by themselves, each once."""
    found: set[str] = set()
    for server in glance_pair.servers.values():
        marker = ""
        while True:
            target = f"/v2/images?limit=1000{marker}"
            rows = server.request("GET", target).json()["images"]
            if not rows:
                break
            found |= {row["id"] for row in rows}
            marker = f"&marker={rows[-1]['id']}"
    return sorted(found)


def connection(gateway: Gateway) -> dict[str, Any]:
    auth = {"endpoint": f"{gateway.url}/v2", "token": ADMIN_TOKEN}
    return {"auth_type": "admin_token", "auth": auth}


def test_command_line_clients_list_the_images_of_all_locations(
    gateway: Gateway, glance_pair: Pair, clients: Clients, tmp_path: Path
) -> None:
    image = glance_pair.images["two"]["public-1"]
    name = f"image-{image.id[:8]}"
    # As Octavia finds its image.
    tagged = glance_pair.servers["two"].request("PUT", f"/v2/images/{image.id}/tags/amphora")
    assert tagged.status == 204
    commands = {
        "openstack-list": openstack(gateway, "image", "list", "-f", "json"),
        "openstack-pages": openstack(
            gateway, "image", "list", "-f", "json", "--limit", "7", "--sort", "name:asc"
        ),
        "openstack-name": openstack(gateway, "image", "show", "-f", "json", name),
        "openstack-filter": openstack(gateway, "image", "list", "-f", "json", "--name", name),
        "openstack-tag": openstack(gateway, "image", "list", "-f", "json", "--tag", "amphora"),
        "openstack-absent": openstack(gateway, "image", "show", UNKNOWN_ID),
        "openstack-no-name": openstack(gateway, "image", "show", "no-such-name"),
        "glance-list": glance(gateway, "image-list"),
        "glance-pages": glance(gateway, "image-list", "--page-size", "3", "--sort", "id:asc"),
        "glance-limit": glance(gateway, "image-list", "--limit", "9"),
        "glance-name": glance(gateway, "image-list", "--property-filter", f"name={name}"),
    }
    ran = run_all(clients, tmp_path, commands)
    for command in set(commands) - {"openstack-absent", "openstack-no-name"}:
        assert ran[command].status == 0, (command, ran[command].err)
    everything = listed(glance_pair)
    assert sorted(row["ID"] for row in json.loads(ran["openstack-list"].out)) == everything
    assert len(json.loads(ran["openstack-pages"].out)) == 7
    assert json.loads(ran["openstack-name"].out)["id"] == image.id
    for command in ("openstack-filter", "openstack-tag"):
        assert [row["ID"] for row in json.loads(ran[command].out)] == [image.id]
    for command, text in (("openstack-absent", UNKNOWN_ID), ("openstack-no-name", "no-such-name")):
        assert ran[command].status == 1
        assert f"No Image found for {text}" in ran[command].err
    for command in ("glance-list", "glance-pages"):
        assert glance_ids(ran[command].out) == everything, command
    assert len(glance_ids(ran["glance-limit"].out)) == 9
    assert glance_ids(ran["glance-name"].out) == [image.id]


def glance_ids(table: bytes) -> list[str]:
    rows = [line.split() for line in table.decode().splitlines() if line.startswith("|")]
    return sorted(row[1] for row in rows if row[1] != "ID")


def test_the_sdk_lists_and_finds_by_name(
    gateway: Gateway, glance_pair: Pair, clients: Clients, tmp_path: Path
) -> None:
    image = glance_pair.images["one"]["public-3"]
    everything = listed(glance_pair)
    for number, options in enumerate(({}, {"limit": 5}, {"sort": "name:asc", "limit": 20})):
        found = sdk(clients, tmp_path / str(number), SDK_LIST, connection(gateway), options)
        assert sorted(found) == everything, options  # type: ignore[type-var]
    names = [f"image-{image.id[:8]}", image.id, UNKNOWN_ID, "no-such-name"]
    found = sdk(clients, tmp_path / "find", SDK_FIND, connection(gateway), names)
    assert found == [image.id, image.id, None, None]


def test_an_image_at_both_is_one_row_with_both_names(gateway: Gateway, glance_pair: Pair) -> None:
    with image_at_both(glance_pair, data=b"the same") as image_id:
        for limit in (2, 1000):
            rows, target = [], f"/v2/images?limit={limit}"
            while target:
                document = gateway.get(target).json()
                rows += [row for row in document["images"] if row["id"] == image_id]
                target = document.get("next")
            assert [set(row["resolver_locations"].split(",")) for row in rows] == [{"one", "two"}]
    shared = glance_pair.images["one"]["shared"].id
    (answer,) = gateway.get(f"/resolve?name=image-{shared[:8]}").json()
    assert {owner["location"] for owner in answer["owners"]} == {"one", "two"}
