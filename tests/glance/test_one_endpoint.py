"""One endpoint that carries bytes: real clients, nginx or HAProxy, a gateway, two real Glances.

For a gigabyte through each proxy::

    pytest tests/glance/test_one_endpoint.py -m long -rP
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from tests.glance.clients import Clients
from tests.glance.endpoints import Endpoint, endpoints, own_gateway, servers
from tests.glance.test_clients import UNKNOWN_ID, glance, openstack
from tests.support.carriers import CARRIERS
from tests.support.glance import ADMIN_TOKEN, Answer, call
from tests.support.wait import wait_until_blocking

__all__ = ["endpoints", "own_gateway", "servers"]

pytestmark = [pytest.mark.glance, pytest.mark.balancer]

MEGABYTE = 1 << 20
SMALL, LARGE = 4 * MEGABYTE, 1024 * MEGABYTE
GATEWAY_CPU_SECONDS, GATEWAY_CPU_SHARE = 1.0, 0.03
"""What a gateway may use of a core for the requests, and of the time that they take: it polls and
checks its locations meanwhile."""
CARRIER_MEMORY_KILOBYTES = 200_000
FORMATS = ("--disk-format", "raw", "--container-format", "bare")


@pytest.fixture(params=[kind.name for kind in CARRIERS])
def endpoint(endpoints: dict[str, Endpoint], request: pytest.FixtureRequest) -> Endpoint:
    return endpoints[request.param]


by_one_proxy = pytest.mark.parametrize(
    "endpoint", ["nginx", pytest.param("haproxy", marks=pytest.mark.long)], indirect=True
)
"""For tests that start many clients: to a client the proxies are the same."""


@by_one_proxy
def test_openstack_creates_saves_and_deletes_an_image(
    endpoint: Endpoint, clients: Clients, tmp_path: Path
) -> None:
    source, content = tmp_path / "disk.img", os.urandom(SMALL)
    source.write_bytes(content)

    def run(name: str, *command: str) -> bytes:
        command = tuple(openstack(endpoint.carrier, *command))
        ran = clients.run(tmp_path / name, *command)
        assert ran.status == 0, ran.err
        if ran.file is not None:
            assert ran.file == content
        return ran.out

    made = json.loads(
        run("create", "image", "create", "-f", "json", *FORMATS, "--file", str(source), "disk")
    )
    assert made["status"] == "active"
    assert endpoint.servers["one"].request("GET", f"/v2/images/{made['id']}/file").body == content
    run("save", "image", "save", "--file", "out.bin", "disk")
    run("set", "image", "set", "--name", "renamed", "--tag", "seen", made["id"])
    shown = endpoint.call("GET", f"/v2/images/{made['id']}").json()
    assert (shown["name"], shown["tags"]) == ("renamed", ["seen"])
    run("delete", "image", "delete", "renamed")
    assert endpoint.servers["one"].request("GET", f"/v2/images/{made['id']}").status == 404


@by_one_proxy
def test_glance_creates_stages_imports_and_deletes_an_image(
    endpoint: Endpoint, clients: Clients, tmp_path: Path
) -> None:
    source, content = tmp_path / "disk.img", os.urandom(SMALL)
    source.write_bytes(content)

    def run(name: str, *command: str) -> str:
        ran = clients.run(tmp_path / name, *glance(endpoint.carrier, *command))
        assert ran.status == 0, ran.err
        if ran.file is not None:
            assert ran.file == content
        return ran.out.decode()

    def id_in(table: str) -> str:
        rows = [line.split() for line in table.splitlines()]
        return next(row[3] for row in rows if row[1:3] == ["id", "|"])

    uploaded = id_in(run("create", "image-create", *FORMATS, "--file", str(source)))
    staged = endpoint.record()
    run("stage", "image-stage", "--file", str(source), staged)
    run("import", "image-import", "--import-method", "glance-direct", staged)

    def is_active() -> bool:
        return bool(endpoint.call("GET", f"/v2/images/{staged}").json()["status"] == "active")

    wait_until_blocking(is_active, 60, "the image is imported")
    run("download", "image-download", "--file", "out.bin", staged)
    run("delete", "image-delete", uploaded, staged)
    for image_id in (uploaded, staged):
        assert endpoint.servers["one"].request("GET", f"/v2/images/{image_id}").status == 404


@pytest.mark.parametrize("region", ["one", "two"])
def test_every_write_reaches_the_owner(endpoint: Endpoint, region: str) -> None:
    image_id = endpoint.record(region)
    server = endpoint.servers[region]
    image = f"/v2/images/{image_id}"
    try:
        assert server.request("GET", image).json()["status"] == "queued"
        upload = endpoint.call("PUT", f"{image}/file", b"bytes")
        assert upload.status == 204, upload
        change = [{"op": "replace", "path": "/visibility", "value": "shared"}]
        patched = patch(endpoint, image, change)
        assert patched.status == 200, patched
        for method, rest, body, status in (
            ("PUT", "/tags/a%20b", None, 204),
            ("POST", "/members", {"member": "other"}, 200),
            ("PUT", "/members/other", {"status": "accepted"}, 200),
            ("DELETE", "/members/other", None, 204),
            ("POST", "/actions/deactivate", None, 204),
            ("POST", "/actions/reactivate", None, 204),
        ):
            answer = endpoint.call(method, image + rest, body)
            assert answer.status == status, (rest, answer)
        assert endpoint.call("GET", image).json()["tags"] == ["a b"]
        assert endpoint.call("GET", f"{image}/file").body == b"bytes"
    finally:
        assert endpoint.call("DELETE", image).status == 204
    assert server.request("GET", image).status == 404
    wait_until_blocking(lambda: endpoint.carrier.statuses() >= {"200", "201", "204"})


def patch(endpoint: Endpoint, image: str, change: list[dict[str, str]]) -> Answer:
    headers = {
        "X-Auth-Token": ADMIN_TOKEN,
        "Content-Type": "application/openstack-images-v2.1-json-patch",
    }
    return call(endpoint.carrier.url, "PATCH", image, json.dumps(change).encode(), headers)


def test_errors_are_those_of_the_gateway_and_of_glance(endpoint: Endpoint, tmp_path: Path) -> None:
    source = tmp_path / "disk.img"
    source.write_bytes(os.urandom(SMALL))
    absent = f"{endpoint.carrier.url}/v2/images/{UNKNOWN_ID}"
    for arguments in ((absent,), ("-T", str(source), f"{absent}/file"), ("-X", "DELETE", absent)):
        status, body = endpoint.curl(*arguments)
        assert status == 404
        assert f"No image found with ID {UNKNOWN_ID}".encode() in body
    image_id = endpoint.record()
    image = f"{endpoint.carrier.url}/v2/images/{image_id}"
    try:
        status, body = endpoint.curl(f"{image}/file")
        assert (status, b"no data yet" in body) == (503, True)
        assert endpoint.curl("-T", str(source), f"{image}/file")[0] == 204
        status, body = endpoint.curl("-T", str(source), f"{image}/file")
        assert (status, b"409 Conflict" in body) == (409, True), "Glance's own"
        status, _ = endpoint.curl("-X", "POST", f"{endpoint.carrier.url}/v2/images", "-d", "{")
        assert status == 400, "Glance's own: it is no JSON"
    finally:
        endpoint.call("DELETE", f"/v2/images/{image_id}")


def processor_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_kilobytes(pid: int) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def write_file(path: Path, size: int) -> str:
    """Writes bytes that differ from megabyte to megabyte. Returns their SHA-512."""
    block, digest = os.urandom(MEGABYTE), hashlib.sha512()
    with path.open("wb") as file:
        for number in range(size // MEGABYTE):
            part = number.to_bytes(8) + block[8:]
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=pytest.mark.long)])
def test_the_gateway_does_nothing_while_bytes_are_carried(
    endpoint: Endpoint, size: int, tmp_path: Path
) -> None:
    source, saved = tmp_path / "disk.img", tmp_path / "saved.img"
    digest = write_file(source, size)
    image_id = endpoint.record("two")
    image = f"{endpoint.carrier.url}/v2/images/{image_id}"
    try:
        begun, before = time.monotonic(), processor_seconds(endpoint.gateway.pid)
        status, body = endpoint.curl("-T", str(source), f"{image}/file")
        assert status == 204, body
        uploaded = processor_seconds(endpoint.gateway.pid)
        status, body = endpoint.curl("-o", str(saved), f"{image}/file")
        assert status == 200, body
        downloaded = processor_seconds(endpoint.gateway.pid)
        elapsed = time.monotonic() - begun
        shown = endpoint.call("GET", f"/v2/images/{image_id}").json()
        assert (shown["size"], shown["os_hash_value"]) == (size, digest)
        with saved.open("rb") as file:
            assert hashlib.file_digest(file, "sha512").hexdigest() == digest
    finally:
        endpoint.call("DELETE", f"/v2/images/{image_id}")
    memory = peak_kilobytes(endpoint.carrier.pid)
    used, more = uploaded - before, downloaded - uploaded
    print(f"{endpoint.carrier.name}, {size >> 20} MB: the gateway used {used:.2f} s of a core")
    print(
        f"for the upload, {more:.2f} s for the download, in {elapsed:.0f} s; the proxy {memory} kB"
    )
    assert used + more < GATEWAY_CPU_SECONDS + GATEWAY_CPU_SHARE * elapsed
    assert memory < CARRIER_MEMORY_KILOBYTES
