"""Many ids at once, from many clients at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resolver.models import Outcome, format_id
from resolver.resolution import Preferences
from resolver.resolution.image_resolver import BULK_READS_AT_ONCE
from tests.gateway.conftest import Start
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
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
    assert most == BULK_READS_AT_ONCE


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
    templates = await resolver.resolve_many(IMAGE_IDS[:200], Preferences())
    assert {template.outcome for template in templates} == {Outcome.FOUND}
    assert '"source": "stale"' in templates[0].render(IDS[0])
    assert IDS[0] in templates[0].render(IDS[0])
    assert len({id(template) for template in templates}) < 100, "equal answers share a template"
    templates = await resolver.resolve_many(IMAGE_IDS[200:], Preferences())
    assert {template.outcome for template in templates} == {Outcome.UNKNOWN}
