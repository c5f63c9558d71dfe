"""Many requests for unknown ids: locations get a bounded load, known images are answered."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import format_id
from tests.gateway.conftest import Gateway, Start
from tests.support.clouds import Cloud, ConcurrencyCounter, Hold, cloud_of
from tests.support.faults import Fault
from tests.support.ids import make_ids
from tests.support.wait import wait_until

UNKNOWN = 2_000
SIMULTANEOUS_REQUESTS = 1_000
CLIENTS = 64
"""Clients that ask for unknown ids, each with one request at a time."""
KNOWN = 200
QUIET = 300
"""Requests for known ids before those for unknown ones."""
PER_LOCATION = 16
IN_TOTAL = 24
RESPONSE_SECONDS = 0.005
"""How long a location takes to respond."""
NAMES = ("one", "two")

IDS = [format_id(image_id) for image_id in make_ids(UNKNOWN + KNOWN + 1)]
KNOWN_IDS, ONE_ID, UNKNOWN_IDS = IDS[:KNOWN], IDS[KNOWN], IDS[KNOWN + 1 :]


@pytest.fixture(params=["memory:", pytest.param("redis", marks=pytest.mark.redis)])
async def gateway(request: pytest.FixtureRequest, start: Start) -> Gateway:
    url = request.param
    if url == "redis":
        url = request.getfixturevalue("redis_url")
    return await start(
        redis_url=url,
        probe=True,
        probe_timeout=10,
        index_timeout=5,
        probes_per_location=PER_LOCATION,
        probes_at_once=IN_TOTAL,
        access_log="off",
    )


@pytest.fixture
async def cloud(gateway: Gateway) -> AsyncIterator[Cloud]:
    async with cloud_of(gateway.services) as cloud:
        for name in NAMES:
            await cloud.add(name)
        for text in KNOWN_IDS:
            await cloud.claim("one", text)
        yield cloud


async def delayed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Responds after the delay of a network."""
    await asyncio.sleep(RESPONSE_SECONDS)
    return await handler(request)


def count_concurrency(cloud: Cloud, fault: Fault) -> dict[str, ConcurrencyCounter]:
    counters = {name: ConcurrencyCounter(fault) for name in NAMES}
    for name, counter in counters.items():
        cloud.set_fault(name, counter)
    return counters


async def timed(gateway: Gateway, text: str) -> tuple[float, dict[str, Any]]:
    begun = time.perf_counter()
    _, body = await gateway.get(f"/resolve/{text}")
    return time.perf_counter() - begun, body


async def ask_known_until(
    gateway: Gateway, is_over: Callable[[], bool]
) -> list[tuple[float, dict[str, Any]]]:
    found = []
    while not is_over() or len(found) < KNOWN:
        found.append(await timed(gateway, KNOWN_IDS[len(found) % KNOWN]))
        await asyncio.sleep(0)
    return found


def p99(taken: list[tuple[float, dict[str, Any]]]) -> float:
    times = sorted(seconds for seconds, _ in taken)
    return times[len(times) * 99 // 100]


async def test_many_unknown_ids_keep_the_probe_limits(gateway: Gateway, cloud: Cloud) -> None:
    counters = count_concurrency(cloud, delayed)
    prober = gateway.services.prober
    quiet = [await timed(gateway, KNOWN_IDS[n % KNOWN]) for n in range(QUIET)]
    remaining = iter(UNKNOWN_IDS)
    outcomes: Counter[str] = Counter()
    absent: list[str] = []
    largest = 0

    async def client() -> None:
        nonlocal largest
        for text in remaining:
            _, body = await timed(gateway, text)
            outcomes[body["outcome"]] += 1
            largest = max(largest, prober.in_flight)
            if body["outcome"] == "absent":
                assert body["missing"] == []
                absent.append(text)
            else:
                assert "too many probes" in body["detail"], body["detail"]
                assert body["missing"]

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    known = await ask_known_until(gateway, lambda: all(task.done() for task in clients))
    await asyncio.gather(*clients)
    assert {body["outcome"] for _, body in known} == {"found"}
    assert outcomes.total() == UNKNOWN
    assert set(outcomes) <= {"absent", "unknown"}
    assert outcomes["absent"] > 0
    for name, counter in counters.items():
        assert 1 < counter.maximum <= PER_LOCATION
        # At most one probe for each id; for each absent id both locations were asked.
        assert len(absent) <= cloud.image_requests(name) <= UNKNOWN
    assert largest <= IN_TOTAL
    asked = sum(cloud.image_requests(name) for name in NAMES)
    counts = prober.counts
    assert asked == sum(counts[name, "no"] for name in NAMES), "every probe is counted"
    print(
        f"\n{UNKNOWN} unknown ids: {dict(outcomes)}, {asked} probes, at most "
        f"{max(c.maximum for c in counters.values())}; known p99 {1e3 * p99(quiet):.1f} ms before, "
        f"{1e3 * p99(known):.1f} ms during the load ({p99(known) / p99(quiet):.1f} times)"
    )


async def test_a_thousand_requests_for_one_id_share_one_probe_per_location(
    gateway: Gateway, cloud: Cloud
) -> None:
    hold = Hold()
    counters = count_concurrency(cloud, hold)
    quiet = [await timed(gateway, KNOWN_IDS[n % KNOWN]) for n in range(QUIET)]

    async def all_wait() -> bool:
        response, _ = await gateway.get("/metrics")
        in_flight = re.search(r"requests_in_flight (\d+)", await response.text())
        return in_flight is not None and int(in_flight[1]) > SIMULTANEOUS_REQUESTS

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        unlimited = replace(gateway, http=http)
        requests = [
            asyncio.create_task(timed(unlimited, ONE_ID)) for _ in range(SIMULTANEOUS_REQUESTS)
        ]
        await wait_until(all_wait, 30)
        assert hold.waiting == 2
        known = [await timed(gateway, KNOWN_IDS[n % KNOWN]) for n in range(QUIET)]
        hold.open.set()
        outcomes = Counter([body["outcome"] for _, body in await asyncio.gather(*requests)])
    assert outcomes == {"absent": SIMULTANEOUS_REQUESTS}
    assert {body["outcome"] for _, body in known} == {"found"}
    assert [cloud.image_requests(name) for name in NAMES] == [1, 1]
    assert [counter.maximum for counter in counters.values()] == [1, 1]
    print(
        f"\n{SIMULTANEOUS_REQUESTS} requests for one id: one probe per location; known p99 "
        f"{1e3 * p99(quiet):.1f} ms before, {1e3 * p99(known):.1f} ms during the load"
    )


async def test_a_bulk_request_of_unknown_ids_respects_the_bounds(
    gateway: Gateway, cloud: Cloud
) -> None:
    counters = count_concurrency(cloud, delayed)
    some = UNKNOWN_IDS[:400]
    bodies = await asyncio.gather(
        *(gateway.call("POST", "/resolve", json=some + KNOWN_IDS[:3]) for _ in range(4))
    )
    for _, rows in bodies:
        assert {row["outcome"] for row in rows[-3:]} == {"found"}
        assert {row["outcome"] for row in rows[:-3]} <= {"absent", "unknown"}
    for name, counter in counters.items():
        assert counter.maximum <= PER_LOCATION
        assert cloud.image_requests(name) <= len(some), (
            "one probe for each id, shared by all clients"
        )
