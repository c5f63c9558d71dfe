"""Images whose bytes real Glance servers do not have, or refuse."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.glance.gateway import Gateway
from tests.glance.pair import Pair
from tests.support.wait import wait_until_blocking

pytestmark = pytest.mark.glance


@pytest.fixture
def image_id(glance_pair: Pair) -> Iterator[str]:
    """An image that is queued at both servers."""
    image_id = str(uuid.uuid4())
    for server in glance_pair.servers.values():
        server.create(image_id, queued=True)
    yield image_id
    for server in glance_pair.servers.values():
        server.delete(image_id)


def test_bytes_of_a_queued_image_are_not_redirected_to(
    gateway: Gateway, glance_pair: Pair, image_id: str
) -> None:
    file = f"/v2/images/{image_id}/file"
    for server in glance_pair.servers.values():
        assert server.request("GET", file).status == 204, "which clients take for an empty image"
    answer = gateway.get(file)
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
