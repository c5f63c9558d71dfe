"""Several gateways and an indexer on one Redis give the same answers within a second."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest

from resolver.models import format_id
from resolver.services import Services
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.clouds import Cloud
from tests.support.ids import make_ids
from tests.support.indexing import indexing, swept
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis
ID, OTHER, *MORE = [format_id(image_id) for image_id in make_ids(10)]
SECOND = 1.0


class Deployment(NamedTuple):
    """Two gateways, and an indexer that sweeps on request."""

    first: Gateway
    second: Gateway
    indexer: Services
    cloud: Cloud
    """Locations ``a`` and ``b``, both swept; ``a`` has `ID`."""


@pytest.fixture
async def deployment(start: Start, redis_url: str) -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"redis_url": redis_url, "index_timeout": 5, "index_bits": 8}
        indexer = await stack.enter_async_context(indexing(redis_url))
        first, second = [await start(**settings) for _ in range(2)]
        cloud = Cloud(first.services, stack)
        for name in ("a", "b"):
            server = await cloud.add(name, fields={"priority": 1 if name == "a" else 2})
            server.fill(20, seed=ord(name))
            if name == "a":
                server.add(id=ID)
            await swept(indexer, name)
        yield Deployment(first, second, indexer, cloud)


async def outcome_and_owners(gateway: Gateway, text: str) -> tuple[str, list[str]]:
    _, body = await gateway.get(f"/resolve/{text}")
    return body["outcome"], [owner["location"] for owner in body["owners"]]


async def wait_until_cached(gateway: Gateway, text: str) -> None:
    """Asks until the gateway answers from its cache."""

    async def cached() -> bool:
        _, body = await gateway.get(f"/resolve/{text}")
        return bool(body["source"] == "cache")

    await wait_until(cached, message="the answer is cached")


async def wait_for_outcome(gateway: Gateway, text: str, outcome: str, *names: str) -> None:
    """Waits for this answer for at most a second."""

    async def is_given() -> bool:
        return await outcome_and_owners(gateway, text) == (outcome, list(names))

    await wait_until(is_given, SECOND, f"{text} is {outcome} {names}")


async def test_a_cached_answer_equals_the_answer_of_the_index(deployment: Deployment) -> None:
    await wait_for_outcome(deployment.second, ID, "found", "a")
    await wait_until_cached(deployment.second, ID)
    await wait_for_outcome(deployment.second, ID, "found", "a")


async def test_a_manual_claim_reaches_another_gateway_within_a_second(
    deployment: Deployment,
) -> None:
    await wait_until_cached(deployment.second, ID)
    await deployment.first.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    await wait_for_outcome(deployment.second, ID, "found", "a", "b")
    await deployment.first.call("PUT", f"/locations/b/images/{OTHER}", headers=ADMIN)
    await wait_for_outcome(deployment.second, OTHER, "found", "b")


async def test_a_manual_release_reaches_another_gateway_within_a_second(
    deployment: Deployment,
) -> None:
    await wait_until_cached(deployment.second, ID)
    await deployment.first.call("DELETE", f"/locations/a/images/{ID}", headers=ADMIN)
    await wait_for_outcome(deployment.second, ID, "absent")


async def test_changes_found_by_sweeps_reach_another_gateway(deployment: Deployment) -> None:
    await wait_until_cached(deployment.second, ID)
    servers = deployment.cloud.servers
    servers["b"].add(id=ID)
    record = (await deployment.indexer.index.records.load()).records["b"]
    await deployment.first.call("POST", "/locations/b/sweep", headers=ADMIN)
    await swept(deployment.indexer, "b", since=record.status.sweep.ended)
    await wait_for_outcome(deployment.second, ID, "found", "a", "b")
    await wait_until_cached(deployment.second, ID)
    servers["a"].delete(ID)
    record = (await deployment.indexer.index.records.load()).records["a"]
    await deployment.first.call("POST", "/locations/a/sweep", headers=ADMIN)
    await swept(deployment.indexer, "a", since=record.status.sweep.ended)
    await wait_for_outcome(deployment.second, ID, "found", "b")


async def test_a_removed_location_is_absent_at_another_gateway_within_a_second(
    deployment: Deployment,
) -> None:
    await wait_until_cached(deployment.second, ID)
    await deployment.first.call("DELETE", "/locations/a", headers=ADMIN)
    await wait_for_outcome(deployment.second, ID, "absent")


async def test_a_location_with_a_new_url_loses_its_claims_within_a_second(
    deployment: Deployment,
) -> None:
    await wait_until_cached(deployment.second, ID)
    url = deployment.cloud.servers["b"].url
    await deployment.first.call("PATCH", "/locations/a", headers=ADMIN, json={"url": url})

    async def gone() -> bool:
        return (await outcome_and_owners(deployment.second, ID))[1] == []

    await wait_until(gone, SECOND)


async def test_changes_of_state_and_priority_reach_another_gateway(deployment: Deployment) -> None:
    await deployment.first.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    await wait_for_outcome(deployment.second, ID, "found", "a", "b")
    await wait_until_cached(deployment.second, ID)
    for fields, names in (
        ({"state": "draining"}, ["b", "a"]),
        ({"state": "maintenance", "reason": "disks"}, ["b"]),
        ({"state": "active", "priority": 9}, ["b", "a"]),
        ({"priority": 1}, ["a", "b"]),
    ):
        await deployment.first.call("PATCH", "/locations/a", headers=ADMIN, json=fields)
        await wait_for_outcome(deployment.second, ID, "found", *names)
        await wait_until_cached(deployment.second, ID)
        assert await outcome_and_owners(deployment.second, ID) == ("found", names)


async def test_a_gateway_applies_its_own_changes_at_once(deployment: Deployment) -> None:
    for gateway in (deployment.first, deployment.second):
        await wait_until_cached(gateway, ID)
    await deployment.first.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    assert await outcome_and_owners(deployment.first, ID) == ("found", ["a", "b"])
    await deployment.first.call("PATCH", "/locations/a", headers=ADMIN, json={"state": "draining"})
    assert await outcome_and_owners(deployment.first, ID) == ("found", ["b", "a"])
    await deployment.first.call("DELETE", "/locations/b", headers=ADMIN)
    assert await outcome_and_owners(deployment.first, ID) == ("found", ["a"])


async def test_after_a_flush_stale_owners_are_offered_until_an_index_exists(
    deployment: Deployment, redis_server: RedisServer
) -> None:
    await wait_until_cached(deployment.second, ID)
    redis_server.flush()

    async def is_stale() -> bool:
        _, body = await deployment.second.get(f"/resolve/{ID}")
        assert body["outcome"] == "found"
        return bool(body["source"] == "stale")

    await wait_until(is_stale)  # from the cache until Redis has announced the loss
    await deployment.first.services.index.create_if_missing()
    await wait_for_outcome(deployment.second, ID, "unknown")


async def test_redirects_follow_changes_within_a_second(deployment: Deployment) -> None:
    await wait_until_cached(deployment.second, ID)
    await deployment.first.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    await deployment.first.call("DELETE", "/locations/a", headers=ADMIN)
    url = f"{deployment.cloud.servers['b'].url}/v2/images/{ID}"

    async def is_redirected() -> bool:
        response, _ = await deployment.second.get(f"/v2/images/{ID}")
        return bool(response.headers.get("Location") == url)

    await wait_until(is_redirected, SECOND)


async def test_no_answer_shows_a_state_that_ended_over_a_second_ago(
    deployment: Deployment,
) -> None:
    """Both gateways are asked all the time while claims are added and removed."""
    one, both = ["a"], ["a", "b"]
    now = asyncio.get_running_loop().time
    ended = {tuple(one): math.inf}
    """When each state ended; a state that a change is about to make has not ended."""
    stop = False
    wrong: list[object] = []

    async def read(gateway: Gateway) -> None:
        while not stop:
            begun = now()
            _, names = await outcome_and_owners(gateway, ID)
            if ended.get(tuple(names), -math.inf) < begun - SECOND:
                wrong.append((begun, names, dict(ended)))
            await asyncio.sleep(0.005)

    async def change(gateway: Gateway, method: str, before: list[str], after: list[str]) -> None:
        ended[tuple(after)] = math.inf
        await gateway.call(method, f"/locations/b/images/{ID}", headers=ADMIN)
        ended[tuple(before)] = now()
        await asyncio.sleep(1.3 * SECOND)

    readers = [
        asyncio.create_task(read(gateway)) for gateway in (deployment.first, deployment.second)
    ]
    for _ in range(2):
        await change(deployment.first, "PUT", one, both)
        await change(deployment.second, "DELETE", both, one)
    stop = True
    await asyncio.gather(*readers)
    assert wrong == []
