"""`GET /status`: 200 whatever is wrong, with what is wrong and what to do."""

from __future__ import annotations

from datetime import datetime

import pytest

from resolver.problems import Problem
from tests.gateway.conftest import Gateway, Start
from tests.support.redis import RedisServer


async def test_without_problems_the_list_is_empty(gateway: Gateway) -> None:
    await gateway.location("one")
    response, body = await gateway.get("/status")
    assert (response.status, body["role"], body["problems"]) == (200, "gateway", [])


async def test_a_problem_has_a_code_a_time_a_text_and_an_action(gateway: Gateway) -> None:
    await gateway.location("one")
    gateway.services.problems.add_source(
        lambda: [Problem(code="x", text="It is wrong.", action="Repair it.", since=1.5)]
    )
    _, body = await gateway.get("/status")
    assert body["problems"] == [
        {
            "code": "x",
            "since": "1970-01-01T00:00:01.500+00:00",
            "text": "It is wrong.",
            "action": "Repair it.",
            "location": None,
            "includes": [],
        }
    ]


async def test_metrics_count_problems_by_code(gateway: Gateway) -> None:
    gateway.services.problems.add_source(
        lambda: [
            Problem(code="x", text="It is wrong.", action="Repair it.", location=name)
            for name in ("one", "two")
        ]
    )
    response, _ = await gateway.get("/metrics")
    assert 'glance_resolver_problems{code="x"} 2.0' in await response.text()


@pytest.mark.redis
async def test_the_status_is_served_without_redis(start: Start, own_redis: RedisServer) -> None:
    own_redis.kill()
    gateway = await start(redis_url=own_redis.url)
    response, body = await gateway.get("/status")
    assert response.status == 200
    (problem,) = body["problems"]
    assert problem["code"] == "index-unavailable"
    assert "Redis did not answer" in problem["text"]
    assert datetime.fromisoformat(problem["since"]).tzinfo is not None
    assert str(own_redis.port) not in str(body), "the log has the address, this page has not"
