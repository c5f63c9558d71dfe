"""A request waits for the index no longer than RESOLVER_INDEX_TIMEOUT in all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.conftest import Gateway, Start
from tests.support.clock import Stopwatch
from tests.support.clouds import cloud_of
from tests.support.redis import RedisServer

DEADLINE = 0.6
KNOWN = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
UNKNOWN = "0a1b2c3d-4e5f-4a6b-8c7d-%012d"
WAYS = [
    f"/v2/images/{UNKNOWN}",  # on the fast path
    f"/v2/images/{UNKNOWN}?x=1",  # not on the fast path
    f"/resolve/{UNKNOWN}",
    f"/resolve/{UNKNOWN}?fresh=1",
    f"/resolve/{UNKNOWN}/explain",
]


async def timed_get(gateway: Gateway, path: str) -> tuple[Stopwatch, int]:
    watch = Stopwatch()
    response, _ = await gateway.get(path)
    return watch, response.status


def check_waited_once(watch: Stopwatch) -> None:
    """A request waited for one deadline, and not for two."""
    assert watch.elapsed > DEADLINE * 0.9
    assert watch.own_seconds < DEADLINE * 1.9  # twice would be two waits


@pytest.mark.redis
@pytest.mark.parametrize("path", WAYS)
async def test_when_redis_hangs_an_unknown_id_waits_for_it_once(
    start: Start, own_redis: RedisServer, path: str
) -> None:
    gateway = await start(redis_url=own_redis.url, probe=True, index_timeout=DEADLINE)
    async with cloud_of(gateway.services) as cloud:
        await cloud.add("one")
        await cloud.claim("one", KNOWN)
        assert (await timed_get(gateway, f"/v2/images/{KNOWN}"))[1] == 307
        assert (await timed_get(gateway, path % 0))[1] in (200, 404)
        own_redis.pause()
        try:
            watch, status = await timed_get(gateway, path % 1)
        finally:
            own_redis.resume()
        check_waited_once(watch)
        assert status == (200 if "explain" in path else 503), "without Redis no image is absent"


async def test_the_lookup_of_the_fast_path_is_not_repeated(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second lookup in a slow index would double the time of the request."""
    await gateway.location("one")
    lookup, looked_up = gateway.services.index.claims.lookup, []

    async def counted(ids: Any, **options: Any) -> Any:
        looked_up.extend(ids)
        return await lookup(ids, **options)

    monkeypatch.setattr(gateway.services.index.claims, "lookup", counted)
    for number in range(3):
        assert (await timed_get(gateway, f"/v2/images/{UNKNOWN}" % number))[1] == 404
        assert len(looked_up) == number + 1


@pytest.mark.parametrize("path", WAYS)
async def test_a_request_waits_once_for_an_index_that_never_answers(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """As during a reconnection to Redis that nothing accepts."""
    gateway = await start(index_timeout=DEADLINE)
    await gateway.location("one")

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(gateway.services.index.claims, "lookup", never)
    watch, status = await timed_get(gateway, path % 0)
    check_waited_once(watch)
    assert status == 503


@pytest.mark.redis
@pytest.mark.parametrize("path", ["/", "/versions", "/v2/schemas/image"])
async def test_version_documents_and_health_are_answered_while_redis_hangs(
    start: Start, own_redis: RedisServer, path: str
) -> None:
    """Else a client cannot even begin to ask for images that are known."""
    gateway = await start(redis_url=own_redis.url, index_timeout=DEADLINE)
    await gateway.location("one")
    expected = (await timed_get(gateway, path))[1]
    assert expected in (200, 300, 307)
    own_redis.pause()
    try:
        for _ in range(3):
            assert (await timed_get(gateway, path))[1] == expected
    finally:
        own_redis.resume()
