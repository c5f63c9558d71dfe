"""Several gateways and an indexer on one Redis: all say the same within a second."""

from __future__ import annotations

import asyncio
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


class Three(NamedTuple):
    """Two gateways, and an indexer that sweeps when it is asked to."""

    one: Gateway
    two: Gateway
    indexer: Services
    cloud: Cloud
    """Locations ``a`` and ``b``, both swept; ``a`` has `ID`."""


@pytest.fixture
async def three(start: Start, redis_url: str) -> AsyncIterator[Three]:
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"redis_url": redis_url, "index_timeout": 5, "index_bits": 8}
        indexer = await stack.enter_async_context(indexing(redis_url))
        one, two = [await start(**settings) for _ in range(2)]
        cloud = Cloud(one.services, stack)
        for name in ("a", "b"):
            server = await cloud.add(name, fields={"priority": 1 if name == "a" else 2})
            server.fill(20, seed=ord(name))
            if name == "a":
                server.add(id=ID)
            await swept(indexer, name)
        yield Three(one, two, indexer, cloud)


async def said(gateway: Gateway, text: str) -> tuple[str, list[str]]:
    _, body = await gateway.get(f"/resolve/{text}")
    return body["outcome"], [owner["location"] for owner in body["owners"]]


async def kept(gateway: Gateway, text: str) -> None:
    """Asks until the answer comes out of the gateway's own memory."""

    async def cached() -> bool:
        _, body = await gateway.get(f"/resolve/{text}")
        return bool(body["source"] == "cache")

    await wait_until(cached, message="the answer is kept")


async def says(gateway: Gateway, text: str, outcome: str, *names: str) -> None:
    """The gateway comes to say so within a second."""

    async def so() -> bool:
        return await said(gateway, text) == (outcome, list(names))

    await wait_until(so, SECOND, f"{text} is {outcome} {names}")


async def test_a_cached_answer_equals_the_answer_of_the_index(three: Three) -> None:
    await says(three.two, ID, "found", "a")
    await kept(three.two, ID)
    await says(three.two, ID, "found", "a")


async def test_a_manual_claim_reaches_another_gateway_within_a_second(three: Three) -> None:
    await kept(three.two, ID)
    await three.one.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    await says(three.two, ID, "found", "a", "b")
    await three.one.call("PUT", f"/locations/b/images/{OTHER}", headers=ADMIN)
    await says(three.two, OTHER, "found", "b")


async def test_a_manual_release_reaches_another_gateway_within_a_second(three: Three) -> None:
    await kept(three.two, ID)
    await three.one.call("DELETE", f"/locations/a/images/{ID}", headers=ADMIN)
    await says(three.two, ID, "absent")


async def test_changes_found_by_sweeps_reach_another_gateway(three: Three) -> None:
    await kept(three.two, ID)
    servers = three.cloud.servers
    servers["b"].add(id=ID)
    record = (await three.indexer.index.records.load()).records["b"]
    await three.one.call("POST", "/locations/b/sweep", headers=ADMIN)
    await swept(three.indexer, "b", since=record.status.sweep.ended)
    await says(three.two, ID, "found", "a", "b")
    await kept(three.two, ID)
    servers["a"].delete(ID)
    record = (await three.indexer.index.records.load()).records["a"]
    await three.one.call("POST", "/locations/a/sweep", headers=ADMIN)
    await swept(three.indexer, "a", since=record.status.sweep.ended)
    await says(three.two, ID, "found", "b")


async def test_a_removed_location_is_absent_at_another_gateway_within_a_second(
    three: Three,
) -> None:
    await kept(three.two, ID)
    await three.one.call("DELETE", "/locations/a", headers=ADMIN)
    await says(three.two, ID, "absent")


async def test_a_location_with_a_new_url_loses_its_claims_within_a_second(three: Three) -> None:
    await kept(three.two, ID)
    url = three.cloud.servers["b"].url
    await three.one.call("PATCH", "/locations/a", headers=ADMIN, json={"url": url})

    async def gone() -> bool:
        return (await said(three.two, ID))[1] == []

    await wait_until(gone, SECOND)


async def test_changes_of_state_and_priority_reach_another_gateway(three: Three) -> None:
    await three.one.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    await says(three.two, ID, "found", "a", "b")
    await kept(three.two, ID)
    for fields, names in (
        ({"state": "draining"}, ["b", "a"]),
        ({"state": "maintenance", "reason": "disks"}, ["b"]),
        ({"state": "active", "priority": 9}, ["b", "a"]),
        ({"priority": 1}, ["a", "b"]),
    ):
        await three.one.call("PATCH", "/locations/a", headers=ADMIN, json=fields)
        await says(three.two, ID, "found", *names)
        await kept(three.two, ID)
        assert await said(three.two, ID) == ("found", names)


async def test_a_gateway_applies_its_own_changes_at_once(three: Three) -> None:
    for gateway in (three.one, three.two):
        await kept(gateway, ID)
    await three.one.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    assert await said(three.one, ID) == ("found", ["a", "b"])
    await three.one.call("PATCH", "/locations/a", headers=ADMIN, json={"state": "draining"})
    assert await said(three.one, ID) == ("found", ["b", "a"])
    await three.one.call("DELETE", "/locations/b", headers=ADMIN)
    assert await said(three.one, ID) == ("found", ["a"])


async def test_after_a_flush_stale_owners_are_offered_until_an_index_exists(
    three: Three, redis_server: RedisServer
) -> None:
    await kept(three.two, ID)
    redis_server.flush()
    _, body = await three.two.get(f"/resolve/{ID}")
    assert (body["outcome"], body["source"]) == ("found", "stale")
    await three.one.services.index.create_if_missing()
    await says(three.two, ID, "unknown")


async def test_redirects_follow_changes_within_a_second(three: Three) -> None:
    await kept(three.two, ID)
    await three.one.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
    await three.one.call("DELETE", "/locations/a", headers=ADMIN)
    url = f"{three.cloud.servers['b'].url}/v2/images/{ID}"

    async def there() -> bool:
        response, _ = await three.two.get(f"/v2/images/{ID}")
        return bool(response.headers.get("Location") == url)

    await wait_until(there, SECOND)


async def test_no_answer_shows_a_state_that_ended_over_a_second_ago(
    three: Three,
) -> None:
    """Both gateways are read without a pause while owners come and go."""
    truth: list[tuple[float, frozenset[str]]] = []
    now = asyncio.get_running_loop().time
    stop = False
    wrong: list[object] = []

    def note(*names: str) -> None:
        truth.append((now(), frozenset(names)))

    async def read(gateway: Gateway) -> None:
        while not stop:
            begun = now()
            _, names = await said(gateway, ID)
            lately = {one for at, one in truth if at > begun - SECOND}
            before = [one for at, one in truth if at <= begun - SECOND][-1:]
            if frozenset(names) not in {*lately, *before}:
                wrong.append((begun, names, truth[-3:]))

    note("a")
    readers = [asyncio.create_task(read(gateway)) for gateway in (three.one, three.two)]
    for _ in range(4):
        await three.one.call("PUT", f"/locations/b/images/{ID}", headers=ADMIN)
        note("a", "b")
        await asyncio.sleep(0.3)
        await three.two.call("DELETE", f"/locations/b/images/{ID}", headers=ADMIN)
        note("a")
        await asyncio.sleep(0.3)
    stop = True
    await asyncio.gather(*readers)
    assert wrong == []
