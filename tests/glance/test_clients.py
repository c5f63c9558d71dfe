"""Every image of two real Glance servers is found through the gateway, by the common clients."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.glance.clients import Clients, Ran
from tests.glance.gateway import SWEEP_TIMEOUT, Gateway
from tests.glance.pair import Pair
from tests.support.carriers import Carrier
from tests.support.glance import ADMIN_TOKEN, Image
from tests.support.wait import wait_until_blocking

pytestmark = pytest.mark.glance

KINDS = ("public-31", "private", "community", "hidden", "queued", "upper-case", "shared")
UNKNOWN_ID = "6f0d5c1a-0000-4000-8000-00000000dead"
CURLS = 8

SDK_READ_ALL = """
import json, sys, openstack
arguments, ids = json.loads(sys.argv[1])
image = openstack.connect(**arguments).image
print(json.dumps({i: [image.get_image(i).id, image.download_image(i).content.hex()] for i in ids}))
"""
SDK_READ_ONE = """
import json, sys, openstack
arguments, image_id = json.loads(sys.argv[1])
image = openstack.connect(**arguments).image
try:
    image.get_image(image_id)
except openstack.exceptions.NotFoundException as error:
    print(json.dumps(error.response.status_code))
"""


def claims(gateway: Gateway, location: str) -> int:
    """What ``GET /index`` counts for one location."""
    count: int = gateway.get("/index").json()["locations"][location]["claims"]
    return count


def glance(gateway: Gateway | Carrier, *command: str) -> list[str]:
    return ["glance", "--os-image-url", gateway.url, "--os-auth-token", ADMIN_TOKEN, *command]


def openstack(gateway: Gateway | Carrier, *command: str) -> list[str]:
    # The token plugin discovers nothing, so the endpoint has to say which API.
    where = ["--os-auth-type", "admin_token", "--os-endpoint", f"{gateway.url}/v2"]
    return ["openstack", *where, "--os-token", ADMIN_TOKEN, *command]


def run_all(clients: Clients, directory: Path, commands: dict[str, list[str]]) -> dict[str, Ran]:
    """Runs each command in a new empty HOME below `directory`, named by its key."""
    return {name: clients.run(directory / name, *command) for name, command in commands.items()}


def sdk(clients: Clients, directory: Path, script: str, *data: object) -> object:
    """Runs a script with `data` as its argument; returns the JSON it prints."""
    ran = clients.run(directory / "sdk", "python", "-c", script, json.dumps(data))
    assert ran.status == 0, ran.err
    return json.loads(ran.out)


def curl(gateway: Gateway, target: str) -> bytes:
    command = ["curl", "-sSfL", "--noproxy", "*", "-H", f"X-Auth-Token: {ADMIN_TOKEN}"]
    ran = subprocess.run([*command, gateway.url + target], capture_output=True, check=False)
    assert ran.returncode == 0, f"{target}: {ran.stderr.decode()}"
    return ran.stdout


def test_every_image_resolves_to_its_owners(gateway: Gateway, glance_pair: Pair) -> None:
    for _, image in glance_pair.all_images():
        response = gateway.get(f"/resolve/{image.id}")
        assert response.status == 200, response
        answer = response.json()
        uris = {owner["location"]: owner["uri"] for owner in answer["owners"]}
        assert uris == {
            name: f"{glance_pair.servers[name].url}/v1/images/{image.id}"
            for name in glance_pair.owners(image.id)
        }
        assert answer["outcome"] == "found"
        assert answer["uri"] == answer["owners"][0]["uri"]
        assert answer["missing"] == []


def test_the_shared_image_names_both_owners(gateway: Gateway, glance_pair: Pair) -> None:
    shared = glance_pair.images["one"]["shared"]
    for name in glance_pair.servers:  # now that both have it, their bytes are compared
        swept = gateway.operator("locations", "sweep", name, "--wait")
        assert swept.status == 0, swept.err
    owners = gateway.get(f"/resolve/{shared.id}").json()["owners"]
    assert {(owner["location"], owner["region"]) for owner in owners} == {
        ("one", "RegionOne"),
        ("two", "RegionTwo"),
    }
    redirect = gateway.get(f"/v2/images/{shared.id}")
    targets = {f"{s.url}/v2/images/{shared.id}" for s in glance_pair.servers.values()}
    (duplicate,) = targets - {redirect.headers["Location"]}
    assert f"<{duplicate}>" in redirect.headers["Link"]
    assert "rel=duplicate" in redirect.headers["Link"].replace('"', "")


def test_a_bulk_request_finds_every_image(gateway: Gateway, glance_pair: Pair) -> None:
    ids = [image.id for _, image in glance_pair.all_images()]
    answers = gateway.post("/resolve", [*ids, UNKNOWN_ID]).json()
    found = [{owner["location"] for owner in answer.get("owners", [])} for answer in answers]
    assert found == [*(glance_pair.owners(image_id) for image_id in ids), set()]
    assert [a["outcome"] for a in answers] == [*("found" for _ in ids), "absent"]


def test_redirects_lead_to_the_owner(gateway: Gateway, glance_pair: Pair) -> None:
    for name, image in glance_pair.in_one_region():
        target = f"/v2/images/{image.id}"
        rest = "" if image.queued else "/file"
        response = gateway.get(f"{target}{rest}?a=b%2Fc")
        assert response.status == 307
        owner = glance_pair.servers[name].url
        assert response.headers["Location"] == f"{owner}{target}{rest}?a=b%2Fc"


def test_curl_reads_every_image(gateway: Gateway, glance_pair: Pair) -> None:
    def read(image: Image) -> None:
        assert json.loads(curl(gateway, f"/v2/images/{image.id}"))["id"] == image.id
        assert curl(gateway, f"/v2/images/{image.id}/file") == image.data

    with ThreadPoolExecutor(CURLS) as pool:
        list(pool.map(read, (image for _, image in glance_pair.with_data())))


@pytest.mark.parametrize("kind", ["private", "upper-case", "shared"])
def test_another_spelling_reaches_the_image(gateway: Gateway, glance_pair: Pair, kind: str) -> None:
    image = glance_pair.images["two"][kind]
    undashed = image.id.replace("-", "")
    for spelling in (image.id.lower(), image.id.upper(), undashed, f"urn:uuid:{image.id}"):
        assert curl(gateway, f"/v2/images/{spelling}/file") == image.data


@pytest.mark.parametrize("kind", KINDS)
def test_command_line_clients(
    gateway: Gateway, glance_pair: Pair, clients: Clients, tmp_path: Path, kind: str
) -> None:
    image = glance_pair.images["one"][kind]
    save = ("--file", "out.bin", image.id)
    commands = {
        "glance-show": glance(gateway, "image-show", image.id),
        "openstack-show": openstack(gateway, "image", "show", "-f", "json", image.id),
        "glance-save": glance(gateway, "image-download", *save),
    }
    if not image.queued:  # of that the SDK tries again and again to get the data
        commands["openstack-save"] = openstack(gateway, "image", "save", *save)
    ran = run_all(clients, tmp_path, commands)
    for name in ("glance-show", "openstack-show"):
        assert ran[name].status == 0, ran[name].err
    rows = [line.split() for line in ran["glance-show"].out.decode().splitlines()]
    assert ["|", "id", "|", image.id, "|"] in rows
    assert json.loads(ran["openstack-show"].out)["id"] == image.id
    if image.queued:
        assert "has no data" in ran["glance-save"].err
    else:
        assert (ran["glance-save"].status, ran["glance-save"].file) == (0, image.data)
        assert (ran["openstack-save"].status, ran["openstack-save"].file) == (0, image.data)


def test_command_line_clients_report_an_absent_image(
    gateway: Gateway, clients: Clients, tmp_path: Path
) -> None:
    commands = {
        "glance-show": glance(gateway, "image-show", UNKNOWN_ID),
        "openstack-show": openstack(gateway, "image", "show", UNKNOWN_ID),
        "glance-save": glance(gateway, "image-download", "--file", "out.bin", UNKNOWN_ID),
        "openstack-save": openstack(gateway, "image", "save", "--file", "out.bin", UNKNOWN_ID),
    }
    for name, ran in run_all(clients, tmp_path, commands).items():
        assert ran.status == 1, f"{name}: {ran}"
        assert "404" in ran.err or "No Image found" in ran.err, f"{name}: {ran.err}"
        assert not ran.file, name


def test_sdk_with_a_token(
    gateway: Gateway, glance_pair: Pair, clients: Clients, tmp_path: Path
) -> None:
    auth = {"endpoint": f"{gateway.url}/v2", "token": ADMIN_TOKEN}
    connect = {"auth_type": "admin_token", "auth": auth}
    images = {image.id: image.data.hex() for _, image in glance_pair.with_data()}
    read = sdk(clients, tmp_path, SDK_READ_ALL, connect, list(images))
    assert read == {image_id: [image_id, data] for image_id, data in images.items()}


def test_sdk_without_a_token(
    open_gateway: Gateway, open_pair: Pair, clients: Clients, tmp_path: Path
) -> None:
    connect = {"auth_type": "none", "auth": {"endpoint": open_gateway.url}}
    images = {image.id: image.data.hex() for _, image in open_pair.with_data()}
    read = sdk(clients, tmp_path, SDK_READ_ALL, connect, list(images))
    assert read == {image_id: [image_id, data] for image_id, data in images.items()}


def test_the_sdk_reports_an_absent_image(
    gateway: Gateway, clients: Clients, tmp_path: Path
) -> None:
    auth = {"endpoint": f"{gateway.url}/v2", "token": ADMIN_TOKEN}
    connect = {"auth_type": "admin_token", "auth": auth}
    assert sdk(clients, tmp_path, SDK_READ_ONE, connect, UNKNOWN_ID) == 404


@pytest.mark.parametrize("path", ["/resolve/{}", "/v2/images/{}", "/v2/images/{}/file"])
def test_an_unknown_id_is_absent(gateway: Gateway, path: str) -> None:
    accept = "application/problem+json" if path.startswith("/v2") else "*/*"
    response = gateway.get(path.format(UNKNOWN_ID), {"Accept": accept})
    assert response.status == 404
    assert response.headers.get_content_type() == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["outcome"]) == ("image-absent", "absent")
    assert problem["missing"] == []


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_index_holds_what_an_admin_lists(
    gateway: Gateway, glance_pair: Pair, name: str
) -> None:
    listed = glance_pair.servers[name].ids()
    assert listed == {image.id for image in glance_pair.images[name].values()}
    answers = gateway.post("/resolve", sorted(listed)).json()
    assert all(name in {owner["location"] for owner in a["owners"]} for a in answers)
    # As many claims as images, and each image is claimed: the sets are equal.
    assert claims(gateway, name) == len(listed)


def test_a_sweep_finds_new_images_and_drops_deleted_ones(
    gateway: Gateway, glance_pair: Pair
) -> None:
    server = glance_pair.servers["two"]
    image = server.create_hidden()

    def resolves_with(status: int) -> Callable[[], bool]:
        return lambda: gateway.get(f"/resolve/{image.id}").status == status

    try:
        assert gateway.admin("/locations/two/sweep", "POST").status == 202
        wait_until_blocking(resolves_with(200), SWEEP_TIMEOUT, "the new image in the index")
        assert curl(gateway, f"/v2/images/{image.id}/file") == image.data
    finally:
        server.delete(image.id)
    assert gateway.admin("/locations/two/sweep", "POST").status == 202
    wait_until_blocking(resolves_with(404), SWEEP_TIMEOUT, "the deleted image out of the index")
