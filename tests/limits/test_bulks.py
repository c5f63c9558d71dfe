"""Many ids at once, from many clients at once."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.models import Outcome, format_id
from resolver.resolution import Preferences
from resolver.resolution.bulk_resolver import PROBED_AT_ONCE, READS_AT_ONCE
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.turns import check_turns
from tests.support.wait import wait_until

IMAGE_IDS = make_ids(2000)
IDS = [format_id(image_id) for image_id in IMAGE_IDS]


@pytest.mark.redis
async def test_large_requests_read_the_index_a_few_at_a_time(
    start: Start, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start(redis_url=redis_url, client_rate=0, index_timeout=5)
    await gateway.location("one")
    number = (await gateway.services.registry.view("one")).location.number
    await gateway.services.index.claims.claim(number, IMAGE_IDS)
    lookup, under_way, most = gateway.services.index.claims.lookup, 0, 0

    async def counted(ids: Any, **options: Any) -> Any:
        nonlocal under_way, most
        under_way += len(ids) > 1
        most = max(most, under_way)
        try:
            return await lookup(ids, **options)
        finally:
            under_way -= len(ids) > 1

    monkeypatch.setattr(gateway.services.index.claims, "lookup", counted)
    answers = await asyncio.gather(*(gateway.call("POST", "/resolve", json=IDS) for _ in range(50)))
    for response, rows in answers:
        assert response.status == 200
        assert {(row["outcome"], row["source"]) for row in rows} == {("found", "index")}
    assert most == READS_AT_ONCE


@pytest.mark.redis
async def test_stale_answers_for_many_ids_share_their_templates(
    start: Start, own_redis: RedisServer
) -> None:
    """All requests are answered so while Redis fails, so it must be cheap."""
    gateway = await start(redis_url=own_redis.url, probe=True, probe_timeout=0.1)
    await gateway.location("one")
    number = (await gateway.services.registry.view("one")).location.number
    await gateway.services.index.claims.claim(number, IMAGE_IDS)
    for text in IDS[:200]:
        await gateway.get(f"/v2/images/{text}")
    own_redis.kill()
    resolver = gateway.services.resolver

    async def breaker_is_open() -> bool:
        await gateway.get(f"/resolve/{IDS[0]}")
        return resolver.breaker.error is not None

    await wait_until(breaker_is_open)
    templates = await gateway.services.bulk_resolver.resolve_many(IMAGE_IDS[:200], Preferences())
    assert {template.outcome for template in templates} == {Outcome.FOUND}
    assert '"source": "stale"' in templates[0].render(IDS[0])
    assert IDS[0] in templates[0].render(IDS[0])
    assert len({id(template) for template in templates}) < 100, "equal answers share a template"
    templates = await gateway.services.bulk_resolver.resolve_many(IMAGE_IDS[200:], Preferences())
    assert {template.outcome for template in templates} == {Outcome.UNKNOWN}


LONGEST_TURN_SECONDS = 0.05
"""Of processor time. It was 0.2 s and more for each request of 10,000 ids."""


def resolving(
    gateway: Gateway, image_ids: list[bytes], outcome: Outcome
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Resolves these images, all with this outcome."""

    async def resolve() -> None:
        templates = await gateway.services.bulk_resolver.resolve_many(image_ids, Preferences())
        assert {template.outcome for template in templates} == {outcome}

    return resolve


async def at_many_locations(start: Start, redis_url: str) -> Gateway:
    """A gateway whose images are each at some twenty of forty locations, and their bytes known."""
    gateway = await start(redis_url=redis_url, client_rate=0, index_timeout=5)
    picked = random.Random(1)
    for number in range(40):
        name = f"location-{number}"
        location = await gateway.location(name, region=f"region-{number % 3}")
        ids = [image_id for image_id in IMAGE_IDS if picked.random() < 0.5]
        facts = {i: ImageFacts(ImageStatus.ACTIVE, Content(HashKind.OS_HASH, i[:8])) for i in ids}
        await gateway.services.index.claims.claim(location, dict.fromkeys(ids, 0), facts)
    gc.collect()
    gc.freeze()
    return gateway


@pytest.mark.redis
@pytest.mark.parametrize(
    "path", ["/report/conflicts", "/report/missing?region=region-1", "/index/export"]
)
async def test_reports_on_images_at_many_locations_hold_up_nobody(
    start: Start, redis_url: str, path: str
) -> None:
    """A thousand images took 0.2 s."""
    gateway = await at_many_locations(start, redis_url)

    async def read() -> None:
        async with gateway.http.get(path, headers=ADMIN) as response:
            assert response.status == 200
            await response.read()

    await check_turns(LONGEST_TURN_SECONDS, read)


@pytest.mark.redis
async def test_images_at_many_locations_hold_up_nobody(start: Start, redis_url: str) -> None:
    """Two thousand took 0.1 s to read, as long to collect the garbage of, and 70 ms for 500 to be
    written."""
    gateway = await at_many_locations(start, redis_url)
    await check_turns(LONGEST_TURN_SECONDS, resolving(gateway, IMAGE_IDS, Outcome.FOUND))

    async def post() -> None:
        async with gateway.http.post("/resolve", json=IDS) as response:
            assert sum([part.count(b"\n") async for part in response.content.iter_any()]) == len(
                IDS
            )

    await check_turns(LONGEST_TURN_SECONDS, post)


@pytest.mark.redis
async def test_ids_that_nobody_can_be_asked_about_in_time_hold_up_nobody(
    start: Start, redis_url: str
) -> None:
    gateway = await start(redis_url=redis_url, probe=True, probe_timeout=0.1)
    for name in ("one", "two", "three"):
        await gateway.location(name)
    resolve = resolving(gateway, make_ids(10_000), Outcome.UNKNOWN)

    async def resolve_four() -> None:
        await asyncio.gather(*(resolve() for _ in range(4)))

    await check_turns(LONGEST_TURN_SECONDS, resolve_four, attempts=3)


@pytest.mark.redis
async def test_refused_and_remembered_probes_of_many_ids_hold_up_nobody(
    start: Start, redis_url: str
) -> None:
    """Neither waits for anything."""
    gateway = await start(redis_url=redis_url, probe=True, probes_at_once=1)
    for name in ("one", "two", "three"):
        await gateway.location(name, vouches=False)  # so that silence is remembered
    image_ids = make_ids(3_000)

    await check_turns(
        LONGEST_TURN_SECONDS, resolving(gateway, image_ids, Outcome.UNKNOWN), attempts=3
    )


@pytest.mark.redis
async def test_ids_that_share_no_text_hold_up_nobody(start: Start, redis_url: str) -> None:
    gateway = await start(redis_url=redis_url)
    number = await gateway.location("one")
    image_ids = make_ids(10_000)
    upper_case = dict.fromkeys(image_ids, 0xFFFFFFFF)
    await gateway.services.index.claims.claim(number, upper_case)

    await check_turns(
        LONGEST_TURN_SECONDS, resolving(gateway, image_ids, Outcome.FOUND), attempts=3
    )


@pytest.mark.redis
async def test_ids_of_all_requests_together_are_probed_a_few_at_a_time(
    start: Start, redis_url: str
) -> None:
    gateway = await start(redis_url=redis_url, probe=True, probe_timeout=0.5)
    bulk_resolver = gateway.services.bulk_resolver
    most = 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        await gateway.location("one", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        resolving = asyncio.gather(
            *(bulk_resolver.resolve_many(make_ids(100, seed=n), Preferences()) for n in range(5))
        )
        until = time.monotonic() + 0.25  # before the first questions end
        while time.monotonic() < until:
            most = max(most, gateway.services.prober.in_flight)
            await asyncio.sleep(0)
        await resolving
    assert most == PROBED_AT_ONCE
