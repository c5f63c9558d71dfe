"""The 404 for a cached absence equals that of the handlers, except for id and age."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from resolver.models import format_id
from resolver.standin import StandIn
from tests.gateway.conftest import Gateway, Start
from tests.support.ids import make_ids

FIRST, SECOND = map(format_id, make_ids(2, seed=3))


@pytest.fixture
async def gateway(start: Start) -> AsyncIterator[Gateway]:
    async with StandIn() as server:
        gateway = await start(probe=True, probe_timeout=5)
        await gateway.location("one", url=server.url)
        yield gateway


async def response_to(gateway: Gateway, path: str, **headers: str) -> tuple[int, str, str]:
    response, _ = await gateway.get(path, headers=headers)
    head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    head = re.sub(r"(?m)^(Date|X-Openstack-Request-Id|Content-Length): .*$", r"\1: …", head)
    body = re.sub(r'"source": "\w+", "age": [0-9.]+', '"source": …', await response.text())
    return response.status, head, body


@pytest.mark.parametrize("path", ["/v2/images/%s", "/v1/images/%s/file", "/resolve/%s"])
@pytest.mark.parametrize(
    "accept", ["*/*", "text/html", "application/json", "application/problem+json, */*;q=0.1"]
)
async def test_a_cached_absence_is_answered_like_a_probed_one(
    gateway: Gateway, path: str, accept: str
) -> None:
    headers = {"Accept": accept if "resolve" not in path else "application/json"}
    expected = await response_to(gateway, path % FIRST, **headers)  # the location is probed
    assert expected[0] == 404
    for text in (FIRST, SECOND, SECOND, FIRST):
        status, head, body = await response_to(gateway, path % text, **headers)
        assert (status, head, body.replace(text, FIRST)) == expected
    _, body = await gateway.get(path % FIRST, headers={"Accept": "application/json"})
    assert body["source"] == "cache"
    assert 0 <= body["age"] < 10
