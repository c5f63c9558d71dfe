"""An image that is absent: what users see through the gateway is what Glance itself shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.glance.clients import Clients, Ran
from tests.glance.gateway import Gateway
from tests.glance.pair import Pair
from tests.support.glance import ADMIN_TOKEN, Answer, call

pytestmark = pytest.mark.glance

UNKNOWN_ID = "6f0d5c1a-0000-4000-8000-00000000dead"
PATCH_TYPE = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
ACCEPTS = {"X-Auth-Token": ADMIN_TOKEN, "Accept": "*/*"}


def essence(answer: Answer) -> tuple[int, str | None, str]:
    return answer.status, answer.headers["Content-Type"], answer.body.decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v2/images/{UNKNOWN_ID}"),
        ("GET", f"/v2/images/{UNKNOWN_ID}/file"),
        ("GET", "/v2/images/debian-12"),
    ],
)
def test_the_error_equals_that_of_glance(
    gateway: Gateway, glance_pair: Pair, method: str, path: str
) -> None:
    glance = call(glance_pair.servers["one"].url, method, path, None, ACCEPTS)
    assert glance.status == 404
    assert essence(call(gateway.url, method, path, None, ACCEPTS)) == essence(glance)


@pytest.mark.parametrize(
    ("method", "rest", "body"),
    [
        ("DELETE", "", None),
        ("PATCH", "", [{"op": "add", "path": "/x", "value": "y"}]),
        ("PUT", "/tags/x", None),
        ("POST", "/actions/deactivate", None),
    ],
)
def test_writes_get_the_status_and_form_of_glance(
    gateway: Gateway, glance_pair: Pair, method: str, rest: str, body: object
) -> None:
    path = f"/v2/images/{UNKNOWN_ID}{rest}"
    headers = ACCEPTS | (PATCH_TYPE if body else {})
    glance = call(glance_pair.servers["one"].url, method, path, body, headers)
    ours = call(gateway.url, method, path, body, headers)
    assert essence(ours)[:2] == essence(glance)[:2]
    assert ours.status == 404


def ran_with(clients: Clients, directory: Path, url: str, *command: str) -> Ran:
    where = ["--os-image-url", url, "--os-auth-token", ADMIN_TOKEN]
    return clients.run(directory, "glance", *where, *command)


@pytest.mark.parametrize("command", ["image-show", "image-delete"])
def test_glanceclient_prints_what_it_prints_for_glance(
    gateway: Gateway,
    glance_pair: Pair,
    clients: Clients,
    tmp_path: Path,
    command: str,
) -> None:
    urls = {"glance": glance_pair.servers["one"].url, "gateway": gateway.url}
    ran = {
        name: ran_with(clients, tmp_path / name, url, command, UNKNOWN_ID)
        for name, url in urls.items()
    }
    assert (ran["gateway"].status, ran["gateway"].err) == (ran["glance"].status, ran["glance"].err)
    assert UNKNOWN_ID in ran["gateway"].err


def test_a_refused_write_says_in_every_client_where_to_send_it(
    gateway: Gateway, glance_pair: Pair, clients: Clients, tmp_path: Path
) -> None:
    image = glance_pair.images["one"]["private"]
    url = f"{glance_pair.servers['one'].url}/v2/images/{image.id}"
    expected = f"This gateway redirects reads only: send PATCH to {url}, or choose its region "
    arguments = ("image-update", "--property", "a=b", image.id)
    assert expected in ran_with(clients, tmp_path / "glance", gateway.url, *arguments).err
    where = ["--os-auth-type", "admin_token", "--os-endpoint", f"{gateway.url}/v2"]
    where += ["--os-token", ADMIN_TOKEN, "image", "set", "--property", "a=b", image.id]
    ran = clients.run(tmp_path / "openstack", "openstack", *where)
    assert ran.status == 1
    assert expected in ran.err


SDK_ABSENT = """
import json, sys, openstack
arguments, image_id = json.loads(sys.argv[1])
cloud = openstack.connect(**arguments)
print(json.dumps([
    cloud.image.find_image(image_id),
    cloud.get_image(image_id),
    cloud.delete_image(image_id),
    cloud.image.delete_image(image_id),
    cloud.image.find_image("no-such-name"),
]))
"""


def test_openstacksdk_finds_none_and_deletes_nothing(
    gateway: Gateway, glance_pair: Pair, clients: Clients, tmp_path: Path
) -> None:
    for name, url in {"glance": glance_pair.servers["one"].url, "gateway": gateway.url}.items():
        auth = {"endpoint": f"{url}/v2", "token": ADMIN_TOKEN}
        arguments = json.dumps([{"auth_type": "admin_token", "auth": auth}, UNKNOWN_ID])
        ran = clients.run(tmp_path / name, "python", "-c", SDK_ABSENT, arguments)
        assert ran.status == 0, (name, ran.err)
        assert json.loads(ran.out) == [None, None, False, None, None], name


def test_openstackclient_prints_what_it_prints_for_glance(
    gateway: Gateway, glance_pair: Pair, clients: Clients, tmp_path: Path
) -> None:
    ran = {}
    for name, url in {"glance": glance_pair.servers["one"].url, "gateway": gateway.url}.items():
        where = ["--os-auth-type", "admin_token", "--os-endpoint", f"{url}/v2"]
        where += ["--os-token", ADMIN_TOKEN, "image", "show", UNKNOWN_ID]
        ran[name] = clients.run(tmp_path / name, "openstack", *where)
    assert (ran["gateway"].status, ran["gateway"].err) == (ran["glance"].status, ran["glance"].err)
    assert ran["gateway"].err == f"No Image found for {UNKNOWN_ID}\n"
