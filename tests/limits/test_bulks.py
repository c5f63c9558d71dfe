"""Many ids at once, from many clients at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resolver.errors import IndexUnavailable
from resolver.resolution import Preferences
from resolver.models import Outcome, format_id
from resolver.resolution.image_resolver import BULK_READS_AT_ONCE
from tests.gateway.conftest import Start
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

RAWS = make_ids(2000)
IDS = [format_id(image_id) for image_id in RAWS]


@pytest.mark.redis
async def test_many_clients_do_not_make_each_other_late(
    start: Start, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start(redis_url=redis_url, client_rate=0, index_timeout=5)
    await gateway.location("one")
    number = (await gateway.services.registry.view("one")).location.number
    await gateway.services.index.claims.claim(number, RAWS)
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
async def test_what_was_known_last_is_said_once_for_many_ids(
    start: Start, own_redis: RedisServer
) -> None:
    """It is the way that everything goes while Redis fails, so it must not cost more."""
    gateway = await start(redis_url=own_redis.url, probe=True, probe_timeout=0.1)
    await gateway.location("one")
    number = (await gateway.services.registry.view("one")).location.number
    await gateway.services.index.claims.claim(number, RAWS)
    for text in IDS[:200]:
        await gateway.get(f"/v2/images/{text}")
    own_redis.kill()
    resolver = gateway.services.resolver

    async def broken() -> bool:
        try:
            await resolver._ask_index(RAWS[:1], keep=False)
        except IndexUnavailable as error:
            resolver.breaker.failed(error)
        return resolver.breaker.why is not None

    await wait_until(broken)
    _, _, forms = await resolver._known_forms(RAWS, Preferences())
    assert [form.outcome for form in forms[:200]] == [Outcome.FOUND] * 200
    assert {form.outcome for form in forms[200:]} == {Outcome.UNKNOWN}
    assert '"source": "stale"' in forms[0].fill(IDS[0])
    assert IDS[0] in forms[0].fill(IDS[0])
    assert len({id(form) for form in forms}) < 100, "those alike share one"
