"""A request waits for the index no longer than RESOLVER_INDEX_TIMEOUT in all."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.gateway.conftest import Gateway, Start
from tests.support.clouds import Cloud
from tests.support.redis import RedisServer

DEADLINE = 0.6
KNOWN = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
UNKNOWN = "0a1b2c3d-4e5f-4a6b-8c7d-%012d"
WAYS = [
    f"/v2/images/{UNKNOWN}",  # through the door
    f"/v2/images/{UNKNOWN}?x=1",  # past it
    f"/resolve/{UNKNOWN}",
    f"/resolve/{UNKNOWN}?fresh=1",
    f"/resolve/{UNKNOWN}/explain",
]


async def timed(gateway: Gateway, path: str) -> tuple[float, int]:
    begun = time.monotonic()
    response, _ = await gateway.get(path)
    return time.monotonic() - begun, response.status


@pytest.mark.redis
@pytest.mark.parametrize("path", WAYS)
async def test_when_redis_hangs_an_unknown_id_waits_for_it_once(
    start: Start, own_redis: RedisServer, path: str
) -> None:
    async with AsyncExitStack() as stack:
        gateway = await start(redis_url=own_redis.url, probe=True, index_timeout=DEADLINE)
        cloud = Cloud(gateway.services, stack)
        await cloud.add("one")
        await cloud.claim("one", KNOWN)
        assert (await timed(gateway, f"/v2/images/{KNOWN}"))[1] == 307
        assert (await timed(gateway, path % 0))[1] in (200, 404)
        own_redis.pause()
        try:
            taken, status = await timed(gateway, path % 1)
        finally:
            own_redis.go_on()
        assert DEADLINE * 0.9 < taken < DEADLINE * 1.5
        assert status == (200 if "explain" in path else 503), "absent is not said without Redis"


async def test_what_the_door_was_told_is_not_asked_for_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow answer from the index would make two slow ones."""
    await gateway.location("one")
    lookup, asked = gateway.services.index.claims.lookup, []

    async def counted(ids: Any, **options: Any) -> Any:
        asked.extend(ids)
        return await lookup(ids, **options)

    monkeypatch.setattr(gateway.services.index.claims, "lookup", counted)
    for number in range(3):
        assert (await timed(gateway, f"/v2/images/{UNKNOWN}" % number))[1] == 404
        assert len(asked) == number + 1


@pytest.mark.parametrize("path", WAYS)
async def test_an_index_that_takes_questions_and_never_answers_is_waited_for_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """As where the connection to Redis has to be made anew, and nobody takes it."""
    gateway = await start(index_timeout=DEADLINE)
    await gateway.location("one")

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(gateway.services.index.claims, "lookup", never)
    taken, status = await timed(gateway, path % 0)
    assert DEADLINE * 0.9 < taken < DEADLINE * 1.5
    assert status == 503
