"""How many expensive requests a client may make; known images are answered without a limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from resolver.errors import TooManyRequests
from resolver.gateway.clients import MAX_PROXIES, Clients
from resolver.gateway.limits import (
    BURST_SECONDS,
    IDS_PER_TOKEN,
    Limits,
    RequestCharge,
    TokenBuckets,
)
from resolver.models import format_id
from tests.gateway.conftest import Gateway, Start
from tests.support.clouds import Cloud, cloud_of
from tests.support.ids import make_ids

RATE = 2.0
FULL_BUCKET = int(RATE * BURST_SECONDS)
"""Tokens in a full bucket."""

IDS = [format_id(image_id) for image_id in make_ids(400)]
KNOWN, IDS = IDS[0], IDS[1:]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_ten_seconds_of_tokens_and_refills() -> None:
    clock = Clock()
    buckets = TokenBuckets(RATE, clock)
    assert [buckets.take(b"one", 1) for _ in range(FULL_BUCKET)] == [0.0] * FULL_BUCKET
    assert buckets.take(b"one", 1) == pytest.approx(1 / RATE)
    assert buckets.take(b"two", 1) == 0.0, "each client has its own"
    clock.now += 1 / RATE
    assert buckets.take(b"one", 1) == 0.0
    assert buckets.take(b"one", 1) > 0
    clock.now += 3600
    assert [buckets.take(b"one", 1) for _ in range(FULL_BUCKET)] == [0.0] * FULL_BUCKET
    assert buckets.take(b"one", 1) > 0, "no more than a full bucket is saved"


def test_questions_about_one_image_cost_at_most_half_a_bucket() -> None:
    """Else a client could never ask where there are more locations than tokens: a request that asks
    the owners first, and then all others, never finds a full bucket."""
    limits = Limits(RATE, Clients(()))
    limits.buckets = TokenBuckets(RATE, Clock())

    def ask(*questions: int) -> None:
        charge = RequestCharge(limits, lambda: b"one")
        for each in questions:
            charge(each)

    ask(1, 1000)
    ask(1000, 1000)
    with pytest.raises(TooManyRequests) as refused:
        ask(1)
    assert refused.value.headers["Retry-After"] == "1"
    with pytest.raises(TooManyRequests) as refused:
        ask(1000)
    assert refused.value.headers["Retry-After"] == f"{BURST_SECONDS / 2:.0f}"


def test_without_a_limit_questions_cost_nothing() -> None:
    limits = Limits(0, Clients(()))
    charge = RequestCharge(limits, lambda: b"one")
    for _ in range(1000):
        charge(1000)
    assert len(limits.buckets) == 0


def test_a_refused_request_takes_no_tokens_and_gets_the_exact_wait() -> None:
    clock = Clock()
    buckets = TokenBuckets(RATE, clock)
    buckets.take(b"one", FULL_BUCKET)
    wait = buckets.take(b"one", 5)
    assert wait == pytest.approx(5 / RATE)
    clock.now += wait - 0.01
    assert buckets.take(b"one", 5) == pytest.approx(0.01)
    clock.now += 0.01
    assert buckets.take(b"one", 5) == 0.0


def test_a_request_for_more_than_a_full_bucket_takes_a_full_one() -> None:
    clock = Clock()
    buckets = TokenBuckets(RATE, clock)
    assert buckets.take(b"one", 100 * FULL_BUCKET) == 0.0
    assert buckets.take(b"one", 100 * FULL_BUCKET) == pytest.approx(BURST_SECONDS)


def test_a_rate_of_0_means_no_limit() -> None:
    buckets = TokenBuckets(0)
    assert {buckets.take(b"one", 1000) for _ in range(1000)} == {0.0}
    assert len(buckets) == 0


def test_the_table_is_bounded_and_forgets_the_client_seen_longest_ago() -> None:
    buckets = TokenBuckets(RATE, Clock(), max_clients=3)
    for name in (b"a", b"b", b"c"):
        buckets.take(name, FULL_BUCKET - 1)
    buckets.take(b"a", 1)
    buckets.take(b"d", 1)
    assert len(buckets) == 3
    assert buckets.take(b"a", 1) > 0, "it was seen recently"
    assert buckets.take(b"b", FULL_BUCKET) == 0.0, "it was forgotten"
    for number in range(1000):
        buckets.take(bytes([number % 256]), 1)
    assert len(buckets) == 3


def client(peer: str, *forwarded: str) -> bytes:
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    request = make_mocked_request("GET", "/", headers).clone(remote=peer)
    return Limits(1, Clients(("10.0.0.0/8", "fd00::/8"))).client(request)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.7",), "192.0.2.1"),  # not a trusted proxy
        ("10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        (
            "10.0.0.1",
            ("203.0.113.9, 198.51.100.7",),
            "198.51.100.7",
        ),  # the client wrote one
        ("10.0.0.1", ("203.0.113.9", "198.51.100.7"), "198.51.100.7"),  # in two fields
        ("10.0.0.1", ("198.51.100.7, 10.0.0.2",), "198.51.100.7"),  # through two proxies
        ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("unknown",), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.7, junk",), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.7:4711",), "198.51.100.7"),
        ("10.0.0.1", ("[2001:db8::1]:4711",), "2001:db8::1"),
        ("fd00::1", ("2001:db8::1",), "2001:db8::1"),
        ("::ffff:10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("10.0.0.1", ("[2001:db8::1%25eth0]:4711",), "2001:db8::1"),
        ("10.0.0.1", ("::ffff:198.51.100.7",), "198.51.100.7"),
        # More proxies than are read:
        ("10.0.0.1", ("198.51.100.7" + ", 10.0.0.3" * MAX_PROXIES,), "10.0.0.3"),
        ("10.0.0.1", ("198.51.100.7", *["10.0.0.3"] * MAX_PROXIES), "10.0.0.3"),
    ],
)
def test_the_address_of_a_client(peer: str, forwarded: tuple[str, ...], expected: str) -> None:
    assert client(peer, *forwarded) == client(expected)


@pytest.mark.parametrize("form", ["10.{1}.{2}.{0}", "fd00::{0}:{1}:{2}"])
def test_many_proxies_cost_little(form: str) -> None:
    clients = Clients(("10.0.0.0/8", "fd00::/8"))

    def seconds(number: int) -> float:
        # Each field is another one: what was parsed is cached.
        names = (form.format(number, n // 250, n % 250) for n in range(1000))
        headers = CIMultiDict([("X-Forwarded-For", ",".join(names))])
        begun = time.perf_counter()
        clients.address("10.0.0.1", headers)
        return time.perf_counter() - begun

    assert min(map(seconds, range(5))) < 0.002


def test_ipv6_clients_are_identified_by_their_64_prefix() -> None:
    assert client("2001:db8:1:2::1") == client("2001:db8:1:2:ffff::2")
    assert client("2001:db8:1:2::1") != client("2001:db8:1:3::1")


@pytest.fixture
async def limited(start: Start) -> AsyncIterator[tuple[Gateway, Cloud]]:
    """A gateway with a low limit, and a location that has one image."""
    gateway = await start(probe=True, client_rate=RATE, absent_ttl=0)
    async with cloud_of(gateway.services) as cloud:
        await cloud.add("one")
        await cloud.claim("one", KNOWN)
        yield gateway, cloud


async def refused(gateway: Gateway, *paths: str) -> tuple[Any, Any, int]:
    """The first response with 429 to requests for these paths, and how many came before it.

    On a busy machine more than a full bucket is accepted, because it is refilled meanwhile.
    """
    for accepted, path in enumerate(paths):
        response, body = await gateway.get(path)
        if response.status == 429:
            return response, body, accepted
        assert response.status in (200, 404)
    pytest.fail("no request was refused")


async def test_unknown_ids_are_rate_limited_and_known_ones_are_not(
    limited: tuple[Gateway, Cloud],
) -> None:
    gateway, cloud = limited
    response, body, accepted = await refused(gateway, *(f"/v2/images/{text}" for text in IDS))
    assert accepted >= FULL_BUCKET
    assert body["code"] == "too-many-requests"
    assert response.content_type == "application/problem+json"
    assert response.headers["Retry-After"] == "1"
    assert response.headers["X-Openstack-Request-Id"].startswith("req-")
    assert "RESOLVER_CLIENT_RATE" in body["detail"]
    assert cloud.image_requests("one") == accepted, "no location is asked for the refused one"
    for path in (f"/v2/images/{KNOWN}", f"/v1/images/{KNOWN}", f"/resolve/{KNOWN}"):
        for headers in ({}, {"X-Resolver-Region": "x"}, {"X-Resolver-Exclude": "two"}):
            response, _ = await gateway.get(path, headers={} if "resolve" in path else headers)
            assert response.status in (200, 307)
    response, _ = await gateway.get("/metrics")
    assert 'route="/{api}/images/{id}{rest}",status="429"} 1.0' in await response.text()


@pytest.mark.parametrize(
    "path",
    [f"/resolve/{IDS[100]}", f"/resolve/{KNOWN}?fresh=1", f"/resolve/{KNOWN}/explain"],
)
async def test_other_expensive_requests_are_rate_limited(
    limited: tuple[Gateway, Cloud], path: str
) -> None:
    gateway, _ = limited
    _, body, _ = await refused(gateway, *[path] * 10 * FULL_BUCKET)
    assert body["code"] == "too-many-requests"


async def test_a_client_may_retry_after_the_given_time(limited: tuple[Gateway, Cloud]) -> None:
    gateway, _ = limited
    ids = [KNOWN] * 3 * IDS_PER_TOKEN
    status = 200
    while status == 200:
        response, _ = await gateway.call("POST", "/resolve", json=ids)
        status = response.status
    assert status == 429
    seconds = int(response.headers["Retry-After"])
    assert seconds in (1, 2)  # up to three tokens, and rounded up
    await asyncio.sleep(seconds)
    response, _ = await gateway.call("POST", "/resolve", json=ids)
    assert response.status == 200


async def test_a_bulk_request_probes_as_many_ids_as_its_client_may(
    limited: tuple[Gateway, Cloud],
) -> None:
    """The remaining ids are answered without probes."""
    gateway, cloud = limited
    begun = time.monotonic()
    _, rows = await gateway.call("POST", "/resolve", json=[KNOWN, *IDS[:99], KNOWN])
    refilled = math.ceil((time.monotonic() - begun) * RATE)
    outcomes = [row["outcome"] for row in rows]
    assert outcomes[0] == outcomes[-1] == "found"
    assert (
        FULL_BUCKET - 2
        <= outcomes.count("absent")
        == cloud.image_requests("one")
        <= FULL_BUCKET + refilled
    )
    assert outcomes.count("unknown") == 99 - outcomes.count("absent")


async def test_a_miss_costs_each_location_that_is_asked(
    limited: tuple[Gateway, Cloud],
) -> None:
    gateway, cloud = limited
    for name in ("two", "three", "four"):
        await cloud.add(name)
    begun = time.monotonic()
    _, _, accepted = await refused(gateway, *(f"/v2/images/{text}" for text in IDS))
    refilled = math.ceil((time.monotonic() - begun) * RATE)
    assert FULL_BUCKET // 4 <= accepted <= (FULL_BUCKET + refilled) // 4
    assert cloud.image_requests("four") == accepted


async def test_requests_that_share_a_probe_pay_once(
    limited: tuple[Gateway, Cloud],
) -> None:
    gateway, cloud = limited
    begun = time.monotonic()
    requests = [gateway.get(f"/v2/images/{IDS[0]}") for _ in range(5 * FULL_BUCKET)]
    answers = await asyncio.gather(*requests)
    refilled = math.ceil((time.monotonic() - begun) * RATE)
    assert cloud.image_requests("one") <= FULL_BUCKET + refilled
    assert sum(response.status == 404 for response, _ in answers) >= FULL_BUCKET


async def test_trusted_proxies_name_the_client(start: Start) -> None:
    gateway = await start(probe=True, client_rate=RATE, trusted_proxies="127.0.0.1")
    async with cloud_of(gateway.services) as cloud:
        await cloud.add("one")
        ids = iter(IDS)

        async def status(client: str) -> int:
            headers = {"X-Forwarded-For": f"198.51.100.7, {client}"}
            response, _ = await gateway.get(f"/v2/images/{next(ids)}", headers=headers)
            return int(response.status)

        while await status("192.0.2.1") == 404:
            pass
        assert {await status("192.0.2.2") for _ in range(FULL_BUCKET)} == {404}
