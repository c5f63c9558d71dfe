"""Images whose bytes real Glance servers do not have, or refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.glance.gateway import Gateway
from tests.glance.pair import Pair, image_at_both
from tests.support.wait import wait_until_blocking

pytestmark = pytest.mark.glance


@pytest.fixture
def image_id(glance_pair: Pair) -> Iterator[str]:
    """An image that is queued at both servers."""
    with image_at_both(glance_pair, queued=True) as image_id:
        yield image_id


def test_bytes_of_a_queued_image_are_not_redirected_to(
    gateway: Gateway, glance_pair: Pair, image_id: str
) -> None:
    file = f"/v2/images/{image_id}/file"
    for server in glance_pair.servers.values():
        assert server.request("GET", file).status == 204, "which clients take for an empty image"
    answer = gateway.get(file, {"Accept": "application/problem+json"})
    assert (answer.status, answer.json()["code"]) == (503, "image-pending")
    assert "pending at " in answer.json()["detail"]
    assert answer.headers["Retry-After"]
    assert gateway.get(f"/v2/images/{image_id}").status == 307
    for server in glance_pair.servers.values():  # also where the other is preferred
        assert server.request("PUT", file, b"bytes").status == 204
        expected = f"{server.url}{file}"
        wait_until_blocking(lambda at=expected: gateway.get(file).headers.get("Location") == at)  # type: ignore[misc]
        assert server.request("POST", f"/v2/images/{image_id}/actions/deactivate").status == 204
        gateway.get(file, {"X-Resolver-Fresh": "1"})


def test_a_deactivated_image_is_read_by_admins(
    gateway: Gateway, glance_pair: Pair, image_id: str
) -> None:
    file = f"/v2/images/{image_id}/file"
    for server in glance_pair.servers.values():
        assert server.request("PUT", file, b"bytes").status == 204
        assert server.request("POST", f"/v2/images/{image_id}/actions/deactivate").status == 204
    answer = gateway.get(file)
    assert answer.status == 307
    owners = {f"{server.url}{file}": server for server in glance_pair.servers.values()}
    assert owners[answer.headers["Location"]].request("GET", file).body == b"bytes"


def sweep(gateway: Gateway, name: str) -> None:
    def ended() -> str:
        return str(gateway.admin(f"/locations/{name}").json()["sweep"]["ended"])

    before = ended()
    assert gateway.admin(f"/locations/{name}/sweep", "POST").status == 202
    wait_until_blocking(lambda: ended() != before, message=f"a sweep of {name}")


def test_other_bytes_under_one_id_are_a_conflict(
    gateway: Gateway, glance_pair: Pair, image_id: str
) -> None:
    file = f"/v2/images/{image_id}/file"
    for name, server in glance_pair.servers.items():
        assert server.request("PUT", file, f"bytes of {name}".encode()).status == 204
    for name in ("one", "two", "one"):
        sweep(gateway, name)
    assert gateway.get(f"/resolve/{image_id}").json()["conflict"] is True
    show, data = gateway.get(f"/v2/images/{image_id}"), gateway.get(file)
    assert f"{show.headers['Location']}/file" == data.headers["Location"]
    assert show.headers["Link"] is data.headers["Link"] is None
    rows = gateway.admin("/report/conflicts").body.splitlines()
    assert [json.loads(row)["id"] for row in rows] == [image_id]
    assert gateway.get("/index").json()["conflicts"] == 1
    problems = gateway.get("/status").json()["problems"]
    # At the other, too, if it has been swept once more by itself.
    assert "one" in {found["location"] for found in problems if found["code"] == "conflict"}
